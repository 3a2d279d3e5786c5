package provisioner_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/store"
)

func TestRestartAdopts(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		s.run(provisioner.Limits{Floor: 2, Ceiling: 5, Keep: time.Minute}, d)
		s.sleep(2 * time.Second)
		lent := s.provision(d, "i")
		s.sleep(3 * time.Second)
		rows, calls := s.groups(), len(s.backend.Calls(""))
		s.end()
		s.expect("pool ended", 3)
		if !s.backend.Published(lent) {
			t.Error("the end of the pool cut the tenant off")
		}
		s.run(provisioner.Limits{Floor: 2, Ceiling: 5, Keep: time.Minute}, d)
		s.sleep(10 * time.Second)
		if !reflect.DeepEqual(s.groups(), rows) {
			t.Errorf("groups were %+v and are %+v", rows, s.groups())
		}
		if extra := s.backend.Calls("")[calls:]; len(extra) > 0 {
			t.Errorf("healthy groups were touched: %+v", extra)
		}
	})
}

// TestRestartOfTheHost: nothing runs any more. Tenants come first.
func TestRestartOfTheHost(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		limits := provisioner.Limits{Floor: 2, Ceiling: 5, Keep: time.Minute}
		s.run(limits, d)
		s.sleep(2 * time.Second)
		s.provision(d, "i")
		s.provision(d, "j")
		s.sleep(3 * time.Second)
		s.end()
		for _, g := range s.groups() {
			s.backend.Vanish(g.ID)
		}
		lent := s.groups(store.GroupClaimed)
		before := len(s.backend.Calls(""))
		s.backend.Fault(func(ctx context.Context, method, id string) error {
			if method != "list" {
				time.Sleep(time.Second)
			}
			return nil
		})
		s.run(limits, d)
		s.sleep(20 * time.Second)
		s.consistent()
		if !reflect.DeepEqual(s.groups(store.GroupClaimed), lent) {
			t.Errorf("lent groups changed: %s", s.show())
		}
		repaired := 0
		for _, c := range s.backend.Calls("")[before:] {
			switch {
			case c.Method == "repair":
				repaired++
			case c.Method == "create" && repaired < 2:
				t.Errorf("create before all repairs had begun")
			}
		}
		s.expect("warm again", 2, store.GroupWarm)
	})
}

func TestRestartFinishesWhatWasBegun(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d, old := definition("db"), definition("db")
		old.Image = "before"
		limits := provisioner.Limits{Floor: 1, Ceiling: 9, Keep: time.Minute}
		s.run(provisioner.Limits{Floor: 3, Ceiling: 9, Keep: time.Minute}, old)
		s.sleep(3 * time.Second)
		for _, i := range []string{"old-kept", "old-given-back", "old-vanished"} {
			if s.provision(old, i) == "" {
				t.Fatal("no group")
			}
		}
		s.sleep(3 * time.Second)
		s.run(limits, old, func() provisioner.Definition { d.Plan = "other"; return d }())
		s.sleep(3 * time.Second)
		reset := s.provision(d, "i")
		s.sleep(3 * time.Second)
		s.end()

		// The broker died between its transaction and the release.
		s.giveBack("i")
		s.giveBack("old-given-back")
		s.giveBack("old-vanished")
		now := time.Now()
		s.update(func(tx store.Tx) error {
			for n, state := range []store.GroupState{store.GroupCreating, store.GroupClosing} {
				g := store.Group{ID: fmt.Sprint("half", n), Fingerprint: d.Fingerprint(), State: state, Generation: 1, CreatedAt: now, Since: now}
				if err := tx.Groups().Put(g); err != nil {
					return err
				}
			}
			return tx.Instances().Put(store.Instance{ID: "waits-for-old", Fingerprint: old.Fingerprint(), State: store.InstanceCreating, CreatedAt: now})
		})
		s.backend.Plant("half0")
		s.backend.Plant("stray")
		s.run(limits, d) // old is not current any more
		if s.backend.Published(reset) {
			t.Error("ready, but a former tenant is not cut off")
		}
		s.sleep(20 * time.Second)
		s.consistent()
		for _, g := range s.groups() {
			if g.Fingerprint == old.Fingerprint() && g.State != store.GroupClaimed {
				t.Errorf("group of the old definition is %s", g.State)
			}
			if g.ID == reset && (g.State != store.GroupWarm || g.Generation != 2) {
				t.Errorf("released group is %+v", g)
			}
		}
		s.expect("old tenant and the one that waited", 2, store.GroupClaimed)
		s.deprovision("old-kept")
		s.sleep(5 * time.Second)
		s.consistent()
		s.expect("old group is not kept", 1, store.GroupClaimed)
	})
}

func TestRunWaitsForTheBackEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		s.backend.Fault(func(context.Context, string, string) error { return provisioner.ErrUnavailable })
		s.begin(s.store, small, definition("db"))
		s.sleep(10 * time.Second)
		select {
		case <-s.pool.Ready():
			t.Error("ready without a back end")
		default:
		}
		s.backend.Fault(nil)
		s.sleep(30 * time.Second)
		<-s.pool.Ready()
		s.consistent()
	})
}

func TestForgottenGroupsAreFound(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		s.run(small, d)
		s.sleep(2 * time.Second)
		s.provision(d, "i")
		s.giveBack("i") // and no release
		s.sleep(time.Minute)
		s.expect("nobody knows", 1, store.GroupResetting)
		s.sleep(10 * time.Minute)
		s.consistent()
	})
}

// mortal is a store that stops to answer after so many updates, as when the
// process had been killed there. The last one is kept or not.
type mortal struct {
	store.Store
	mu   sync.Mutex
	left int
	kept bool // the last update is committed, though its caller never learns
}

var errDead = errors.New("process is dead")

func (m *mortal) Update(ctx context.Context, fn func(store.Tx) error) error {
	m.mu.Lock()
	m.left--
	left := m.left
	m.mu.Unlock()
	if left > 0 {
		return m.Store.Update(ctx, fn)
	}
	if left == 0 && m.kept {
		if err := m.Store.Update(ctx, fn); err != nil {
			return err
		}
	}
	return errDead
}

// TestCrashAnywhere kills the pool after its n-th write, for all n that the
// scene has, and expects the next one to set all right.
func TestCrashAnywhere(t *testing.T) {
	limits := provisioner.Limits{Floor: 2, Ceiling: 4, Keep: time.Minute}
	const most = 22
	for _, kept := range []bool{false, true} {
		for n := 1; n <= most; n++ {
			t.Run(fmt.Sprintf("n=%d,kept=%v", n, kept), func(t *testing.T) {
				inBubble(t, func(t *testing.T, s *stable) {
					d := definition("db")
					m := &mortal{Store: s.store, left: n, kept: kept}
					scene(s, m, limits, d)
					if n == most && m.left <= 0 {
						t.Error("the scene has more writes than are tried")
					}
					s.run(limits, d)
					s.sleep(time.Minute)
					s.consistent()
					s.view(func(tx store.Tx) error {
						all, err := tx.Instances().List()
						if len(all) != 3 {
							t.Errorf("%d instances are left", len(all))
						}
						return err
					})
				})
			})
		}
	}
}

// scene is what happens before the crash: four instances, two of which wait for
// their groups at first; one tenant's group breaks, another is given back and is
// not clean; a warm group breaks.
func scene(s *stable, db store.Store, limits provisioner.Limits, d provisioner.Definition) {
	s.backend.Fault(func(ctx context.Context, method, id string) error {
		switch method {
		case "create":
			time.Sleep(700 * time.Millisecond)
		case "reset":
			return provisioner.ErrUnclean
		}
		return nil
	})
	s.begin(db, limits, d)
	s.sleep(time.Second)
	var groups []string
	for _, i := range []string{"i1", "i2", "i3", "i4"} {
		group := ""
		s.update(func(tx store.Tx) error { // as the broker, whose store lives on
			g, err := tx.Groups().ClaimWarm(d.Fingerprint(), i, time.Now())
			inst := store.Instance{ID: i, Fingerprint: d.Fingerprint(), State: store.InstanceReady, GroupID: g.ID, CreatedAt: time.Now()}
			if errors.Is(err, store.ErrNotFound) {
				inst.State = store.InstanceCreating
			} else if err != nil {
				return err
			}
			group = g.ID
			return tx.Instances().Put(inst)
		})
		groups = append(groups, group)
		s.pool.Demand(d.Fingerprint(), group != "")
	}
	s.sleep(3 * time.Second)
	if groups[0] != "" {
		s.backend.Break(groups[0])
	}
	group := s.giveBack("i2")
	if group != "" {
		_ = s.pool.Release(context.Background(), group)
	}
	s.sleep(3 * time.Second)
	for _, g := range s.groups(store.GroupWarm) {
		s.backend.Break(g.ID)
	}
	s.sleep(3 * time.Second)
	s.end()
	s.backend.Fault(nil)
}
