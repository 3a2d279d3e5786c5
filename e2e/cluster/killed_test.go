//go:build kube

package cluster

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const killed = "REMUDA_TEST_KILLED"

// TestKilled kills a test process that has a cluster, in a network namespace
// which is the cluster's own, and looks what is left.
func TestKilled(t *testing.T) {
	if os.Getenv(killed) != "" {
		fmt.Println("FOLDER", filepath.Dir(t.TempDir()))
		c := start(t, Options{})
		apply(t, c, webPod)
		await(t, c, "pod/web", "condition=Ready")
		apply(t, c, fmt.Sprintf(diskPod, "data"))
		await(t, c, "pod/data", "condition=Ready")
		for process := range processesOf(c) {
			fmt.Println("PROCESS", process)
		}
		fmt.Println("READY", c.name)
		select {}
	}
	before := trace(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), killed+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	processes := map[string]bool{}
	ready, name := false, ""
	for said := bufio.NewScanner(out); !ready && said.Scan(); {
		if process, is := strings.CutPrefix(said.Text(), "PROCESS "); is {
			processes[process] = true
		}
		if folder, is := strings.CutPrefix(said.Text(), "FOLDER "); is { // of the test itself
			t.Cleanup(func() { os.RemoveAll(folder) })
		}
		name, ready = strings.CutPrefix(said.Text(), "READY ")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if !ready || len(processes) < 10 {
		t.Fatalf("the cluster did not start, %d processes", len(processes))
	}
	deadline := time.Now().Add(10 * time.Second)
	for len(alive(processes)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("still there: %v", alive(processes))
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := sweep(); err != nil {
		t.Fatal(err)
	}
	if left := named(name, os.TempDir()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if diff := difference(before, trace(t)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}
