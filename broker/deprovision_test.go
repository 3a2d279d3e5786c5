package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/store"
)

func TestDeprovision(t *testing.T) {
	f := brokertest.New(t, nil)
	groups := f.Pool.Warm(t, 1)
	provision(t, f, "a")
	bind(t, f, "a", "b1")
	bind(t, f, "a", "b2")
	wrong := deprovisionRequest("a")
	wrong.PlanID = brokertest.MediumID
	wantCode(t, f.Broker.Deprovision(ctx, wrong), broker.Invalid)
	wrong.PlanID = ""
	wantCode(t, f.Broker.Deprovision(ctx, wrong), broker.Invalid)

	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("a")), "")
	if f.Pool.Published(groups[0]) {
		t.Error("the tenant is not cut off")
	}
	if _, found := getBinding(t, f, "b1"); found {
		t.Error("a binding is left")
	}
	eventuallyWarm(t, f, 1)
	if len(f.Pool.Logins(groups[0])) != 0 {
		t.Error("a login is left")
	}
	f.View(t, func(tx store.Tx) error {
		g, err := tx.Groups().Get(groups[0])
		if g.Generation != 2 || g.ReturnedAt.IsZero() {
			t.Errorf("group is %+v", g)
		}
		return err
	})
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("a")), broker.Gone)
	if poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "", "")); err != nil || poll.State != store.OpSucceeded {
		t.Errorf("a poll after the deletion says %+v, %v", poll, err)
	}
	var op store.Operation
	f.View(t, func(tx store.Tx) (err error) {
		op, err = tx.Operations().Latest("a", "")
		return err
	})
	poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "", op.ID))
	wantCode(t, err, "")
	if poll.State != store.OpSucceeded {
		t.Errorf("state %q", poll.State)
	}
	provision(t, f, "a") // the id can be used again
	if poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "", "")); err != nil || poll.Kind != store.OpProvision {
		t.Errorf("%+v, %v", poll, err)
	}
}

func TestDeprovisionReleaseFails(t *testing.T) {
	f := brokertest.New(t, nil)
	f.Pool.Warm(t, 1)
	provision(t, f, "a")
	f.Pool.FailClose(errors.New("no answer"))
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("a")), broker.Unavailable)
	if states := groupStates(t, f); states[store.GroupWarm]+states[store.GroupClaimed] != 0 {
		t.Errorf("groups %v", states)
	}
	f.Pool.FailClose(nil)
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("a")), broker.Gone)
}

// A deletion interrupts whatever is done to the instance, and does not let
// others in before itself.
func TestDeprovisionInterrupts(t *testing.T) {
	f := brokertest.New(t, nil)
	groups := f.Pool.Warm(t, 1)
	provision(t, f, "a")
	bind(t, f, "a", "b0")
	running := make(chan bool, 3)
	f.Pool.OnHook(func(ctx context.Context, _ brokertest.Run) error {
		running <- true
		<-ctx.Done()
		return ctx.Err()
	})
	var binds sync.WaitGroup
	for _, id := range []string{"b1", "b2", "b3"} {
		binds.Go(func() {
			_, err := f.Broker.Bind(ctx, bindRequest("a", id))
			var e *broker.Error
			if !errors.As(err, &e) || e.Code != broker.Concurrency && e.Code != broker.NotFound {
				t.Errorf("bind: %v", err)
			}
		})
	}
	<-running
	began := time.Now()
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("a")), "")
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
	binds.Wait()
	eventuallyWarm(t, f, 1)
	if logins := f.Pool.Logins(groups[0]); len(logins) != 0 {
		t.Errorf("logins %v", logins)
	}
	for _, id := range []string{"b1", "b2", "b3"} {
		if _, found := getBinding(t, f, id); found {
			t.Errorf("binding %s is left", id)
		}
	}
}

func TestDeprovisionCancelsCreation(t *testing.T) {
	f := brokertest.New(t, nil)
	r := provisionRequest("a")
	r.AcceptsIncomplete = true
	result, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, "")
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("a")), "")
	poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "", result.Operation))
	wantCode(t, err, "")
	if poll.State != store.OpFailed {
		t.Errorf("the creation is %q", poll.State)
	}
	f.Pool.Warm(t, 1)
	eventuallyWarm(t, f, 1)

	// The same while the hook runs, behind a call and behind a 202.
	r.Parameters = json.RawMessage(`{"size":1}`)
	running := make(chan bool, 10)
	f.Pool.OnHook(func(ctx context.Context, _ brokertest.Run) error {
		running <- true
		<-ctx.Done()
		return ctx.Err()
	})
	done := make(chan error, 1)
	go func() {
		_, err := f.Broker.Provision(ctx, r)
		done <- err
	}()
	<-running
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("a")), "")
	wantCode(t, <-done, broker.Concurrency)
	eventuallyWarm(t, f, 1)

	provision(t, f, "other")
	_, err = f.Broker.Provision(ctx, r)
	wantCode(t, err, "")
	f.Pool.Warm(t, 1)
	<-running
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("a")), "")
	eventuallyWarm(t, f, 1)
}
