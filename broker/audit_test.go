package broker_test

import (
	"testing"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/store"
)

func TestAuditIsForgotten(t *testing.T) {
	f := brokertest.New(t, func(o *broker.Options) { o.AuditKeep = time.Hour })
	now := time.Now()
	for _, at := range []time.Time{now.Add(-3 * time.Hour), now.Add(-2 * time.Hour), now.Add(-time.Minute)} {
		if err := f.Broker.Record(ctx, store.AuditRecord{Time: at}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Broker.Forget(ctx); err != nil {
		t.Fatal(err)
	}
	left, err := f.Broker.Audit(ctx, store.AuditQuery{})
	if err != nil || len(left) != 1 || left[0].Seq != 3 {
		t.Errorf("%+v, %v", left, err)
	}
}

func FuzzBoundIdentity(f *testing.F) {
	f.Add([]byte(`{"user_id":"x","n":1e400}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		bounded, err := broker.BoundIdentity(text)
		if err == nil && len(bounded) > 4<<10 {
			t.Errorf("%d bytes", len(bounded))
		}
	})
}
