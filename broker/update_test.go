package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/store"
)

func updateRequest(instance string, change func(*broker.UpdateRequest)) broker.UpdateRequest {
	r := broker.UpdateRequest{InstanceID: instance, ServiceID: brokertest.ServiceID}
	change(&r)
	return r
}

func toMedium(r *broker.UpdateRequest) { r.PlanID = brokertest.MediumID }

func TestUpdatePlan(t *testing.T) {
	f := brokertest.New(t, nil)
	groups := f.Pool.Warm(t, 1)
	provision(t, f, "a")
	c := bind(t, f, "a", "b")
	if r, err := f.Broker.Update(ctx, updateRequest("a", toMedium)); err != nil || r.Operation != "" {
		t.Fatalf("update: %+v, %v", r, err)
	}
	inst, _ := getInstance(t, f, "a")
	if inst.PlanID != brokertest.MediumID || inst.State != store.InstanceReady || inst.GroupID != groups[0] || inst.Next != nil || inst.Fingerprint == brokertest.Small {
		t.Errorf("instance is %+v", inst)
	}
	f.View(t, func(tx store.Tx) error {
		g, err := tx.Groups().Get(groups[0])
		if g.Fingerprint != inst.Fingerprint || g.State != store.GroupClaimed {
			t.Errorf("group is %+v", g)
		}
		return err
	})
	if f.Pool.Logins(groups[0])[c.Username] != c.Password {
		t.Error("the login does not work any more")
	}
	again := bindRequest("a", "b")
	again.PlanID = brokertest.MediumID
	if r, err := f.Broker.Bind(ctx, again); err != nil || r.Created || decodeCredentials(t, r) != c {
		t.Errorf("the same binding with the new plan: %+v, %v", r, err)
	}
	wantCode(t, unbind(ctx, f, unbindRequest("a", "b")), broker.Invalid)
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("a")), broker.Invalid)
	for _, plan := range []string{brokertest.SmallID, brokertest.MediumID} {
		poll := pollRequest("a", "", "")
		poll.PlanID = plan
		if got, err := f.Broker.LastOperation(ctx, poll); err != nil || got.Kind != store.OpUpdate || got.State != store.OpSucceeded {
			t.Errorf("poll with plan %s: %+v, %v", plan, got, err)
		}
	}
	changes := f.Pool.Changes()
	if _, err := f.Broker.Update(ctx, updateRequest("a", toMedium)); err != nil || f.Pool.Changes() != changes {
		t.Errorf("an update to what there is: %v, %d changes", err, f.Pool.Changes()-changes)
	}
	end := deprovisionRequest("a")
	end.PlanID = brokertest.MediumID
	wantCode(t, f.Broker.Deprovision(ctx, end), "")
}

func TestUpdateParametersAndContext(t *testing.T) {
	f := brokertest.New(t, nil)
	f.Pool.Warm(t, 1)
	r := provisionRequest("a")
	r.Parameters = json.RawMessage(`{"colour":"red","size":3}`)
	if _, err := f.Broker.Provision(ctx, r); err != nil {
		t.Fatal(err)
	}
	update := func(change func(*broker.UpdateRequest)) error {
		_, err := f.Broker.Update(ctx, updateRequest("a", change))
		return err
	}
	wantCode(t, update(func(r *broker.UpdateRequest) { r.Parameters = json.RawMessage(`{"size":5}`) }), "")
	runs := f.Pool.Runs()
	last := runs[len(runs)-1].Values["parameters"].(map[string]any)
	if last["size"] != 5 || last["colour"] != "red" {
		t.Errorf("the hook saw %v", last)
	}
	got, err := f.Broker.FetchInstance(ctx, broker.FetchRequest{InstanceID: "a"})
	if err != nil || string(got.Parameters) != `{"colour":"red","size":5}` {
		t.Errorf("parameters are %s, %v", got.Parameters, err)
	}
	n := len(runs)
	wantCode(t, update(func(r *broker.UpdateRequest) { r.Parameters = json.RawMessage(`{"size":5}`) }), "")
	wantCode(t, update(func(r *broker.UpdateRequest) { r.Parameters = json.RawMessage(`{}`) }), "")
	wantCode(t, update(func(r *broker.UpdateRequest) { r.Context = json.RawMessage(`{"platform":"x"}`) }), "")
	if len(f.Pool.Runs()) != n {
		t.Error("hooks ran for nothing")
	}
	wantCode(t, update(func(r *broker.UpdateRequest) { r.Parameters = json.RawMessage(`{"size":50}`) }), broker.Invalid)
	wantCode(t, update(func(r *broker.UpdateRequest) { r.MaintenanceVersion = "0.1.0" }), broker.MaintenanceConflict)
	wantCode(t, update(func(r *broker.UpdateRequest) { r.PlanID = brokertest.OtherPlanID }), broker.Invalid)
	wantCode(t, update(func(r *broker.UpdateRequest) { r.ServiceID = brokertest.OtherID }), broker.Invalid)
	wantCode(t, update(func(r *broker.UpdateRequest) { r.InstanceID = "z" }), broker.NotFound)

	// A hook that fails leaves all as it was.
	f.Pool.OnHook(func(_ context.Context, r brokertest.Run) error {
		if p, _ := r.Values["parameters"].(map[string]any); p["size"] == 9 {
			return errors.New("no")
		}
		return nil
	})
	wantCode(t, update(func(r *broker.UpdateRequest) { r.Parameters = json.RawMessage(`{"size":9}`); toMedium(r) }), broker.Internal)
	inst, _ := getInstance(t, f, "a")
	got, err = f.Broker.FetchInstance(ctx, broker.FetchRequest{InstanceID: "a"})
	if inst.Fingerprint != brokertest.Small || inst.PlanID != brokertest.SmallID || err != nil || string(got.Parameters) != `{"colour":"red","size":5}` {
		t.Errorf("after a failure: %+v, %s, %v", inst, got.Parameters, err)
	}
}

