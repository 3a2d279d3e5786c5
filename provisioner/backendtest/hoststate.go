package backendtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// HostState lists what there is on this host of a back end that keeps its
// groups below stateDir and whose cgroups are named so: files, mounts, loop
// devices, cgroups and processes in them; and all links and addresses of this
// network namespace, which is the test's own. Others on the host do not show up,
// so that a test may compare it before and after.
func HostState(t testing.TB, stateDir, cgroup string) []string {
	t.Helper()
	var out []string
	add := func(kind string, what ...any) { out = append(out, kind+" "+fmt.Sprint(what...)) }
	_ = filepath.WalkDir(stateDir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			add("file", path)
		}
		return nil
	})
	for line := range strings.Lines(read("/proc/self/mountinfo")) {
		if strings.Contains(line, stateDir) {
			add("mount", strings.TrimSpace(line))
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if file := read(l); strings.HasPrefix(file, stateDir+"/") {
			add("loop device", strings.TrimSpace(file))
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.Contains(path, "/"+cgroup) {
			add("cgroup", path)
		}
		return nil
	})
	processes, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, p := range processes {
		// One that has ended and waits for its parent holds nothing any more.
		_, stat, _ := strings.Cut(read(filepath.Join(filepath.Dir(p), "stat")), ") ")
		if strings.Contains(read(p), "/"+cgroup) && stat != "" && stat[0] != 'Z' && stat[0] != 'X' {
			add("process", filepath.Base(filepath.Dir(p)))
		}
	}
	nodes, _ := filepath.Glob(filepath.Join(os.TempDir(), "remuda-loop-*"))
	for _, n := range nodes {
		add("file", n)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		add("link", l.Attrs().Name)
	}
	slices.Sort(out)
	return out
}

// Surplus is what is in after and not in before.
func Surplus(before, after []string) []string {
	var out []string
	for _, s := range after {
		if !slices.Contains(before, s) {
			out = append(out, s)
		}
	}
	return out
}

func read(file string) string {
	b, _ := os.ReadFile(file)
	return string(b)
}
