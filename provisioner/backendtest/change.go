package backendtest

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
)

// RunChange judges how a tenant's group gets other sizes and another version of
// its recipe: with its data, at its addresses, or not at all.
func RunChange(t *testing.T, f Factory) {
	target := f(t)
	g := trio(t, target, "changing")
	g.publish(t)
	small := scaled(g.group.Definition, 1)
	big := scaled(small, 2)
	for place := range trioMembers {
		g.in(t, place, "echo kept >/tmp/kept; sync")
	}
	t.Run("Grow", func(t *testing.T) {
		disk := number(g.in(t, 2, "df -k /tmp | awk 'NR == 2 {print \"size \" $2}'"), "size ")
		g.change(t, big)
		for place := range trioMembers {
			if said := g.in(t, place, "cat /tmp/kept"); !strings.Contains(said, "kept") {
				t.Errorf("member %d has lost its data: %s", place, said)
			}
		}
		if now := number(g.in(t, 2, "df -k /tmp | awk 'NR == 2 {print \"size \" $2}'"), "size "); now < disk*19/10 {
			t.Errorf("the disk has %d kB, was %d", now, disk)
		}
		limit := number(g.in(t, 1, "df -k /dev/shm | awk 'NR == 2 {print \"size \" $2}'"), "size ")
		if want := int64(big.Members["cache"].Memory) / 4 / 1024; limit < want {
			t.Errorf("/dev/shm has %d kB, want %d", limit, want)
		}
	})
	t.Run("Again", func(t *testing.T) { g.change(t, big) })
	t.Run("DiskTooSmall", func(t *testing.T) {
		if target.Lacks[DiskShrinks] != "" {
			g.unfit(t, small)
			return
		}
		g.in(t, 2, "dd if=/dev/zero of=/tmp/full bs=1M count="+mib(int64(small.Members["web"].Disk)*5/4)+" 2>&1")
		g.unfit(t, small)
		g.in(t, 2, "rm /tmp/full; sync")
	})
	if target.Lacks[DiskShrinks] != "" { // what is there stays as large as it is
		for role, size := range small.Members {
			size.Disk = big.Members[role].Disk
			small.Members[role] = size
		}
	}
	t.Run("MemoryTooSmall", func(t *testing.T) {
		g.in(t, 1, "setsid perl -e 'push @x, \"x\" x (1 << 20) for 1 .. "+mib(int64(small.Members["cache"].Memory))+"; sleep 100' >/dev/null 2>&1 </dev/null & sleep 1")
		g.unfit(t, small)
		g.in(t, 1, "pkill -KILL -f 'sleep 10[0]'; sleep 0.5")
	})
	t.Run("OtherMembers", func(t *testing.T) {
		other := scaled(small, 2)
		other.Recipe.Roles = slices.Clone(other.Recipe.Roles[:2])
		g.unfit(t, other)
	})
	t.Run("Shrink", func(t *testing.T) {
		g.change(t, small)
		if said := g.in(t, 2, "cat /tmp/kept"); !strings.Contains(said, "kept") {
			t.Errorf("the data are lost: %s", said)
		}
	})
	t.Run("Upgrade", func(t *testing.T) {
		next := scaled(small, 1)
		next.Recipe.Version = "99.0.0"
		next.Environment = map[string]string{"VERSION": "99"}
		maps.Copy(next.Environment, small.Environment)
		g.change(t, next)
		if said := g.in(t, 2, "cat /tmp/kept; echo $VERSION"); !strings.Contains(said, "kept\n99") {
			t.Errorf("after the upgrade a member says %q", said)
		}
	})
	t.Run("DoesNotStart", func(t *testing.T) {
		size := g.in(t, 2, "df -k /tmp | awk 'NR == 2 {print \"size \" $2}'")
		broken := scaled(g.group.Definition, 2)
		broken.Recipe.Roles = slices.Clone(broken.Recipe.Roles)
		for i := range broken.Recipe.Roles {
			broken.Recipe.Roles[i].Prepare = &catalog.Program{Command: []string{"/bin/false"}}
		}
		to := g.group
		to.Definition = broken
		if _, err := target.Backend.Change(t.Context(), to); err == nil {
			t.Fatal("a change to servers that do not start says nothing")
		}
		g.seen = g.await(t, "all members well as before", provisioner.Observation.Healthy)
		for place := range trioMembers {
			if said := g.in(t, place, "cat /tmp/kept"); !strings.Contains(said, "kept") {
				t.Errorf("member %d has lost its data: %s", place, said)
			}
		}
		if now := g.in(t, 2, "df -k /tmp | awk 'NR == 2 {print \"size \" $2}'"); now != size && target.Lacks[DiskShrinks] == "" {
			t.Errorf("the disk has %s, had %s", now, size)
		}
	})
	t.Run("Repair", func(t *testing.T) { g.dies(t, 1) })
	t.Run("Reset", func(t *testing.T) {
		g.change(t, big)
		g.cutoff(t)
		g.seen = g.await(t, "all members well", provisioner.Observation.Healthy)
		g.reset(t)
		g.publish(t)
		if said := g.in(t, 2, "cat /tmp/kept; df -k /tmp | awk 'NR == 2 {print \"size \" $2}'"); strings.Contains(said, "kept\n") ||
			number(said, "size ") < int64(small.Members["web"].Disk)/1024 {
			t.Errorf("after the reset a member says %q", said)
		}
	})
}

func mib(n int64) string { return strconv.FormatInt(n>>20, 10) }

// scaled is a definition with n times the sizes.
func scaled(d provisioner.Definition, n int) provisioner.Definition {
	d.Members = maps.Clone(d.Members)
	for role, size := range d.Members {
		size.CPU, size.Memory, size.Disk = size.CPU*float64(n), size.Memory*catalog.Bytes(n), size.Disk*catalog.Bytes(n)
		d.Members[role] = size
	}
	return d
}

// change must succeed in the same containers, at the same addresses.
func (g *tenant) change(t testing.TB, d provisioner.Definition) {
	t.Helper()
	to := g.group
	to.Definition = d
	o, err := g.target.Backend.Change(t.Context(), to)
	if err != nil {
		t.Fatalf("change: %v", err)
	}
	if !slices.Equal(o.Endpoints, g.group.Endpoints) {
		t.Errorf("endpoints %+v became %+v", g.group.Endpoints, o.Endpoints)
	}
	sameContainers(t, g.seen, o)
	g.group.Definition = d
	g.note(t, o)
}

// unfit must be refused, and nothing may have changed.
func (g *tenant) unfit(t testing.TB, d provisioner.Definition) {
	t.Helper()
	to := g.group
	to.Definition = d
	_, err := g.target.Backend.Change(t.Context(), to)
	var u *provisioner.Unfit
	if !errors.As(err, &u) || u.Message == "" {
		t.Fatalf("a change that cannot be says %v", err)
	}
	o := g.await(t, "all members well", provisioner.Observation.Healthy)
	sameContainers(t, g.seen, o)
}
