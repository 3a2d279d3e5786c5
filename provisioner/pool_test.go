package provisioner_test

import (
	"context"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/store"
)

var small = provisioner.Limits{Floor: 1, Ceiling: 5, Keep: 5 * time.Minute}

func TestPoolFillsToFloor(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		s.run(provisioner.Limits{Floor: 3, Ceiling: 5}, definition("db"), definition("ftp"))
		s.sleep(5 * time.Second)
		s.expect("after start", 6, store.GroupWarm)
		s.consistent()
		f, ceiling, ok := s.pool.Fingerprint("db", "small")
		if f != definition("db").Fingerprint() || ceiling != 5 || !ok {
			t.Errorf("fingerprint %q, %d, %v", f, ceiling, ok)
		}
		if _, _, ok := s.pool.Fingerprint("db", "large"); ok {
			t.Error("unknown plan has a fingerprint")
		}
	})
}

func TestPoolLendsResetsAndLendsAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		s.run(provisioner.Limits{Floor: 1, Ceiling: 1, Keep: time.Hour}, d)
		s.sleep(2 * time.Second)
		var first string
		for n, instance := range []string{"i1", "i2", "i3"} {
			g := s.provision(d, instance)
			if n == 0 {
				first = g
			}
			if g == "" || g != first {
				t.Fatalf("instance %s got %q, want %q", instance, g, first)
			}
			s.sleep(time.Second)
			s.deprovision(instance)
			s.sleep(time.Second)
			s.consistent()
		}
		if got := s.groups(store.GroupWarm); len(got) != 1 || got[0].Generation != 4 {
			t.Errorf("after three tenants: %s", s.show())
		}
		if n := len(s.backend.Calls("create")); n != 1 {
			t.Errorf("%d creates", n)
		}
	})
}

func TestWaitingInstancesAreServedInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		s.run(provisioner.Limits{Floor: 0, Ceiling: 3, Keep: time.Minute}, d)
		s.sleep(5 * time.Second)
		s.expect("always cold", 0)
		for _, i := range []string{"c", "a", "b"} {
			s.provision(d, i)
			time.Sleep(time.Millisecond)
		}
		s.sleep(5 * time.Second)
		s.expect("all served", 3, store.GroupClaimed)
		s.consistent()
		s.provision(d, "d") // beyond the ceiling: waits for one that is given back
		s.sleep(time.Minute)
		s.expect("ceiling", 3)
		s.deprovision("a")
		s.sleep(time.Second)
		s.consistent()
		if len(s.assigned) != 4 || s.assigned[3] != "d" {
			t.Errorf("assigned %v", s.assigned)
		}
		for _, i := range []string{"b", "c", "d"} {
			s.deprovision(i)
		}
		s.sleep(10 * time.Second)
		s.expect("kept", 3, store.GroupWarm)
		s.sleep(2 * time.Minute)
		s.expect("not kept for ever", 0)
		s.consistent()
	})
}

func TestPoolGrowsWithDemandAndShrinks(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		s.backend.Fault(func(ctx context.Context, method, id string) error {
			if method == "create" || method == "reset" {
				time.Sleep(3 * time.Second)
			}
			return nil
		})
		s.run(provisioner.Limits{Floor: 1, Ceiling: 20, Keep: time.Minute}, d)
		s.sleep(5 * time.Second)
		for n := range 120 {
			i := strconv.Itoa(n)
			s.provision(d, i)
			s.sleep(4 * time.Second) // longer than a create takes
			s.deprovision(i)
		}
		if l := s.pool.Levels()[0]; l.Target < 2 {
			t.Errorf("target did not grow: %+v", l)
		}
		s.sleep(20 * time.Minute)
		s.expect("after a long calm", 1)
		if l := s.pool.Levels()[0]; l.Target != 1 || l.Warm != 1 {
			t.Errorf("level is %+v", l)
		}
		s.consistent()
	})
}

func TestUnhealthyGroups(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		s.run(small, d)
		s.sleep(2 * time.Second)
		lent := s.provision(d, "i")
		s.sleep(3 * time.Second)
		before := s.groups(store.GroupClaimed)[0]
		warm := s.groups(store.GroupWarm)[0].ID

		s.backend.Break(warm)
		s.backend.Break(lent)
		s.sleep(3 * time.Second)
		s.consistent()
		s.expect("replaced", 1, store.GroupWarm)
		if s.groups(store.GroupWarm)[0].ID == warm {
			t.Error("broken warm group was not replaced")
		}
		if after := s.groups(store.GroupClaimed)[0]; !reflect.DeepEqual(after, before) {
			t.Errorf("repair changed\n%+v to\n%+v", before, after)
		}

		s.backend.Vanish(lent)
		s.backend.Vanish(s.groups(store.GroupWarm)[0].ID)
		s.sleep(3 * time.Second)
		s.consistent()
		s.expect("replaced again", 1, store.GroupWarm)
	})
}

