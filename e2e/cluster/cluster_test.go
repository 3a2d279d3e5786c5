//go:build kube

package cluster

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestCluster starts one cluster for all of its parts, and looks at the end
// whether anything of it is left.
func TestCluster(t *testing.T) {
	goroutines := goleak.IgnoreCurrent()
	before := trace(t)
	begin := time.Now()
	c := start(t, Options{InPlace: true})
	t.Logf("start: %v", time.Since(begin).Round(10*time.Millisecond))
	for _, part := range []struct {
		name string
		run  func(*testing.T, *Cluster)
	}{
		{"pod", testPod}, {"service", testService}, {"resize", testResize}, {"memory", testMemory},
		{"security", testSecurity}, {"accounts", testAccounts}, {"kustomize", testKustomize}, {"audit", testAudit},
		{"drain", testDrain}, {"faults", testFaults}, {"disk", testDisk}, {"growth", testGrowth},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, c) })
	}
	processes := processesOf(c)
	if len(named(c.name, os.TempDir())) < 3 {
		t.Error("what is named after the cluster is not found")
	}
	t.Logf("%d processes, %d MB resident", len(processes), resident(processes))
	begin = time.Now()
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	t.Logf("stop: %v", time.Since(begin).Round(10*time.Millisecond))
	if left := alive(processes); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if diff := difference(before, trace(t)); diff != "" {
		t.Errorf("changed by the cluster:\n%s", diff)
	}
	if left := named(c.name, os.TempDir()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	goleak.VerifyNone(t, goroutines)
}

func start(t *testing.T, opts Options) *Cluster {
	t.Helper()
	opts.Log = lines{t}
	c, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !c.stopped { // the test has ended early
			_ = c.Stop()
		}
	})
	image := c.path("busybox.tar")
	if err := WriteBusybox(image); err != nil {
		t.Fatal(err)
	}
	if err := c.ImportImage(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	return c
}

// lines writes to the test's log.
type lines struct{ t *testing.T }

func (l lines) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

func resident(processes map[string]bool) int {
	pages := 0
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		if processes[identity(dir)] {
			var size, rss int
			statm, _ := os.ReadFile(dir + "/statm")
			_, _ = fmt.Sscan(string(statm), &size, &rss)
			pages += rss
		}
	}
	return pages * os.Getpagesize() >> 20
}

// kubectl runs kubectl, which must succeed.
func kubectl(t *testing.T, c *Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// apply creates the objects of a manifest.
func apply(t *testing.T, c *Cluster, manifest string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, c, "apply", "-f", file)
}

func await(t *testing.T, c *Cluster, object, condition string) {
	t.Helper()
	if out, err := c.Kubectl("wait", object, "--for="+condition, "--timeout=60s"); err != nil {
		described, _ := c.Kubectl("describe", object)
		t.Fatalf("%v\n%s\n%s", err, out, described)
	}
}

// eventually repeats f until it returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func get(c *Cluster, address string) (string, error) {
	res, err := c.HTTP().Get("http://" + address)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return strings.TrimSpace(string(body)), err
}
