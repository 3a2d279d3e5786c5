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

// crash runs call with a broker whose hooks never end, waits until one is
// running, and goes on with another broker, as after a kill.
func crash(t *testing.T, f *brokertest.Fixture, call func(*broker.Broker)) {
	t.Helper()
	if brokertest.InPostgres() {
		t.Skip("locks of a dead broker are those of its process: see TestKilledBroker of osbapi")
	}
	running := make(chan bool, 10)
	dead := make(chan bool)
	f.Pool.OnHook(func(ctx context.Context, _ brokertest.Run) error {
		running <- true
		select {
		case <-dead:
		case <-ctx.Done(): // what goes on behind its answer is interrupted when the broker stops
		}
		return context.Canceled
	})
	gone := make(chan bool)
	old := f.Broker
	go func() {
		defer close(gone)
		call(old)
	}()
	<-running
	// What the dead broker does when its hook returns is lost: its store is
	// closed to it from now on.
	f.Stop(t)
	t.Cleanup(func() { close(dead); <-gone })
	f.Pool.OnHook(nil)
}

func TestRecoverBind(t *testing.T) {
	guard := &gate{}
	f := brokertest.New(t, func(o *broker.Options) { guard.Store = o.Store; o.Store = guard })
	groups := f.Pool.Warm(t, 1)
	provision(t, f, "a")
	kept := bind(t, f, "a", "kept")
	crash(t, f, func(b *broker.Broker) { _, _ = b.Bind(ctx, bindRequest("a", "b")) })
	guard.shut()
	if r, _ := getBinding(t, f, "b"); r.State != store.BindingCreating {
		t.Fatalf("binding is %+v", r)
	}
	f.Start(t, nil)
	brokertest.Eventually(t, "half-made binding is undone", func() bool {
		_, found := getBinding(t, f, "b")
		return !found
	})
	if f.Pool.Logins(groups[0])[kept.Username] != kept.Password {
		t.Error("another login was harmed")
	}
	bind(t, f, "a", "b")
}

func TestRecoverUnbind(t *testing.T) {
	guard := &gate{}
	f := brokertest.New(t, func(o *broker.Options) { guard.Store = o.Store; o.Store = guard })
	groups := f.Pool.Warm(t, 1)
	provision(t, f, "a")
	c := bind(t, f, "a", "b")
	crash(t, f, func(b *broker.Broker) { _, _ = b.Unbind(ctx, unbindRequest("a", "b")) })
	guard.shut()
	f.Start(t, nil)
	brokertest.Eventually(t, "binding is deleted", func() bool {
		_, found := getBinding(t, f, "b")
		return !found
	})
	if f.Pool.Logins(groups[0])[c.Username] == c.Password {
		t.Error("the login still works")
	}
	if poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "b", "")); err != nil || poll.State != store.OpSucceeded {
		t.Errorf("a poll after the deletion says %+v, %v", poll, err)
	}
}

func TestRecoverProvision(t *testing.T) {
	guard := &gate{}
	f := brokertest.New(t, func(o *broker.Options) { guard.Store = o.Store; o.Store = guard })
	f.Pool.Warm(t, 1)
	r := provisionRequest("a")
	r.Parameters, r.AcceptsIncomplete = json.RawMessage(`{"size":2}`), true
	crash(t, f, func(b *broker.Broker) { _, _ = b.Provision(ctx, r) })
	guard.shut()
	f.Start(t, nil)
	brokertest.Eventually(t, "instance is ready", func() bool {
		inst, _ := getInstance(t, f, "a")
		return inst.State == store.InstanceReady && inst.Prepared
	})
	result, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, "")
	if result.Created || result.Operation != "" {
		t.Errorf("repeated: %+v", result)
	}
}

func TestRecoverUnprepared(t *testing.T) {
	f := brokertest.New(t, nil)
	groups := f.Pool.Warm(t, 1)
	f.Stop(t) // nobody opens the address
	provision(t, f, "a")
	if f.Pool.Published(groups[0]) {
		t.Fatal("published without Run")
	}
	f.Start(t, nil)
	brokertest.Eventually(t, "address open", func() bool { return f.Pool.Published(groups[0]) })
}

func TestBindPrepares(t *testing.T) {
	f := brokertest.New(t, nil)
	groups := f.Pool.Warm(t, 1)
	f.Stop(t)
	provision(t, f, "a")
	bind(t, f, "a", "b")
	if !f.Pool.Published(groups[0]) {
		t.Error("the address is not open")
	}
}

func TestForget(t *testing.T) {
	f := brokertest.New(t, func(o *broker.Options) { o.OperationMemory = time.Nanosecond })
	f.Pool.Warm(t, 1)
	provision(t, f, "a")
	time.Sleep(time.Millisecond)
	if err := f.Broker.Forget(ctx); err != nil {
		t.Fatal(err)
	}
	poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "", ""))
	wantCode(t, err, "")
	if poll.State != store.OpSucceeded {
		t.Errorf("state %q", poll.State)
	}
	_, err = f.Broker.LastOperation(ctx, pollRequest("a", "b", ""))
	wantCode(t, err, broker.NotFound)
	_, err = f.Broker.LastOperation(ctx, pollRequest("x", "", ""))
	wantCode(t, err, broker.NotFound)
	_, err = f.Broker.LastOperation(ctx, pollRequest("a", "", "x"))
	wantCode(t, err, broker.NotFound)
}
