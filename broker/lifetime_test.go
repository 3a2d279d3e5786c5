package broker_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/store"
)

func TestRotate(t *testing.T) {
	f := brokertest.New(t, nil)
	groups := f.Pool.Warm(t, 1)
	provision(t, f, "a")
	f.Pool.Warm(t, 1)
	provision(t, f, "z")
	old := bindRequest("a", "old")
	old.Parameters, old.AppGUID = json.RawMessage(`{"readonly":true}`), "app"
	was, err := f.Broker.Bind(ctx, old)
	if err != nil {
		t.Fatal(err)
	}
	rotate := func(instance, id, predecessor string) (broker.BindResult, error) {
		return f.Broker.Bind(ctx, broker.BindRequest{InstanceID: instance, BindingID: id, Predecessor: predecessor})
	}
	r, err := rotate("a", "new", "old")
	if err != nil || !r.Created || string(r.Parameters) != `{"readonly":true}` {
		t.Fatalf("rotation: %+v, %v", r, err)
	}
	one, two := decodeCredentials(t, was), decodeCredentials(t, r)
	logins := f.Pool.Logins(groups[0])
	if one == two || logins[one.Username] != one.Password || logins[two.Username] != two.Password {
		t.Error("predecessor and successor must both be valid, and be different")
	}
	if row, _ := getBinding(t, f, "new"); row.AppGUID != "app" || row.Predecessor != "old" {
		t.Errorf("successor is %+v", row)
	}
	for name, args := range map[string][3]string{
		"absent": {"a", "x", "nothing"}, "of another instance": {"z", "x", "old"}, "itself": {"a", "x", "x"},
	} {
		if _, err := rotate(args[0], args[1], args[2]); err == nil {
			t.Errorf("a predecessor that is %s is accepted", name)
		} else {
			wantCode(t, err, broker.Invalid)
		}
	}
	if _, err := rotate("nowhere", "x", "old"); err == nil {
		t.Error("an absent instance is accepted")
	}
	wantCode(t, unbind(ctx, f, unbindRequest("a", "old")), "")
	if again, err := rotate("a", "new", "old"); err != nil || again.Created || decodeCredentials(t, again) != two {
		t.Errorf("the same rotation after the predecessor's end: %+v, %v", again, err)
	}
	if logins := f.Pool.Logins(groups[0]); logins[one.Username] == one.Password || logins[two.Username] != two.Password {
		t.Error("the end of the predecessor must end its login alone")
	}
}

func TestExpiry(t *testing.T) {
	f := brokertest.New(t, nil)
	groups := f.Pool.Warm(t, 1)
	provision(t, f, "a")
	r := bindRequest("a", "b")
	r.Parameters = json.RawMessage(`{"lifetime_seconds":1}`)
	began := time.Now()
	got, err := f.Broker.Bind(ctx, r)
	if err != nil || got.ExpiresAt.Before(began) || got.ExpiresAt.After(time.Now().Add(time.Second)) || got.RenewBefore.After(got.ExpiresAt) {
		t.Fatalf("binding: %+v, %v", got, err)
	}
	c := decodeCredentials(t, got)
	brokertest.Eventually(t, "the login ends", func() bool { return f.Pool.Logins(groups[0])[c.Username] != c.Password })
	if time.Now().Before(got.ExpiresAt) {
		t.Error("the login ended too early")
	}
	brokertest.Eventually(t, "the binding is expired", func() bool {
		row, found := getBinding(t, f, "b")
		return found && row.State == store.BindingExpired
	})
	_, err = f.Broker.Bind(ctx, broker.BindRequest{InstanceID: "a", BindingID: "c", Predecessor: "b"})
	wantCode(t, err, broker.Invalid)
	wantCode(t, unbind(ctx, f, unbindRequest("a", "b")), "")
	r.Parameters = json.RawMessage(`{"lifetime_seconds":0}`)
	_, err = f.Broker.Bind(ctx, r)
	wantCode(t, err, broker.Invalid)
}

// A bind that takes long is polled by those who can, and its repetition gets the
// same operation.
func TestBindBehindAnswer(t *testing.T) {
	f := brokertest.New(t, func(o *broker.Options) { o.AnswerTime = time.Millisecond })
	f.Pool.Warm(t, 1)
	provision(t, f, "a")
	free := make(chan bool)
	f.Pool.OnHook(func(ctx context.Context, r brokertest.Run) error {
		select {
		case <-free:
		case <-ctx.Done():
		}
		return ctx.Err()
	})
	r := bindRequest("a", "b")
	r.AcceptsIncomplete = true
	first, err := f.Broker.Bind(ctx, r)
	if err != nil || first.Operation == "" || first.Credentials != nil {
		t.Fatalf("bind: %+v, %v", first, err)
	}
	if again, err := f.Broker.Bind(ctx, r); err != nil || again.Operation != first.Operation {
		t.Errorf("the same bind: %+v, %v", again, err)
	}
	other := r
	other.AppGUID = "other"
	_, err = f.Broker.Bind(ctx, other)
	wantCode(t, err, broker.Conflict)
	_, err = f.Broker.FetchBinding(ctx, broker.FetchRequest{InstanceID: "a", BindingID: "b"})
	wantCode(t, err, broker.NotFound)
	close(free)
	brokertest.Eventually(t, "the binding is made", func() bool {
		poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "b", first.Operation))
		return err == nil && poll.State == store.OpSucceeded
	})
	if got, err := f.Broker.Bind(ctx, r); err != nil || got.Created || got.Credentials == nil {
		t.Errorf("the bind once more: %+v, %v", got, err)
	}

	free = make(chan bool)
	gone := broker.UnbindRequest{InstanceID: "a", BindingID: "b", ServiceID: brokertest.ServiceID, PlanID: brokertest.SmallID, AcceptsIncomplete: true}
	op, err := f.Broker.Unbind(ctx, gone)
	if err != nil || op == "" {
		t.Fatalf("unbind: %q, %v", op, err)
	}
	if again, err := f.Broker.Unbind(ctx, gone); err != nil || again != op {
		t.Errorf("the same unbind: %q, %v", again, err)
	}
	close(free)
	brokertest.Eventually(t, "the binding is deleted", func() bool {
		poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "b", op))
		return err == nil && poll.State == store.OpSucceeded
	})
}

// A creation that gets no group within the time that its plan lets platforms
// poll has failed before that, and can be deleted.
func TestPollingDuration(t *testing.T) {
	f := brokertest.New(t, func(o *broker.Options) {
		o.Catalog = brokertest.Catalog()
		o.Catalog[0].Offering.Plans[0].MaximumPollingDuration = 1
	})
	r := provisionRequest("a")
	r.AcceptsIncomplete = true
	began := time.Now()
	got, err := f.Broker.Provision(ctx, r)
	if err != nil || got.Operation == "" {
		t.Fatalf("provision: %+v, %v", got, err)
	}
	last := waitFor(t, f, "a", got.Operation, store.OpFailed)
	if took := time.Since(began); took < 700*time.Millisecond || last.Description == "" {
		t.Errorf("it failed after %s: %q", took, last.Description)
	}
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("a")), "")
}
