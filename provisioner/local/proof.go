package local

import (
	"fmt"
	"os"
	"slices"

	"github.com/remuda/remuda/internal/ownthread"
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
	entries, err := os.ReadDir(m.b.agentDir(m.rec.ID, m.Name))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n := e.Name(); n != "agent.sock" && n != "door.sock" {
			return fmt.Errorf("%s has a strange file %q beside its agent's sockets", m.id(), n)
		}
	}
	return ownthread.In(rec.PID, []string{"ipc"}, func() error {
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
