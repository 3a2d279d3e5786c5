//go:build kube

package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// trace is all of this machine that a cluster could change and that is not named
// after it. Others may work on this machine, also with clusters.
func trace(t *testing.T) []string {
	t.Helper()
	var lines []string
	add := func(kind string, values ...string) {
		for _, value := range values {
			if value = strings.TrimSpace(value); value != "" {
				lines = append(lines, kind+" "+value)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		for _, ours := range []string{"remuda-cluster-", "kubelet", "containerd", "netns", "/run ", "/var/lib ", "/var/log "} {
			if strings.Contains(line, ours) {
				add("mount", line)
				break
			}
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		add("link", link.Attrs().Name+" "+link.Attrs().Flags.String())
	}
	for _, args := range [][]string{
		{"/usr/sbin/nft", "list", "ruleset"}, {"/usr/sbin/ip", "addr", "show", "lo"}, {"/usr/sbin/ip", "route"}, {"/usr/sbin/ip", "rule"},
	} {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		add(filepath.Base(args[0]), strings.Split(string(out), "\n")...)
	}
	for name := range sysctls {
		value, _ := os.ReadFile("/proc/sys/" + name)
		add(name, string(value))
	}
	value, _ := os.ReadFile(forwarding)
	add("ip_forward", string(value))
	for _, pattern := range []string{
		"/sys/fs/cgroup/*/kubepods*", "/sys/fs/cgroup/*/k8s.io*",
		"/var/lib/cni", "/var/lib/kubelet", "/var/lib/containerd/*", "/etc/cni", "/opt/cni", "/opt/containerd", "/etc/kubernetes",
		"/usr/libexec/kubernetes", "/run/containerd*", "/run/netns", "/run/kubernetes", "/run/xtables.lock",
		"/var/log/pods", "/var/log/containers", filepath.Join(os.TempDir(), "layer-*"),
	} {
		found, _ := filepath.Glob(pattern)
		add("file", found...)
	}
	slices.Sort(lines)
	return lines
}

// named lists what is named after a cluster, the folder in parent included.
func named(name, parent string) []string {
	var found []string
	for _, pattern := range []string{
		"/sys/fs/cgroup/*/" + name, "/sys/fs/cgroup/" + name, filepath.Join(locks, name), filepath.Join(parent, name),
	} {
		files, _ := filepath.Glob(pattern)
		found = append(found, files...)
	}
	return found
}

// processesOf lists the processes that are in a namespace of the cluster or in
// its cgroup, with their times of start.
func processesOf(c *Cluster) map[string]bool {
	found := map[string]bool{}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		ns, _ := os.Readlink(dir + "/ns/mnt")
		own, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", c.InitPID()))
		groups, _ := os.ReadFile(dir + "/cgroup")
		if own != "" && ns == own || strings.Contains(string(groups), c.name) {
			found[identity(dir)] = true
		}
	}
	return found
}

// identity is the number of a process with its name and its time of start.
func identity(dir string) string {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return ""
	}
	name, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	if len(f) < 20 {
		return ""
	}
	return name + ") " + f[19]
}

// alive lists which of the processes are still there.
func alive(processes map[string]bool) []string {
	var left []string
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		if id := identity(dir); id != "" && processes[id] {
			left = append(left, id)
		}
	}
	return left
}

func difference(before, after []string) string {
	var b strings.Builder
	for _, line := range before {
		if !slices.Contains(after, line) {
			fmt.Fprintln(&b, "-", line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			fmt.Fprintln(&b, "+", line)
		}
	}
	return b.String()
}
