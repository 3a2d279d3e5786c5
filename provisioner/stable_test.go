package provisioner_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/backendtest"
	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// definition of an offering with one plan, "small".
func definition(offering string) provisioner.Definition {
	return provisioner.Definition{
		Offering: offering, Plan: "small",
		Recipe: catalog.Recipe{
			Name:        offering,
			Roles:       []catalog.Role{{Name: "server"}},
			Endpoints:   []catalog.Endpoint{{Name: "sql", Port: 3306}, {Name: "admin", Port: 80}},
			Bind:        &catalog.Program{Command: []string{"/bin/true"}},
			Credentials: map[string]string{"host": "{{.host}}", "port": "{{.ports.sql}}", "username": "{{.username}}", "admin_port": "{{.ports.admin}}"},
		},
	}
}

// stable is a pool under test with what it works on. It lives in a synctest
// bubble: time passes only when nothing else is to be done.
type stable struct {
	t       *testing.T
	store   store.Store
	backend *backendtest.Memory
	pool    *provisioner.Pool
	stop    func()

	mu       sync.Mutex
	assigned []string
}

// inBubble runs a test with an empty store and back end.
func inBubble(t *testing.T, test func(t *testing.T, s *stable)) {
	path := filepath.Join(t.TempDir(), "store.db")
	synctest.Test(t, func(t *testing.T) {
		db, err := sqlite.Open(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		s := &stable{t: t, store: db, backend: backendtest.NewMemory()}
		defer db.Close()
		defer func() {
			s.end()
			if v := s.backend.Violations(); len(v) > 0 {
				t.Errorf("contract broken: %v", v)
			}
		}()
		test(t, s)
	})
}

// run starts a pool, after ending the one before.
func (s *stable) run(limits provisioner.Limits, definitions ...provisioner.Definition) {
	s.t.Helper()
	s.begin(s.store, limits, definitions...)
	select {
	case <-s.pool.Ready():
	case <-time.After(time.Minute):
		s.t.Fatal("pool does not get ready")
	}
	synctest.Wait()
}

func (s *stable) begin(db store.Store, limits provisioner.Limits, definitions ...provisioner.Definition) {
	s.t.Helper()
	s.end()
	o := provisioner.Options{Store: db, Backend: s.backend, Definitions: definitions, Limits: map[string]provisioner.Limits{}}
	for _, d := range definitions {
		o.Limits[d.Offering+"/"+d.Plan] = limits
	}
	pool, err := provisioner.New(o)
	if err != nil {
		s.t.Fatal(err)
	}
	pool.OnAssigned(func(id string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.assigned = append(s.assigned, id)
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = pool.Run(ctx)
	}()
	s.pool = pool
	s.stop = func() { cancel(); <-ended }
}

func (s *stable) end() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// sleep lets time pass, and then everything that is due happen.
func (s *stable) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (s *stable) view(fn func(store.Tx) error) {
	s.t.Helper()
	if err := s.store.View(context.Background(), fn); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stable) update(fn func(store.Tx) error) {
	s.t.Helper()
	if err := s.store.Update(context.Background(), fn); err != nil {
		s.t.Fatal(err)
	}
}

// groups returns the groups in one of the states; all, when none is given.
func (s *stable) groups(states ...store.GroupState) (out []store.Group) {
	s.t.Helper()
	s.view(func(tx store.Tx) error {
		all, err := tx.Groups().List()
		for _, g := range all {
			if len(states) == 0 || slices.Contains(states, g.State) {
				out = append(out, g)
			}
		}
		return err
	})
	return out
}

func (s *stable) expect(what string, want int, states ...store.GroupState) {
	s.t.Helper()
	if got := s.groups(states...); len(got) != want {
		s.t.Fatalf("%s: %d groups in %v, want %d; all: %s", what, len(got), states, want, s.show())
	}
}

func (s *stable) show() (out string) {
	for _, g := range s.groups() {
		out += fmt.Sprintf("\n%s %s generation %d for %q: %s", g.ID, g.State, g.Generation, g.InstanceID, g.Reason)
	}
	return out
}

// provision does what the use case does. It returns the group, or "" when the
// instance waits.
func (s *stable) provision(d provisioner.Definition, instance string) (group string) {
	s.t.Helper()
	s.update(func(tx store.Tx) error {
		g, err := tx.Groups().ClaimWarm(d.Fingerprint(), instance, time.Now())
		group = g.ID
		i := store.Instance{ID: instance, Fingerprint: d.Fingerprint(), State: store.InstanceReady, GroupID: g.ID, CreatedAt: time.Now()}
		if errors.Is(err, store.ErrNotFound) {
			i.State = store.InstanceCreating
		} else if err != nil {
			return err
		}
		return tx.Instances().Put(i)
	})
	s.pool.Demand(d.Fingerprint(), group != "")
	if group != "" {
		if err := s.pool.Publish(context.Background(), group); err != nil {
			s.t.Fatal(err)
		}
	}
	return group
}

// giveBack is the transaction of a deprovision.
func (s *stable) giveBack(instance string) (group string) {
	s.t.Helper()
	s.update(func(tx store.Tx) error {
		i, err := tx.Instances().Get(instance)
		if err != nil {
			return err
		}
		group = i.GroupID
		if g, err := tx.Groups().Get(group); err == nil {
			g.State, g.InstanceID = store.GroupResetting, ""
			g.Generation++
			g.Since, g.ReturnedAt = time.Now(), time.Now()
			if err := tx.Groups().Put(g); err != nil {
				return err
			}
		}
		return tx.Instances().Delete(instance)
	})
	return group
}

func (s *stable) deprovision(instance string) (group string) {
	s.t.Helper()
	group = s.giveBack(instance)
	if err := s.pool.Release(context.Background(), group); err != nil {
		s.t.Fatal(err)
	}
	if s.backend.Published(group) {
		s.t.Fatal("released group is still reachable")
	}
	return group
}

// consistent checks what must be true whenever the pool is at rest.
func (s *stable) consistent() {
	s.t.Helper()
	rows := map[string]store.Group{}
	for _, g := range s.groups() {
		rows[g.ID] = g
		if g.State != store.GroupWarm && g.State != store.GroupClaimed {
			s.t.Errorf("group %s is still %s", g.ID, g.State)
		}
	}
	there, err := s.backend.List(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, o := range there {
		if rows[o.ID].ID == "" {
			s.t.Errorf("group %s of the back end is not in the store", o.ID)
		}
		if !o.Healthy() || o.Generation != rows[o.ID].Generation {
			s.t.Errorf("group %s: %+v for %+v", o.ID, o, rows[o.ID])
		}
	}
	if len(there) != len(rows) {
		s.t.Errorf("%d groups in the back end, %d in the store: %s", len(there), len(rows), s.show())
	}
	holder := map[string]string{}
	s.view(func(tx store.Tx) error {
		all, err := tx.Instances().List()
		for _, i := range all {
			g := rows[i.GroupID]
			if g.State != store.GroupClaimed || g.InstanceID != i.ID {
				s.t.Errorf("instance %s (%s) has group %q: %+v", i.ID, i.State, i.GroupID, g)
			}
			if other := holder[i.GroupID]; other != "" {
				s.t.Errorf("group %s is lent to %s and %s", i.GroupID, other, i.ID)
			}
			holder[i.GroupID] = i.ID
		}
		return err
	})
	for _, g := range rows {
		if g.State == store.GroupClaimed && holder[g.ID] == "" {
			s.t.Errorf("group %s is claimed by nobody", g.ID)
		}
	}
}
