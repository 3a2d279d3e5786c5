package local

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/internal/ownthread"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/backendtest"
)

// A group's way out is in the host's network without any right; the leader
// reaches its socket while the group is published, and nothing else.
func TestEgress(t *testing.T) {
	b := newBackend(t)
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	r := recipe(t, "gateway")
	g := provisioner.Group{ID: "way", Generation: 1, Definition: provisioner.NewDefinition(r, r.Offering.Plans[0], backendtest.Image(t, recipes...))}
	defer b.Close(t.Context(), g.ID)
	links := hostLinks(t)
	o, err := b.Create(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	leader, egress := o.Members[0], o.Members[1]
	if own, _ := os.Readlink("/proc/self/ns/net"); own != namespaceOf(t, egress.PID) || own == namespaceOf(t, leader.PID) {
		t.Errorf("networks: host %s, leader %s, egress %s", own, namespaceOf(t, leader.PID), namespaceOf(t, egress.PID))
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(egress.PID) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if !strings.Contains(string(status), set+":\t0000000000000000\n") {
			t.Errorf("the egress has capabilities: %s", status)
		}
	}
	if now := hostLinks(t); now != links {
		t.Errorf("links of the host were %s, are %s", links, now)
	}
	reach := func(address string) error { return dialFrom(leader.PID, netip.MustParseAddrPort(address)) }
	if err := reach("127.0.0.80:3128"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("before the group is published: %v", err)
	}
	for range 2 {
		if err := b.Publish(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		if err := reach("127.6.55.35:3128"); err != nil {
			t.Errorf("while the group is published: %v", err)
		}
	}
	for _, address := range []string{"198.51.100.1:80", "169.254.169.254:80", "10.77.0.2:3128"} {
		if err := reach(address); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("the leader to %s: %v", address, err)
		}
	}
	if err := b.Cutoff(t.Context(), g.ID, 0); err != nil {
		t.Fatal(err)
	}
	if err := reach("127.0.0.80:3128"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after the cutoff: %v", err)
	}
	for _, generation := range []int{2, 3} {
		g.Generation = generation
		if _, err := b.Reset(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		if err := reach("127.0.0.80:3128"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("after the reset: %v", err)
		}
		if err := b.Publish(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		if err := reach("127.0.0.80:3128"); err != nil {
			t.Errorf("of the next tenant: %v", err)
		}
		if generation == 2 {
			if err := b.Cutoff(t.Context(), g.ID, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A leader that was started anew without its way out is noticed, as after a
// crash between the two, and mended.
func TestEgressOfAnotherLeader(t *testing.T) {
	rec := recordData{Members: []memberRecord{{Name: "server-0", PID: 7, StartTicks: 9}}}
	for origin, stale := range map[string]bool{rec.Members[0].origin(): false, "7 8": true, "": false} {
		if got := staleEgress(rec, agent.State{Doors: []agent.DoorState{{Origin: origin}}}); got != stale {
			t.Errorf("origin %q: %v", origin, got)
		}
	}
	if staleEgress(rec, agent.State{}) {
		t.Error("no door is stale")
	}
}

func TestCopyHostNames(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "etc/hosts")
	if err := os.WriteFile(file, []byte(strings.Repeat("something longer than the host's\n", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := copyHostNames(dir); err != nil {
		t.Fatal(err)
	}
	want, _ := os.ReadFile("/etc/hosts")
	got, err := os.ReadFile(file)
	after, _ := os.Stat(file)
	if err != nil || string(got) != string(want) || !os.SameFile(before, after) {
		t.Errorf("%v, %d bytes instead of %d, or another file", err, len(got), len(want))
	}
}

func namespaceOf(t *testing.T, pid int) string {
	t.Helper()
	name, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func hostLinks(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "link") || strings.HasPrefix(e.Name(), "leg") { // others test too
			names = append(names, e.Name())
		}
	}
	return strings.Join(names, " ")
}

// dialFrom connects from within a member's network.
func dialFrom(pid int, to netip.AddrPort) error {
	return ownthread.In(pid, []string{"net"}, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	})
}
