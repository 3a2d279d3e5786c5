package broker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/postgres"
	"github.com/remuda/remuda/store/postgres/postgrestest"
)

// two are brokers on one PostgreSQL, with the same groups. The first one leads
// the pool, and can be cut off from the store.
type two struct {
	server *postgrestest.Server
	proxy  *postgrestest.Proxy // of a
	a, b   *brokertest.Fixture
}

func twoBrokers(t *testing.T) *two {
	t.Helper()
	t.Parallel()
	server, name := postgrestest.ForTest(t)
	proxy, err := postgrestest.NewProxy(server.Port)
	if err != nil {
		t.Fatal(err)
	}
	s := &two{server: server, proxy: proxy}
	t.Cleanup(s.proxy.Close)
	open := func(url string) *postgres.Store {
		st, err := postgres.Open(t.Context(), postgres.Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		return st
	}
	s.a = brokertest.NewShared(t, open(server.URLAt(name, s.proxy.Port())), nil, nil)
	s.b = brokertest.NewShared(t, open(server.URL(name)), s.a, nil)
	return s
}

func (s *two) brokers() []*brokertest.Fixture { return []*brokertest.Fixture{s.a, s.b} }

// within fails the test unless ok becomes true in that time.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("after %s: %s", time.Since(began).Round(10*time.Millisecond), what)
}

// TestSharedLife: whatever one broker makes, the other knows, and either
// reset works, with the leader and without it.
func TestSharedLife(t *testing.T) {
	s := twoBrokers(t)
	s.a.Pool.Warm(t, 4)
	for n, pair := range [][2]*brokertest.Fixture{{s.a, s.b}, {s.b, s.a}, {s.b, s.b}} {
		one, other := pair[0], pair[1]
		id := fmt.Sprint("i", n)
		provision(t, one, id)
		c := bind(t, other, id, id+"-b")
		inst, _ := getInstance(t, one, id)
		if one.Pool.Logins(inst.GroupID)[c.Username] != c.Password || !one.Pool.Published(inst.GroupID) {
			t.Error("the login does not work")
		}
		again, err := one.Broker.Bind(ctx, bindRequest(id, id+"-b"))
		wantCode(t, err, "")
		if again.Created || decodeCredentials(t, again) != c {
			t.Errorf("repeated at the other: %+v", again)
		}
		wantCode(t, unbind(ctx, one, unbindRequest(id, id+"-b")), "")
		wantCode(t, unbind(ctx, other, unbindRequest(id, id+"-b")), broker.Gone)
		wantCode(t, other.Broker.Deprovision(ctx, deprovisionRequest(id)), "")
		if other.Pool.Published(inst.GroupID) {
			t.Error("the tenant is not cut off")
		}
		wantCode(t, one.Broker.Deprovision(ctx, deprovisionRequest(id)), broker.Gone)
		within(t, 3*time.Second, "the group is warm again", func() bool { return groupStates(t, one)[store.GroupWarm] == 4 })
	}
	for i, f := range s.brokers() {
		for _, l := range f.Pool.Levels() {
			if l.Definition == brokertest.Small && (l.Warm != 4 || l.Target != 6) {
				t.Errorf("broker %d shows %+v", i, l)
			}
		}
	}
}

// TestSharedMiss: an instance that waits at a broker that does not lead gets its
// group from the one that does, at once.
func TestSharedMiss(t *testing.T) {
	s := twoBrokers(t)
	r := provisionRequest("i")
	r.ServiceID, r.PlanID, r.AcceptsIncomplete = brokertest.OtherID, brokertest.OtherPlanID, true
	result, err := s.b.Broker.Provision(ctx, r)
	wantCode(t, err, "")
	s.a.Pool.Allow(7) // the warm ones of the other plan come first
	within(t, 2*time.Second, "the instance is ready", func() bool {
		p, err := s.b.Broker.LastOperation(ctx, broker.PollRequest{FetchRequest: broker.FetchRequest{InstanceID: "i"}, Operation: result.Operation})
		return err == nil && p.State == store.OpSucceeded
	})
}

