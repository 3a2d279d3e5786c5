package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/store"
)

func TestProvisionWarm(t *testing.T) {
	f := brokertest.New(t, nil)
	groups := f.Pool.Warm(t, 1)
	provision(t, f, "a")
	brokertest.Eventually(t, "address open", func() bool { return f.Pool.Published(groups[0]) })
	if len(f.Pool.Runs()) != 0 {
		t.Error("a hook ran without parameters")
	}
	result, err := f.Broker.Provision(ctx, provisionRequest("a"))
	wantCode(t, err, "")
	if result.Created || result.Operation != "" {
		t.Errorf("repeated: %+v", result)
	}
	if hits, misses := f.Pool.Demands(); hits != 1 || misses != 0 {
		t.Errorf("%d hits, %d misses", hits, misses)
	}
	poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "", ""))
	wantCode(t, err, "")
	if poll.State != store.OpSucceeded {
		t.Errorf("state %q", poll.State)
	}
}

func TestProvisionRefusals(t *testing.T) {
	f := brokertest.New(t, nil)
	f.Pool.Warm(t, 1)
	tests := []struct {
		name   string
		change func(*broker.ProvisionRequest)
		says   string
	}{
		{"no id", func(r *broker.ProvisionRequest) { r.InstanceID = "" }, "instance_id"},
		{"slash", func(r *broker.ProvisionRequest) { r.InstanceID = "a/b" }, "instance_id"},
		{"dots", func(r *broker.ProvisionRequest) { r.InstanceID = ".." }, "instance_id"},
		{"line feed", func(r *broker.ProvisionRequest) { r.InstanceID = "a\nb" }, "control"},
		{"zero byte", func(r *broker.ProvisionRequest) { r.InstanceID = "a\x00b" }, "control"},
		{"right to left", func(r *broker.ProvisionRequest) { r.InstanceID = "a\u202eb" }, "invisible"},
		{"not UTF-8", func(r *broker.ProvisionRequest) { r.InstanceID = "a\xffb" }, "UTF-8"},
		{"long", func(r *broker.ProvisionRequest) { r.InstanceID = strings.Repeat("a", 256) }, "255"},
		{"no service", func(r *broker.ProvisionRequest) { r.ServiceID = "" }, "service_id"},
		{"unknown service", func(r *broker.ProvisionRequest) { r.ServiceID = "x" }, "service_id"},
		{"no plan", func(r *broker.ProvisionRequest) { r.PlanID = "" }, "plan_id"},
		{"other plan", func(r *broker.ProvisionRequest) { r.PlanID = brokertest.OtherPlanID }, "plan_id"},
		{"no org", func(r *broker.ProvisionRequest) { r.OrganizationGUID = "" }, "organization_guid"},
		{"no space", func(r *broker.ProvisionRequest) { r.SpaceGUID = "" }, "space_guid"},
		{"wrong value", func(r *broker.ProvisionRequest) { r.Parameters = json.RawMessage(`{"colour":"green"}`) }, "colour"},
		{"unknown key", func(r *broker.ProvisionRequest) { r.Parameters = json.RawMessage(`{"x":1}`) }, `"x"`},
		{"no object", func(r *broker.ProvisionRequest) { r.Parameters = json.RawMessage(`[]`) }, "parameters"},
		{"context no object", func(r *broker.ProvisionRequest) { r.Context = json.RawMessage(`"x"`) }, "context"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := provisionRequest("a")
			test.change(&r)
			_, err := f.Broker.Provision(ctx, r)
			wantCode(t, err, broker.Invalid)
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q does not say %q", err, test.says)
			}
		})
	}
	r := provisionRequest("a")
	r.MaintenanceVersion = "0.9.0"
	_, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, broker.MaintenanceConflict)
	if states := groupStates(t, f); states[store.GroupWarm] != 1 {
		t.Errorf("groups %v after refusals", states)
	}
	if all, err := f.Broker.Instances(ctx); err != nil || len(all) != 0 {
		t.Errorf("instances %v, %v after refusals", all, err)
	}
	provision(t, f, "a")
}