func TestUpdateUnfit(t *testing.T) {
	f := brokertest.New(t, nil)
	f.Pool.Warm(t, 1)
	provision(t, f, "a")
	f.Pool.OnChange(func(context.Context) error { return &provisioner.Unfit{Message: "Too much data."} })
	_, err := f.Broker.Update(ctx, updateRequest("a", toMedium))
	wantCode(t, err, broker.Refused)
	var e *broker.Error
	if !errors.As(err, &e) || e.Message != "Too much data." || !e.Updating || e.Final {
		t.Errorf("error is %+v", e)
	}
	poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "", ""))
	if err != nil || poll.State != store.OpFailed || poll.Description != "Too much data." {
		t.Errorf("poll says %+v, %v", poll, err)
	}
	bind(t, f, "a", "b")
}

// While an update goes on the same request is answered with its operation, and
// everything else waits; a deletion ends it.
func TestUpdateBehindAnswer(t *testing.T) {
	f := brokertest.New(t, func(o *broker.Options) { o.AnswerTime = time.Millisecond; o.LockTimeout = 50 * time.Millisecond })
	f.Pool.Warm(t, 2)
	provision(t, f, "a")
	provision(t, f, "b")
	free := make(chan bool)
	f.Pool.OnChange(func(ctx context.Context) error {
		select {
		case <-free:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	patch := updateRequest("a", toMedium)
	patch.AcceptsIncomplete = true
	first, err := f.Broker.Update(ctx, patch)
	if err != nil || first.Operation == "" {
		t.Fatalf("update: %+v, %v", first, err)
	}
	if again, err := f.Broker.Update(ctx, patch); err != nil || again.Operation != first.Operation {
		t.Errorf("the same update: %+v, %v", again, err)
	}
	other := patch
	other.Parameters = json.RawMessage(`{"size":1}`)
	_, err = f.Broker.Update(ctx, other)
	wantCode(t, err, broker.Concurrency)
	patch.AcceptsIncomplete = false
	_, err = f.Broker.Update(ctx, patch)
	wantCode(t, err, broker.Concurrency)
	_, err = f.Broker.FetchInstance(ctx, broker.FetchRequest{InstanceID: "a"})
	wantCode(t, err, broker.Concurrency)
	_, err = f.Broker.Bind(ctx, bindRequest("a", "x"))
	wantCode(t, err, broker.Concurrency)
	if r, err := f.Broker.Provision(ctx, provisionRequest("a")); err != nil || r.Created || r.Operation != "" {
		t.Errorf("the same creation: %+v, %v", r, err)
	}
	close(free)
	waitFor(t, f, "a", first.Operation, store.OpSucceeded)

	f.Pool.OnChange(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	patch = updateRequest("b", toMedium)
	patch.AcceptsIncomplete = true
	second, err := f.Broker.Update(ctx, patch)
	if err != nil || second.Operation == "" {
		t.Fatalf("update: %+v, %v", second, err)
	}
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("b")), "")
	waitFor(t, f, "b", second.Operation, store.OpFailed)
}

func TestRecoverUpdate(t *testing.T) {
	f := brokertest.New(t, func(o *broker.Options) { o.AnswerTime = time.Millisecond })
	f.Pool.Warm(t, 1)
	provision(t, f, "a")
	f.Pool.OnChange(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	patch := updateRequest("a", toMedium)
	patch.AcceptsIncomplete = true
	first, err := f.Broker.Update(ctx, patch)
	if err != nil || first.Operation == "" {
		t.Fatalf("update: %+v, %v", first, err)
	}
	f.Stop(t)
	if inst, _ := getInstance(t, f, "a"); inst.State != store.InstanceUpdating {
		t.Fatalf("instance is %+v", inst)
	}
	f.Pool.OnChange(nil)
	f.Start(t, nil)
	waitFor(t, f, "a", first.Operation, store.OpSucceeded)
	if inst, _ := getInstance(t, f, "a"); inst.PlanID != brokertest.MediumID || inst.State != store.InstanceReady {
		t.Errorf("instance is %+v", inst)
	}
}