func TestRepairBacksOff(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		s.run(small, d)
		s.sleep(2 * time.Second)
		lent := s.provision(d, "i")
		broken := errors.New("disk is gone")
		s.backend.Fault(func(_ context.Context, method, id string) error {
			if method == "repair" {
				return broken
			}
			return nil
		})
		s.backend.Break(lent)
		s.sleep(5 * time.Minute)
		if n := len(s.backend.Calls("repair")); n < 6 || n > 15 {
			t.Errorf("%d attempts in five minutes", n)
		}
		s.expect("never closed", 1, store.GroupClaimed)
		s.backend.Fault(nil)
		s.sleep(2 * time.Minute)
		s.consistent()
	})
}

func TestBadDefinitionHoldsUpNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		good, failing, hanging := definition("good"), definition("failing"), definition("hanging")
		of := func(id string) (offering string) {
			s.view(func(tx store.Tx) error {
				g, err := tx.Groups().Get(id)
				if err == nil {
					def, _ := tx.Definitions().Get(g.Fingerprint)
					offering = def.Offering
				}
				return nil
			})
			return offering
		}
		s.backend.Fault(func(ctx context.Context, method, id string) error {
			if method != "create" {
				return nil
			}
			switch of(id) {
			case "failing":
				return errors.New("image does not start")
			case "hanging":
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		s.run(provisioner.Limits{Floor: 4, Ceiling: 20, Keep: time.Minute}, failing, hanging, good)
		s.sleep(40 * time.Second)
		s.expect("the good one", 4, store.GroupWarm)
		if trouble := s.pool.Trouble(failing.Fingerprint()); !strings.Contains(trouble, "image does not start") {
			t.Errorf("trouble of the failing one: %q", trouble)
		}
		if trouble := s.pool.Trouble(good.Fingerprint()); trouble != "" {
			t.Errorf("trouble of the good one: %q", trouble)
		}
		s.sleep(5 * time.Minute)
		if trouble := s.pool.Trouble(hanging.Fingerprint()); !strings.Contains(trouble, "deadline") {
			t.Errorf("trouble of the hanging one: %q", trouble)
		}
		for n := range 8 { // the good one is as quick as ever
			s.provision(good, string(rune('a'+n)))
			s.sleep(20 * time.Second)
		}
		s.expect("lent", 8, store.GroupClaimed)
		s.backend.Fault(nil)
		s.sleep(4 * time.Minute)
		s.consistent()
		for _, d := range []provisioner.Definition{good, failing, hanging} {
			if trouble := s.pool.Trouble(d.Fingerprint()); trouble != "" {
				t.Errorf("trouble when all is well again: %q", trouble)
			}
		}
	})
}

func TestUncleanGroupIsReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		s.run(small, d)
		s.sleep(2 * time.Second)
		lent := s.provision(d, "i")
		s.backend.Fault(func(_ context.Context, method, id string) error {
			if method == "reset" {
				return provisioner.ErrUnclean
			}
			return nil
		})
		s.deprovision("i")
		s.sleep(3 * time.Second)
		s.consistent()
		for _, g := range s.groups() {
			if g.ID == lent {
				t.Error("unclean group is still there")
			}
		}
	})
}

func TestReleaseWhenCutoffFails(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		s.run(small, d)
		s.sleep(2 * time.Second)
		s.provision(d, "i")
		s.backend.Fault(func(ctx context.Context, method, id string) error {
			if method == "cutoff" {
				<-ctx.Done() // hangs
				return ctx.Err()
			}
			return nil
		})
		begun := time.Now()
		s.deprovision("i")
		if took := time.Since(begun); took > 11*time.Second {
			t.Errorf("took %s", took)
		}
		if c := s.backend.Calls("cutoff"); len(c) != 1 || c[0].Generation != 2 {
			t.Errorf("cut off by %+v, while the reset is to be for generation 2", c)
		}
		s.sleep(3 * time.Second)
		s.consistent()

		again := s.provision(d, "j")
		s.backend.Fault(func(ctx context.Context, method, id string) error {
			if method == "cutoff" || method == "close" {
				return errors.New("host does not answer")
			}
			return nil
		})
		s.giveBack("j")
		if err := s.pool.Release(context.Background(), again); err == nil {
			t.Error("release claims that the tenant is cut off")
		}
		s.backend.Fault(nil)
		if err := s.pool.Release(context.Background(), again); err != nil {
			t.Errorf("repeated release: %v", err)
		}
		s.sleep(5 * time.Second)
		s.consistent()
	})
}

// TestReleaseDuringRepair: a repair that is under way must not open the door
// again behind the cutoff.
func TestReleaseDuringRepair(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		s.run(small, d)
		s.sleep(2 * time.Second)
		lent := s.provision(d, "i")
		s.backend.Fault(func(ctx context.Context, method, id string) error {
			if method == "repair" {
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Second):
				}
			}
			return nil
		})
		s.backend.Break(lent)
		s.sleep(3 * time.Second)
		s.deprovision("i")
		s.sleep(30 * time.Second)
		if s.backend.Published(lent) {
			t.Error("repair published a released group")
		}
		s.consistent()
	})
}

func TestReleaseTwiceHurtsNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		s.run(provisioner.Limits{Floor: 1, Ceiling: 1, Keep: time.Hour}, d)
		s.sleep(2 * time.Second)
		s.provision(d, "i")
		lent := s.deprovision("i")
		s.provision(d, "j") // waits, and gets the same group
		s.sleep(2 * time.Second)
		if err := s.pool.Publish(t.Context(), lent); err != nil {
			t.Fatal(err)
		}
		if err := s.pool.Release(t.Context(), lent); err != nil {
			t.Fatal(err)
		}
		if !s.backend.Published(lent) {
			t.Error("a late release cut the next tenant off")
		}
	})
}

func TestTenantPrograms(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		s.run(small, d)
		s.sleep(2 * time.Second)
		ctx := t.Context()
		lent := s.provision(d, "i")
		values := map[string]any{"username": "u"}
		if _, err := s.pool.Program(ctx, lent, "bind", values); err != nil {
			t.Fatal(err)
		}
		calls := s.backend.Calls("program")
		g := s.groups(store.GroupClaimed)[0]
		want := map[string]any{"username": "u", "host": "127.0.0.1", "ports": map[string]int{"sql": g.Endpoints[0].Port, "admin": g.Endpoints[1].Port}}
		if len(calls) != 1 || calls[0].Program != "bind" || !reflect.DeepEqual(calls[0].Values, want) {
			t.Errorf("calls %+v", calls)
		}
		if len(values) != 1 {
			t.Error("the caller's values were changed")
		}
		if _, err := s.pool.Program(ctx, lent, "unbind", values); err != nil || len(s.backend.Calls("program")) != 1 {
			t.Errorf("program that the recipe has not: %v", err)
		}
		if _, err := s.pool.Program(ctx, lent, "nonsense", values); err == nil {
			t.Error("nonsense accepted")
		}
		a, err := s.pool.Access(ctx, lent, values)
		c := a.Credentials
		if err != nil || c["port"] != g.Endpoints[0].Port || c["admin_port"] != g.Endpoints[1].Port || c["username"] != "u" || c["host"] != "127.0.0.1" {
			t.Errorf("credentials %v, %v", c, err)
		}
		if _, err := s.pool.Access(ctx, lent, nil); err == nil {
			t.Error("missing value accepted")
		}
		s.sleep(3 * time.Second)
		for _, id := range []string{"none", s.groups(store.GroupWarm)[0].ID} {
			if s.pool.Publish(ctx, id) == nil || errorOf(s.pool.Program(ctx, id, "bind", values)) == nil {
				t.Errorf("group %q without a tenant was used", id)
			}
		}
		if err := s.pool.Publish(ctx, "none"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("publish of nothing: %v", err)
		}
	})
}

func TestViews(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		s.run(small, d)
		s.sleep(2 * time.Second)
		lent := s.provision(d, "i")
		s.sleep(5 * time.Second)
		views, err := s.pool.Groups(t.Context())
		if err != nil || len(views) != 2 {
			t.Fatalf("%+v, %v", views, err)
		}
		v := views[0]
		if v.ID != lent || v.Offering != "db" || v.InstanceID != "i" || !strings.HasPrefix(v.Address, "127.0.0.1:") || len(v.Members) != 1 || v.ClaimedAt.IsZero() {
			t.Errorf("lent group looks like %+v", v)
		}
		if v := views[1]; v.Address != "" || v.State != store.GroupWarm || !v.ClaimedAt.IsZero() {
			t.Errorf("warm group looks like %+v", v)
		}
		l := s.pool.Levels()
		if len(l) != 1 || l[0].Warm != 1 || l[0].Claimed != 1 || l[0].Ceiling != 5 || l[0].Definition != d.Fingerprint() {
			t.Errorf("levels %+v", l)
		}
		s.end()
		if err := s.pool.CloseAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.expect("closed", 0)
		if left, _ := s.backend.List(t.Context()); len(left) > 0 {
			t.Errorf("left in the back end: %+v", left)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stable) {
		d := definition("db")
		for name, o := range map[string]provisioner.Options{
			"no store":   {Backend: s.backend},
			"no backend": {Store: s.store},
			"twice":      {Store: s.store, Backend: s.backend, Definitions: []provisioner.Definition{d, d}},
			"limits": {Store: s.store, Backend: s.backend, Definitions: []provisioner.Definition{d},
				Limits: map[string]provisioner.Limits{"db/small": {Floor: 5, Ceiling: 2}}},
		} {
			if _, err := provisioner.New(o); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
	})
}

func errorOf(_ map[string]string, err error) error { return err }
