package local

import (
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/backendtest"
)

// What a tenant uses is seen, and seen of its own member.
func TestInspectSeesUsage(t *testing.T) {
	b := newBackend(t)
	g := provisioner.Group{ID: "look", Generation: 1, Definition: redis(t)}
	defer b.Close(t.Context(), g.ID)
	if _, err := b.Create(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	look := func() provisioner.MemberInspection {
		t.Helper()
		began := time.Now()
		seen, err := b.Inspect(t.Context(), g.ID)
		if err != nil || len(seen.Members) != 1 {
			t.Fatalf("%+v, %v", seen, err)
		}
		t.Logf("took %s: memory %v, disk %v, CPU %v", time.Since(began), seen.Members[0].Memory, seen.Members[0].Disk, seen.Members[0].CPU)
		return seen.Members[0]
	}
	before := look()
	if before.Name != "server-0" || !before.Healthy || before.Memory.Used < 1<<20 || before.Memory.Used > before.Memory.Limit ||
		before.Disk.Used < 0 || before.Disk.Used > before.Disk.Limit || before.CPU.Used < 0 {
		t.Errorf("saw %+v", before)
	}
	if !strings.Contains(before.Log, "Ready to accept connections") {
		t.Errorf("log %q", before.Log)
	}
	fill := agent.Program{Command: []string{"/bin/sh", "-c", "head -c 8388608 /dev/zero >/tmp/fill; sync"}}
	if result, err := b.client(g.ID, "server-0").Run(t.Context(), fill); err != nil || result.ExitCode != 0 {
		t.Fatal(result, err)
	}
	busy := make(chan error, 1)
	go func() {
		_, err := b.client(g.ID, "server-0").Run(t.Context(), agent.Program{Command: []string{"/bin/sh", "-c", "while :; do :; done"}, TimeoutSeconds: 2})
		busy <- err
	}()
	time.Sleep(500 * time.Millisecond)
	after := look()
	<-busy
	if grown := after.Disk.Used - before.Disk.Used; grown < 8<<20 || grown > 10<<20 {
		t.Errorf("the disk grew by %d bytes", grown)
	}
	if after.CPU.Used < after.CPU.Limit/4 || after.CPU.Used > 2*after.CPU.Limit {
		t.Errorf("a busy loop uses %d of %d", after.CPU.Used, after.CPU.Limit)
	}
	backendtest.Kill(t, before.ID, before.PID)
	time.Sleep(100 * time.Millisecond)
	if dead := look(); dead.Healthy || dead.Reason == "" || dead.Memory.Used != -1 || dead.Disk.Used != -1 || dead.CPU.Used != -1 {
		t.Errorf("of a dead member: %+v", dead)
	}
}