// TestSharedConcurrency: the same request at both brokers at once makes one
// instance, one binding and one deletion.
func TestSharedConcurrency(t *testing.T) {
	s := twoBrokers(t)
	s.a.Pool.Warm(t, 6)
	race := func(call func(*broker.Broker) error) (errs []error) {
		var all sync.WaitGroup
		var mu sync.Mutex
		for n := range 8 {
			f := s.brokers()[n%2]
			all.Go(func() {
				err := call(f.Broker)
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			})
		}
		all.Wait()
		return errs
	}
	for n := range 5 {
		id := fmt.Sprint("i", n)
		var mu sync.Mutex
		created, logins := 0, map[string]bool{}
		for _, err := range race(func(b *broker.Broker) error {
			r := provisionRequest(id)
			r.Parameters = []byte(`{"colour":"red"}`)
			result, err := b.Provision(ctx, r)
			mu.Lock()
			defer mu.Unlock()
			if result.Created {
				created++
			}
			return err
		}) {
			var e *broker.Error
			if err != nil && (!errors.As(err, &e) || e.Code != broker.Concurrency) {
				t.Errorf("provision: %v", err)
			}
		}
		if created != 1 {
			t.Errorf("created %d times", created)
		}
		created = 0
		for _, err := range race(func(b *broker.Broker) error {
			result, err := b.Bind(ctx, bindRequest(id, id+"-b"))
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if result.Created {
				created++
			}
			logins[string(result.Credentials)] = true
			return nil
		}) {
			wantCode(t, err, "")
		}
		if created != 1 || len(logins) != 1 {
			t.Errorf("bound %d times, with %d logins", created, len(logins))
		}
		deleted := 0
		for _, err := range race(func(b *broker.Broker) error { return b.Deprovision(ctx, deprovisionRequest(id)) }) {
			if err == nil {
				deleted++
			} else {
				wantCode(t, err, broker.Gone)
			}
		}
		if deleted != 1 {
			t.Errorf("deleted %d times", deleted)
		}
		within(t, 3*time.Second, "the group is warm again", func() bool { return groupStates(t, s.b)[store.GroupWarm] == 6 })
	}
	var v store.AuditVerifier
	records, err := s.a.Broker.Audit(ctx, store.AuditQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := v.Check(r); err != nil {
			t.Error(err)
		}
	}
}

