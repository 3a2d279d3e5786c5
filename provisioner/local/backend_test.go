package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/backendtest"
)

func TestConformance(t *testing.T) {
	backendtest.NeedRoot(t)
	backendtest.Run(t, newTarget)
}

func newTarget(t *testing.T) backendtest.Target {
	b := newBackend(t)
	nothingLeft(t, b)
	t.Cleanup(func() { closeAllGroups(t, b) })
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	return backendtest.Target{
		Backend: b, Image: backendtest.Image(t, recipes...),
		Kill: func(t testing.TB, m provisioner.MemberObservation) {
			backendtest.Kill(t, m.ID, m.PID)
		},
		Outside: b.whereIs,
	}
}

func closeAllGroups(t *testing.T, b *Backend) {
	ctx := context.Background() // the test's own has ended
	all, err := b.List(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, o := range all {
		if err := b.Close(ctx, o.ID); err != nil {
			t.Error(err)
		}
	}
}

// nothingLeft looks, when all groups of the test are closed, whether the host is
// as it was.
func nothingLeft(t *testing.T, b *Backend) {
	before := backendtest.HostState(t, b.opts.StateDir, b.cgroupParent())
	t.Cleanup(func() {
		if left := backendtest.Surplus(before, backendtest.HostState(t, b.opts.StateDir, b.cgroupParent())); len(left) > 0 {
			t.Errorf("after the last group was closed these are left: %q", left)
		}
	})
}

// redis is the definition of the least group there is.
func redis(t *testing.T) provisioner.Definition {
	t.Helper()
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	r := recipe(t, "redis")
	return provisioner.NewDefinition(r, r.Offering.Plans[0], backendtest.Image(t, recipes...))
}

// A group that is there shows up in the host's state in every way, and not any
// more when it is closed.
func TestHostState(t *testing.T) {
	b := newBackend(t)
	d := redis(t)
	state := func() []string { return backendtest.HostState(t, b.opts.StateDir, b.cgroupParent()) }
	before := state()
	if _, err := b.Create(t.Context(), provisioner.Group{ID: "seen", Generation: 1, Definition: d}); err != nil {
		t.Fatal(err)
	}
	there := backendtest.Surplus(before, state())
	if err := b.Close(t.Context(), "seen"); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"file ", "loop device ", "cgroup ", "process "} {
		if !slices.ContainsFunc(there, func(s string) bool { return strings.HasPrefix(s, kind) }) {
			t.Errorf("a running group shows no %s: %q", kind, there)
		}
	}
	if left := backendtest.Surplus(before, state()); len(left) > 0 {
		t.Errorf("after the group was closed these are left: %q", left)
	}
}

// Whoever deletes the state folder can still have everything removed.
func TestPurgeEndsWhatNobodyKnows(t *testing.T) {
	b := newBackend(t)
	d := redis(t)
	before := backendtest.HostState(t, b.opts.StateDir, b.cgroupParent())
	if _, err := b.Create(t.Context(), provisioner.Group{ID: "lost", Generation: 1, Definition: d}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(b.opts.StateDir); err != nil {
		t.Fatal(err)
	}
	anew, err := New(b.opts)
	if err == nil {
		err = anew.Purge()
	}
	if err != nil {
		t.Fatal(err)
	}
	if left := backendtest.Surplus(before, backendtest.HostState(t, b.opts.StateDir, b.cgroupParent())); len(left) > 0 {
		t.Errorf("these are left: %q", left)
	}
}

// A reset leaves no disk of an old generation, and not its blocks either while
// somebody still has the image open.
func TestOldDisksAreFreed(t *testing.T) {
	b := newBackend(t)
	d := redis(t)
	g := provisioner.Group{ID: "disks", Generation: 1, Definition: d}
	defer b.Close(t.Context(), g.ID)
	if _, err := b.Create(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	dir := b.memberDir(g.ID, "server-0")
	old, err := os.Open(filepath.Join(dir, "disk-1.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	g.Generation = 2
	if _, err := b.Reset(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "disk-*")); !slices.Equal(left, []string{filepath.Join(dir, "disk-2.img")}) {
		t.Errorf("after the reset there are the disks %q", left)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(old.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if st.Nlink != 0 || st.Blocks != 0 {
		t.Errorf("the old disk has %d links and %d blocks", st.Nlink, st.Blocks)
	}
}

// whereIs searches the folder of a group, disk images included, and what the
// agents have of the output of their processes.
func (b *Backend) whereIs(t testing.TB, group, text string) []string {
	t.Helper()
	var where []string
	unix.Sync() // what a member has written may not have reached its disk yet
	err := filepath.WalkDir(b.groupDir(group), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		there, err := fileHas(path, []byte(text))
		if there {
			where = append(where, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.record(group)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.snapshot().Members {
		log, err := b.client(group, m.Name).Log(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(log, []byte(text)) {
			where = append(where, "log of "+m.Name)
		}
	}
	return where
}

// fileHas reads what a sparse file really holds.
func fileHas(path string, text []byte) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		begin, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		end, err := unix.Seek(int(f.Fd()), begin, unix.SEEK_HOLE)
		if err != nil {
			return false, err
		}
		kept := 0
		for at = begin; at < end; {
			n, err := f.ReadAt(buf[kept:min(int64(len(buf)), int64(kept)+end-at)], at)
			if bytes.Contains(buf[:kept+n], text) {
				return true, nil
			}
			if err != nil && err != io.EOF || n == 0 {
				return false, err
			}
			at += int64(n)
			tail := buf[max(0, kept+n-len(text)) : kept+n]
			kept = copy(buf, tail)
		}
	}
}

// The CPU limit is for the servers: what the doors copy does not count.
func TestDoorsAreOutsideTheCPULimit(t *testing.T) {
	b := newBackend(t)
	d := redis(t)
	g := provisioner.Group{ID: "doors", Generation: 1, Definition: d}
	defer b.Close(t.Context(), g.ID)
	o, err := b.Create(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	pid := o.Members[0].PID
	door, err := findThread(pid, agent.DoorThread)
	if err != nil {
		t.Fatal(err)
	}
	servers, doors := b.cgroup(g.ID, "server-0"), "/"+b.cgroupParent()
	if unified() {
		servers, doors = limited(servers), servers
	}
	if of := cpuCgroup(t, pid, door); !strings.HasSuffix(of, doors) {
		t.Errorf("the doors' thread is in the cgroup %s", of)
	}
	if of := cpuCgroup(t, pid, strconv.Itoa(pid)); !strings.HasSuffix(of, servers) {
		t.Errorf("the agent is in the cgroup %s", of)
	}
}

// cpuCgroup is the cgroup that limits the processor time of a thread.
func cpuCgroup(t *testing.T, pid int, tid string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/cgroup", pid, tid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if unified() || slices.Contains(strings.Split(f[1], ","), "cpu") {
			return f[2]
		}
	}
	t.Fatalf("thread %s has no cgroup for its processor time: %s", tid, text)
	return ""
}
