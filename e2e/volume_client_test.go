package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/backendtest"
)

// nfs runs one of libnfs's programs.
func nfs(program string, words ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, program, words...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s%s", program, err, out.String(), said.String())
	}
	return out.String(), nil
}

// nfsURL is how libnfs names a file of a binding's export.
func nfsURL(c map[string]any, file string) string {
	return fmt.Sprintf("nfs://%s%s/%s?version=4&nfsport=%.0f", c["host"], c["export"], file, c["port"])
}

func put(t *testing.T, c map[string]any, file, text string) error {
	t.Helper()
	from := filepath.Join(t.TempDir(), "from")
	if err := os.WriteFile(from, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := nfs("nfs-cp", from, nfsURL(c, file))
	return err
}

func wantFile(t *testing.T, c map[string]any, file, want string) {
	t.Helper()
	if got, err := nfs("nfs-cat", nfsURL(c, file)); err != nil || got != want {
		t.Errorf("%s has %q, want %q: %v", file, got, want, err)
	}
}

func openVolume(t *testing.T, c map[string]any) (*backendtest.NFS, []byte) {
	t.Helper()
	client, err := backendtest.DialNFS(t.Context(), address(c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	export, err := client.Lookup(c["export"].(string))
	if err != nil {
		t.Fatal(err)
	}
	return client, export
}

func stillThere(pid int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if _, after, _ := strings.Cut(string(text), ") "); err == nil && !strings.HasPrefix(after, "Z") {
		return fmt.Errorf("process %d is still there", pid)
	}
	return nil
}

// childOf finds a process by its name and its parent.
func childOf(t *testing.T, parent int, name string) int {
	t.Helper()
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		text, _ := os.ReadFile(stat)
		before, after, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(after)
		if strings.HasSuffix(before, "("+name) && len(f) > 1 && f[1] == strconv.Itoa(parent) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			return pid
		}
	}
	t.Fatalf("no %s in the member", name)
	return 0
}