// TestSharedDeletionInterrupts: a deletion at one broker ends work at the other.
func TestSharedDeletionInterrupts(t *testing.T) {
	s := twoBrokers(t)
	groups := s.a.Pool.Warm(t, 1)
	provision(t, s.a, "i")
	running := make(chan struct{})
	s.a.Pool.OnHook(func(ctx context.Context, r brokertest.Run) error {
		if r.Which == "bind" {
			close(running)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	bound := make(chan error)
	go func() {
		_, err := s.a.Broker.Bind(ctx, bindRequest("i", "b"))
		bound <- err
	}()
	<-running
	began := time.Now()
	wantCode(t, s.b.Broker.Deprovision(ctx, deprovisionRequest("i")), "")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the deletion took %s", took)
	}
	wantCode(t, <-bound, broker.Concurrency)
	within(t, 3*time.Second, "the group is warm again", func() bool { return groupStates(t, s.a)[store.GroupWarm] == 1 })
	if s.a.Pool.Published(groups[0]) {
		t.Error("the former tenant is not cut off")
	}
}

// TestSharedTakeover: a broker that is cut off from the store in the middle of
// its work loses it to the other, which also leads the pool from then on.
func TestSharedTakeover(t *testing.T) {
	s := twoBrokers(t)
	s.a.Pool.Warm(t, 2)
	provision(t, s.a, "i")
	provision(t, s.b, "j")
	inst, _ := getInstance(t, s.a, "i")
	running := make(chan struct{})
	var once sync.Once
	s.a.Pool.OnHook(func(ctx context.Context, r brokertest.Run) error {
		first := false
		once.Do(func() { first = true })
		if first {
			close(running)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	bound := make(chan error, 1)
	go func() {
		_, err := s.a.Broker.Bind(ctx, bindRequest("i", "b"))
		bound <- err
	}()
	<-running
	s.proxy.RefuseAll(true)
	within(t, 16*time.Second, "the other broker has undone the binding", func() bool {
		_, found := getBinding(t, s.b, "b")
		return !found
	})
	if err := <-bound; err == nil {
		t.Error("the broker that was cut off says that it bound")
	} else {
		wantCode(t, err, broker.Unavailable)
	}
	wantCode(t, s.b.Broker.Deprovision(ctx, deprovisionRequest("j")), "")
	s.a.Pool.Break(inst.GroupID)
	within(t, 16*time.Second, "the other broker leads: a group was reset, another is repaired", func() bool {
		return groupStates(t, s.b)[store.GroupWarm] == 1 && len(s.b.Pool.Calls("repair")) == 1
	})
	c := bind(t, s.b, "i", "b2")
	s.proxy.RefuseAll(false)
	within(t, 5*time.Second, "the first one serves again", func() bool {
		r, err := s.a.Broker.FetchBinding(ctx, broker.FetchRequest{InstanceID: "i", BindingID: "b2"})
		return err == nil && decodeCredentials(t, r) == c
	})
	wantCode(t, unbind(ctx, s.a, unbindRequest("i", "b2")), "")
	wantCode(t, s.a.Broker.Deprovision(ctx, deprovisionRequest("i")), "")
	within(t, 5*time.Second, "all groups are warm again", func() bool { return groupStates(t, s.b)[store.GroupWarm] == 2 })
}

// TestSharedLeaderStops: when the leader is stopped, the other one leads at once.
func TestSharedLeaderStops(t *testing.T) {
	s := twoBrokers(t)
	s.a.Pool.Warm(t, 1)
	s.a.Stop(t)
	s.a.StopPool()
	began := time.Now()
	s.b.Pool.Warm(t, 1)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestSharedExpiry: the login of a binding is taken away once.
func TestSharedExpiry(t *testing.T) {
	s := twoBrokers(t)
	s.a.Pool.Warm(t, 1)
	provision(t, s.a, "i")
	for n := range 5 {
		r := bindRequest("i", fmt.Sprint("b", n))
		r.Parameters = []byte(`{"lifetime_seconds":1}`)
		_, err := s.b.Broker.Bind(ctx, r)
		wantCode(t, err, "")
	}
	within(t, 6*time.Second, "all have expired", func() bool {
		for n := range 5 {
			if r, _ := getBinding(t, s.a, fmt.Sprint("b", n)); r.State != store.BindingExpired {
				return false
			}
		}
		return true
	})
	unbound := map[string]int{}
	for _, r := range s.a.Pool.Runs() {
		if r.Which == "unbind" {
			unbound[fmt.Sprint(r.Values["binding"])]++
		}
	}
	for id, n := range unbound {
		if n != 1 {
			t.Errorf("%s was taken away %d times", id, n)
		}
	}
}

// TestSharedUpdate: a change at a broker that does not lead is not disturbed by
// the leader's repairs.
func TestSharedUpdate(t *testing.T) {
	s := twoBrokers(t)
	groups := s.a.Pool.Warm(t, 1)
	provision(t, s.a, "i")
	s.a.Pool.OnChange(func(ctx context.Context) error {
		s.a.Pool.Break(groups[0])
		select {
		case <-time.After(2500 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		return nil
	})
	_, err := s.b.Broker.Update(ctx, broker.UpdateRequest{InstanceID: "i", ServiceID: brokertest.ServiceID, PlanID: brokertest.MediumID})
	if err == nil {
		t.Error("the group is not well, and was changed")
	}
	within(t, 5*time.Second, "the group is repaired", func() bool { return len(s.a.Pool.Calls("repair")) > 0 })
	// The fixture says if the repair came during the change.
}
