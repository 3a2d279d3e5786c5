package controller

import (
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/agent"
)

// The load changes once a minute at most, and is that of the time since.
func TestLoad(t *testing.T) {
	m := &memory{}
	now := time.Unix(1000, 0)
	if l := m.loadOf("a", nil, now); l != nil {
		t.Errorf("nothing known: %+v", l)
	}
	first := m.loadOf("a", &agent.Usage{Memory: 10 << 20, CPU: int64(time.Second), DiskUsed: -1}, now)
	if first.Memory.Value() != 10<<20 || !first.Disk.IsZero() {
		t.Errorf("first load %+v", first)
	}
	if l := m.loadOf("a", &agent.Usage{Memory: 99 << 20}, now.Add(59*time.Second)); l != first {
		t.Errorf("before the minute is over: %+v", l)
	}
	next := m.loadOf("a", &agent.Usage{Memory: 20 << 20, CPU: int64(31 * time.Second), DiskUsed: 5 << 20}, now.Add(time.Minute))
	if next.Memory.Value() != 20<<20 || next.CPU.MilliValue() != 500 || next.Disk.Value() != 5<<20 {
		t.Errorf("after a minute: %+v", next)
	}
	// A container that was started anew has used less.
	if l := m.loadOf("a", &agent.Usage{CPU: 0}, now.Add(2*time.Minute)); !l.CPU.IsZero() {
		t.Errorf("after a restart: %+v", l)
	}
}