func TestProvisionConflict(t *testing.T) {
	f := brokertest.New(t, nil)
	f.Pool.Warm(t, 2)
	r := provisionRequest("a")
	r.Context = json.RawMessage(`{"platform":"test","b":1,"c":{"d":[1,2]}}`)
	r.Parameters = json.RawMessage(`{"size":3,"colour":"red"}`)
	_, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, "")

	same := r
	same.Context = json.RawMessage(` { "c":{"d":[1, 2]}, "b":1, "platform":"x", "platform":"test" } `)
	same.Parameters = json.RawMessage(`{"colour" : "red", "size":3}`)
	result, err := f.Broker.Provision(ctx, same)
	wantCode(t, err, "")
	if result.Created {
		t.Error("made twice")
	}
	for name, change := range map[string]func(*broker.ProvisionRequest){
		"plan":            func(r *broker.ProvisionRequest) { r.PlanID = brokertest.MediumID },
		"org":             func(r *broker.ProvisionRequest) { r.OrganizationGUID = "other" },
		"space":           func(r *broker.ProvisionRequest) { r.SpaceGUID = "other" },
		"context":         func(r *broker.ProvisionRequest) { r.Context = nil },
		"parameters":      func(r *broker.ProvisionRequest) { r.Parameters = json.RawMessage(`{"size":4}`) },
		"less parameters": func(r *broker.ProvisionRequest) { r.Parameters = nil },
	} {
		r := r
		change(&r)
		_, err := f.Broker.Provision(ctx, r)
		t.Log(name)
		wantCode(t, err, broker.Conflict)
	}
	if states := groupStates(t, f); states[store.GroupClaimed] != 1 || states[store.GroupWarm] != 1 {
		t.Errorf("groups %v", states)
	}
}

func TestProvisionMiss(t *testing.T) {
	f := brokertest.New(t, nil)
	r := provisionRequest("a")
	_, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, broker.AsyncRequired)
	if _, found := getInstance(t, f, "a"); found {
		t.Fatal("a refused instance was stored")
	}
	r.AcceptsIncomplete = true
	result, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, "")
	if result.Operation == "" {
		t.Fatalf("no operation in %+v", result)
	}
	again, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, "")
	if again != result && again.Operation != result.Operation {
		t.Errorf("repeated: %+v, first: %+v", again, result)
	}
	changed := r
	changed.SpaceGUID = "other"
	_, err = f.Broker.Provision(ctx, changed)
	wantCode(t, err, broker.Conflict)
	_, err = f.Broker.FetchInstance(ctx, broker.FetchRequest{InstanceID: "a"})
	wantCode(t, err, broker.NotFound)
	_, err = f.Broker.Bind(ctx, bindRequest("a", "b"))
	wantCode(t, err, broker.Concurrency)
	poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "", result.Operation))
	wantCode(t, err, "")
	if poll.State != store.OpInProgress {
		t.Errorf("state %q", poll.State)
	}
	if hits, misses := f.Pool.Demands(); hits != 0 || misses != 1 {
		t.Errorf("%d hits, %d misses", hits, misses)
	}
	f.Pool.Warm(t, 1)
	waitFor(t, f, "a", result.Operation, store.OpSucceeded)
	if inst, _ := getInstance(t, f, "a"); inst.State != store.InstanceReady || !inst.Prepared {
		t.Errorf("instance is %+v", inst)
	}
	bind(t, f, "a", "b")
}

func waitFor(t *testing.T, f *brokertest.Fixture, instance, operation string, state store.OperationState) (last broker.PollResult) {
	t.Helper()
	brokertest.Eventually(t, fmt.Sprintf("operation %s", state), func() bool {
		poll, err := f.Broker.LastOperation(ctx, pollRequest(instance, "", operation))
		wantCode(t, err, "")
		last = poll
		return poll.State == state
	})
	return last
}

func TestProvisionCeiling(t *testing.T) {
	f := brokertest.NewSized(t, 2, nil)
	f.Pool.Warm(t, 1)
	provision(t, f, "a")
	r := provisionRequest("b")
	r.AcceptsIncomplete = true
	_, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, "")
	r.InstanceID = "c"
	_, err = f.Broker.Provision(ctx, r)
	wantCode(t, err, broker.Refused)
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("b")), "")
	_, err = f.Broker.Provision(ctx, r)
	wantCode(t, err, "")
}

