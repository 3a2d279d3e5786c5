package controller

import (
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

// loadPause is how seldom the load of a member is written down: each time is an object written.
const loadPause = time.Minute

// sample is what a member had used at a time.
type sample struct {
	at    time.Time
	usage agent.Usage
	load  *v1alpha1.Load // that is written down
}

// loadOf is the load of a member since it was last written down, or that until it is due.
func (m *memory) loadOf(member string, u *agent.Usage, now time.Time) *v1alpha1.Load {
	last, known := m.loads[member]
	if u == nil || known && now.Sub(last.at) < loadPause {
		return last.load
	}
	next := sample{at: now, usage: *u, load: &v1alpha1.Load{}}
	if u.Memory >= 0 {
		next.load.Memory = *resource.NewQuantity(u.Memory>>20<<20, resource.BinarySI)
	}
	if u.DiskUsed >= 0 {
		next.load.Disk = *resource.NewQuantity(u.DiskUsed>>20<<20, resource.BinarySI)
	}
	if known && u.CPU >= last.usage.CPU && last.usage.CPU >= 0 {
		next.load.CPU = *resource.NewMilliQuantity(1000*(u.CPU-last.usage.CPU)/int64(now.Sub(last.at)), resource.DecimalSI)
	}
	if m.loads == nil {
		m.loads = map[string]sample{}
	}
	m.loads[member] = next
	return next.load
}
