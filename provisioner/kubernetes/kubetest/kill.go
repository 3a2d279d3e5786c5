package kubetest

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// KillContainer kills PID 1 of a container by its id as Kubernetes gives it.
func KillContainer(t testing.TB, id string) {
	t.Helper()
	if err := unix.Kill(InitOf(t, id), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// InitOf is PID 1 of a container, as the host counts it.
func InitOf(t testing.TB, id string) int {
	t.Helper()
	_, id, _ = strings.Cut(id, "://")
	if len(id) < 32 {
		t.Fatalf("container id %q", id)
	}
	all, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, f := range all {
		text, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(text, []byte(id)) {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(f), "status"))
		if err != nil || !bytes.Contains(status, []byte("\t1\n")) || !isInit(string(status)) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		return pid
	}
	t.Fatalf("container %s has no first process", id)
	return 0
}

func isInit(status string) bool {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(rest)
			return len(f) > 1 && f[len(f)-1] == "1"
		}
	}
	return false
}