func TestProvisionWithParameters(t *testing.T) {
	f := brokertest.New(t, nil)
	groups := f.Pool.Warm(t, 1)
	r := provisionRequest("a")
	r.Parameters = json.RawMessage(`{"size":3}`)
	r.AcceptsIncomplete = true

	f.Pool.OnHook(func(context.Context, brokertest.Run) error { return errors.New("the server's own words") })
	_, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, broker.Internal)
	var e *broker.Error
	if errors.As(err, &e); strings.Contains(e.Message, "own words") {
		t.Errorf("the user sees %q", e.Message)
	}
	if _, found := getInstance(t, f, "a"); found || f.Pool.Published(groups[0]) {
		t.Error("something is left of a failed instance")
	}
	eventuallyWarm(t, f, 1)

	f.Pool.OnHook(nil)
	result, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, "")
	if !result.Created {
		t.Fatalf("got %+v", result)
	}
	runs := f.Pool.Runs()
	last := runs[len(runs)-1]
	if last.Which != "provision" || last.Values["instance"] != "a" || last.Values["parameters"].(map[string]any)["size"] != 3 {
		t.Errorf("ran %+v", last)
	}
	if inst, _ := getInstance(t, f, "a"); !inst.Prepared || strings.Contains(string(inst.Sealed), "size") {
		t.Errorf("instance is %+v", inst)
	}
	got, err := f.Broker.FetchInstance(ctx, broker.FetchRequest{InstanceID: "a"})
	wantCode(t, err, "")
	if string(got.Parameters) != `{"size":3}` {
		t.Errorf("parameters %s", got.Parameters)
	}
}

// A platform that does not wait for the hook gets the same operation again.
func TestProvisionWhileHookRuns(t *testing.T) {
	f := brokertest.New(t, nil)
	f.Pool.Warm(t, 1)
	r := provisionRequest("a")
	r.Parameters = json.RawMessage(`{"size":3}`)
	running, goOn := make(chan bool), make(chan bool)
	f.Pool.OnHook(func(context.Context, brokertest.Run) error {
		running <- true
		<-goOn
		return nil
	})
	first := make(chan error, 1)
	go func() {
		_, err := f.Broker.Provision(ctx, r)
		first <- err
	}()
	<-running
	_, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, broker.Concurrency)
	r.AcceptsIncomplete = true
	result, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, "")
	if result.Operation == "" {
		t.Fatalf("got %+v", result)
	}
	close(goOn)
	wantCode(t, <-first, "")
	waitFor(t, f, "a", result.Operation, store.OpSucceeded)
}

func TestProvisionTimesOut(t *testing.T) {
	f := brokertest.New(t, func(o *broker.Options) { o.ProvisionTimeout = 50 * time.Millisecond })
	r := provisionRequest("a")
	r.AcceptsIncomplete = true
	result, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, "")
	poll := waitFor(t, f, "a", result.Operation, store.OpFailed)
	if poll.Description == "" {
		t.Error("no words for the user")
	}
	_, err = f.Broker.Provision(ctx, r)
	wantCode(t, err, broker.Conflict)
	_, err = f.Broker.Bind(ctx, bindRequest("a", "b"))
	wantCode(t, err, broker.Refused)
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("a")), "")
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("a")), broker.Gone)
}

func TestProvisionHookKeepsFailing(t *testing.T) {
	f := brokertest.New(t, nil)
	r := provisionRequest("a")
	r.Parameters = json.RawMessage(`{"size":3}`)
	r.AcceptsIncomplete = true
	result, err := f.Broker.Provision(ctx, r)
	wantCode(t, err, "")
	f.Pool.OnHook(func(context.Context, brokertest.Run) error { return errors.New("no") })
	f.Pool.Warm(t, 1)
	waitFor(t, f, "a", result.Operation, store.OpFailed)
	eventuallyWarm(t, f, 1)
	if inst, _ := getInstance(t, f, "a"); inst.State != store.InstanceFailed || inst.GroupID != "" {
		t.Errorf("instance is %+v", inst)
	}
}

// Many platforms ask for the same id, and for more instances than groups.
func TestProvisionConcurrently(t *testing.T) {
	f := brokertest.New(t, nil)
	f.Pool.Warm(t, 5)
	var wg sync.WaitGroup
	var mu sync.Mutex
	created, refused := map[string]int{}, 0
	for n := range 40 {
		wg.Go(func() {
			id := fmt.Sprintf("i%d", n%8)
			result, err := f.Broker.Provision(ctx, provisionRequest(id))
			mu.Lock()
			defer mu.Unlock()
			var e *broker.Error
			switch {
			case err == nil && result.Created:
				created[id]++
			case err == nil:
			case errors.As(err, &e) && e.Code == broker.AsyncRequired:
				refused++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(created) != 5 || refused == 0 {
		t.Errorf("created %v, refused %d", created, refused)
	}
	for id, n := range created {
		if n != 1 {
			t.Errorf("%s made %d times", id, n)
		}
	}
	groups := map[string]bool{}
	all, err := f.Broker.Instances(ctx)
	wantCode(t, err, "")
	for _, inst := range all {
		groups[inst.GroupID] = true
	}
	if len(groups) != 5 {
		t.Errorf("instances have %d groups", len(groups))
	}
}
