package local

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
)

// proveEmpty checks from outside that the member holds nothing but its agent.
func (m *member) proveEmpty() error {
	rec := m.record()
	procs, err := cgroupProcs(m.cgroup())
	if err != nil {
		return err
	}
	if !slices.Equal(procs, []int{rec.PID}) {
		return fmt.Errorf("processes %v are in %s besides its agent %d", procs, m.id(), rec.PID)
	}
	dir, err := m.b.agentDir(m.rec.ID, m.Name)
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n := e.Name(); n != "agent.sock" && n != "door.sock" {
			return fmt.Errorf("%s has a strange file %q beside its agent's sockets", m.id(), n)
		}
	}
	return inNamespaces(rec.PID, []string{"ipc"}, func() error {
		for _, kind := range []string{"shm", "sem", "msg"} {
			if n, err := countLines("/proc/sysvipc/" + kind); err != nil || n > 1 { // the first line is a heading
				return fmt.Errorf("%s has %d System V %s objects left (%v)", m.id(), n-1, kind, err)
			}
		}
		return nil
	})
}

func countLines(file string) (int, error) {
	b, err := os.ReadFile(file)
	n := 0
	for _, c := range b {
		if c == '\n' {
			n++
		}
	}
	return n, err
}

// settledBaseline waits until the member looks the same twice: servers go on
// starting helpers for a moment after they serve.
func (m *member) settledBaseline(ctx context.Context) (agent.Baseline, error) {
	last, err := m.client.Baseline(ctx)
	for range 50 {
		if err != nil {
			return last, err
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		var next agent.Baseline
		if next, err = m.client.Baseline(ctx); err == nil && differences(last, next) == "" {
			return next, nil
		}
		last = next
	}
	return last, err
}

// compareBaseline fails with ErrUnclean when the member does not come to look
// as it did when it was new.
func (m *member) compareBaseline(ctx context.Context) error {
	want := m.record().Baseline
	if want == nil {
		return fmt.Errorf("%w: %s has no baseline", provisioner.ErrUnclean, m.id())
	}
	var diff string
	for wait, end := 2*time.Millisecond, time.Now().Add(3*time.Second); time.Now().Before(end); wait = min(2*wait, 100*time.Millisecond) {
		got, err := m.client.Baseline(ctx)
		if err != nil {
			return err
		}
		if diff = differences(*want, got); diff == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
	return fmt.Errorf("%w: %s differs from when it was new: %s", provisioner.ErrUnclean, m.id(), diff)
}

func differences(want, got agent.Baseline) string {
	for _, c := range []struct {
		what      string
		want, got []string
	}{
		{"processes", want.Processes, got.Processes}, {"listeners", want.Listeners, got.Listeners},
		{"IPC", want.IPC, got.IPC}, {"mounts", want.Mounts, got.Mounts},
	} {
		if !slices.Equal(c.want, c.got) {
			return fmt.Sprintf("%s %q, were %q", c.what, c.got, c.want)
		}
	}
	return ""
}
