package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/store"
)

func TestBind(t *testing.T) {
	f := brokertest.New(t, nil)
	groups := f.Pool.Warm(t, 1)
	provision(t, f, "a")
	f.Pool.Warm(t, 1)
	provision(t, f, "z")
	r := bindRequest("a", "b")
	r.Parameters, r.AppGUID = json.RawMessage(`{"readonly":true}`), "app"
	result, err := f.Broker.Bind(ctx, r)
	wantCode(t, err, "")
	c := decodeCredentials(t, result)
	if !regexp.MustCompile(`^[a-z][a-z0-9]{15}$`).MatchString(c.Username) || !regexp.MustCompile(`^[A-Za-z0-9]{32}$`).MatchString(c.Password) {
		t.Errorf("credentials %+v", c)
	}
	if f.Pool.Logins(groups[0])[c.Username] != c.Password {
		t.Error("the login does not work")
	}
	if len(result.Endpoints) != 2 || result.Endpoints[0].Host != "127.0.0.1" {
		t.Errorf("endpoints %v", result.Endpoints)
	}
	run := f.Pool.Runs()[0]
	if run.Values["parameters"].(map[string]any)["readonly"] != true || run.Values["number"].(int) < 1 || run.Values["number"].(int) > 50000 {
		t.Errorf("ran %+v", run)
	}
	again, err := f.Broker.Bind(ctx, r)
	wantCode(t, err, "")
	if again.Created || decodeCredentials(t, again) != c || len(again.Endpoints) != 2 {
		t.Errorf("repeated: %+v", again)
	}
	got, err := f.Broker.FetchBinding(ctx, broker.FetchRequest{InstanceID: "a", BindingID: "b"})
	wantCode(t, err, "")
	if decodeCredentials(t, got) != c || string(got.Parameters) != `{"readonly":true}` {
		t.Errorf("fetched: %+v", got)
	}
	if row, _ := getBinding(t, f, "b"); strings.Contains(string(row.Sealed), c.Password) {
		t.Error("the password is in the store as it is")
	}
	poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "b", ""))
	wantCode(t, err, "")
	if poll.State != store.OpSucceeded {
		t.Errorf("state %q", poll.State)
	}

	for name, change := range map[string]func(*broker.BindRequest){
		"app":        func(r *broker.BindRequest) { r.AppGUID = "other" },
		"context":    func(r *broker.BindRequest) { r.Context = json.RawMessage(`{"a":1}`) },
		"parameters": func(r *broker.BindRequest) { r.Parameters = nil },
		"instance":   func(r *broker.BindRequest) { r.InstanceID = "z" },
	} {
		r := r
		change(&r)
		_, err := f.Broker.Bind(ctx, r)
		t.Log(name)
		wantCode(t, err, broker.Conflict)
	}
	for name, test := range map[string]struct {
		code   broker.Code
		change func(*broker.BindRequest)
	}{
		"absent":         {broker.NotFound, func(r *broker.BindRequest) { r.InstanceID = "y" }},
		"other plan":     {broker.Invalid, func(r *broker.BindRequest) { r.PlanID = brokertest.MediumID }},
		"unknown plan":   {broker.Invalid, func(r *broker.BindRequest) { r.PlanID = "x" }},
		"no service":     {broker.Invalid, func(r *broker.BindRequest) { r.ServiceID = "" }},
		"id":             {broker.Invalid, func(r *broker.BindRequest) { r.BindingID = "a..b" }},
		"wrong kind":     {broker.Invalid, func(r *broker.BindRequest) { r.Parameters = json.RawMessage(`{"readonly":"yes"}`) }},
		"app guid":       {broker.Invalid, func(r *broker.BindRequest) { r.AppGUID = "a\nb" }},
		"context string": {broker.Invalid, func(r *broker.BindRequest) { r.Context = json.RawMessage(`"x"`) }},
	} {
		r := bindRequest("a", "new")
		test.change(&r)
		_, err := f.Broker.Bind(ctx, r)
		t.Log(name)
		wantCode(t, err, test.code)
	}
}

func TestUnbind(t *testing.T) {
	f := brokertest.New(t, nil)
	groups := f.Pool.Warm(t, 1)
	provision(t, f, "a")
	f.Pool.Warm(t, 1)
	provision(t, f, "z")
	one, two := bind(t, f, "a", "b1"), bind(t, f, "a", "b2")
	if one == two {
		t.Fatal("two bindings share a login")
	}
	wantCode(t, unbind(ctx, f, unbindRequest("z", "b1")), broker.Gone)
	_, err := f.Broker.FetchBinding(ctx, broker.FetchRequest{InstanceID: "z", BindingID: "b1"})
	wantCode(t, err, broker.NotFound)
	wrong := unbindRequest("a", "b1")
	wrong.ServiceID = brokertest.OtherID
	wantCode(t, unbind(ctx, f, wrong), broker.Invalid)

	f.Pool.OnHook(func(context.Context, brokertest.Run) error { return errors.New("no") })
	wantCode(t, unbind(ctx, f, unbindRequest("a", "b1")), broker.Internal)
	if _, found := getBinding(t, f, "b1"); !found {
		t.Fatal("a binding whose login works is forgotten")
	}
	_, err = f.Broker.FetchBinding(ctx, broker.FetchRequest{InstanceID: "a", BindingID: "b1"})
	wantCode(t, err, broker.NotFound)
	_, err = f.Broker.Bind(ctx, bindRequest("a", "b1"))
	wantCode(t, err, broker.Concurrency)

	f.Pool.OnHook(nil) // from here the background does it, or the platform
	brokertest.Eventually(t, "binding is gone", func() bool {
		_, found := getBinding(t, f, "b1")
		return !found
	})
	wantCode(t, unbind(ctx, f, unbindRequest("a", "b1")), broker.Gone)
	logins := f.Pool.Logins(groups[0])
	if logins[one.Username] == one.Password || logins[two.Username] != two.Password {
		t.Errorf("logins %v", logins)
	}
	if poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "b1", "")); err != nil || poll.State != store.OpSucceeded {
		t.Errorf("a poll after the deletion says %+v, %v", poll, err)
	}
	wantCode(t, unbind(ctx, f, unbindRequest("a", "b2")), "")
}

func TestBindHookFails(t *testing.T) {
	f := brokertest.New(t, nil)
	groups := f.Pool.Warm(t, 1)
	provision(t, f, "a")
	f.Pool.OnHook(func(_ context.Context, r brokertest.Run) error {
		if r.Which == "bind" {
			return errors.New("the server's own words")
		}
		return nil
	})
	_, err := f.Broker.Bind(ctx, bindRequest("a", "b"))
	wantCode(t, err, broker.Internal)
	var e *broker.Error
	if errors.As(err, &e); strings.Contains(e.Message, "own words") {
		t.Errorf("the user sees %q", e.Message)
	}
	if _, found := getBinding(t, f, "b"); found {
		t.Error("the binding is left")
	}
	runs := f.Pool.Runs()
	if last := runs[len(runs)-1]; last.Which != "unbind" || last.Values["password"] == runs[0].Values["password"] {
		t.Errorf("undone by %+v", last)
	}
	poll, err := f.Broker.LastOperation(ctx, pollRequest("a", "b", ""))
	wantCode(t, err, "")
	if poll.State != store.OpFailed {
		t.Errorf("state %q", poll.State)
	}
	f.Pool.OnHook(nil)
	c := bind(t, f, "a", "b")
	if f.Pool.Logins(groups[0])[c.Username] != c.Password {
		t.Error("the login does not work")
	}
}

func TestBindConcurrently(t *testing.T) {
	f := brokertest.New(t, nil)
	groups := f.Pool.Warm(t, 1)
	provision(t, f, "a")
	var mu sync.Mutex
	now, most := 0, 0
	f.Pool.OnHook(func(context.Context, brokertest.Run) error {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		time.Sleep(time.Millisecond)
		mu.Lock()
		now--
		mu.Unlock()
		return nil
	})
	created := map[string]int{}
	logins := map[string]credentials{}
	var wg sync.WaitGroup
	for n := range 30 {
		wg.Go(func() {
			id := fmt.Sprintf("b%d", n%10)
			result, err := f.Broker.Bind(ctx, bindRequest("a", id))
			if err != nil {
				t.Error(err)
				return
			}
			c := decodeCredentials(t, result)
			mu.Lock()
			defer mu.Unlock()
			if result.Created {
				created[id]++
			}
			if known, ok := logins[id]; ok && known != c {
				t.Errorf("%s has two logins", id)
			}
			logins[id] = c
		})
	}
	wg.Wait()
	if most != 1 {
		t.Errorf("%d hooks at a time", most)
	}
	if len(created) != 10 || len(f.Pool.Logins(groups[0])) != 10 {
		t.Errorf("created %v", created)
	}
	numbers := map[any]bool{}
	for _, r := range f.Pool.Runs() {
		numbers[r.Values["number"]] = true
	}
	if len(numbers) != 10 {
		t.Errorf("%d numbers for 10 bindings", len(numbers))
	}
}

func TestBindWaitsInVain(t *testing.T) {
	f := brokertest.New(t, func(o *broker.Options) { o.LockTimeout = 10 * time.Millisecond })
	groups := f.Pool.Warm(t, 1)
	provision(t, f, "a")
	brokertest.Eventually(t, "background work is done", func() bool { return f.Pool.Published(groups[0]) })
	running, goOn := make(chan bool, 1), make(chan bool)
	f.Pool.OnHook(func(context.Context, brokertest.Run) error {
		running <- true
		<-goOn
		return nil
	})
	done := make(chan error, 1)
	go func() {
		_, err := f.Broker.Bind(ctx, bindRequest("a", "b"))
		done <- err
	}()
	<-running
	_, err := f.Broker.Bind(ctx, bindRequest("a", "b"))
	wantCode(t, err, broker.Concurrency)
	wantCode(t, unbind(ctx, f, unbindRequest("a", "b")), broker.Concurrency)
	close(goOn)
	wantCode(t, <-done, "")
}

// The client hangs up while the hook runs: the binding is made all the same.
func TestBindClientHangsUp(t *testing.T) {
	f := brokertest.New(t, nil)
	f.Pool.Warm(t, 1)
	provision(t, f, "a")
	client, hangUp := context.WithCancel(ctx)
	f.Pool.OnHook(func(ctx context.Context, _ brokertest.Run) error {
		hangUp()
		return ctx.Err()
	})
	_, err := f.Broker.Bind(client, bindRequest("a", "b"))
	wantCode(t, err, "")
}
