package kubernetes

import (
	"context"
	"sync"
	"time"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

// sampleTime is how long processor time is watched for an inspection.
const sampleTime = 200 * time.Millisecond

// Inspect implements provisioner.Inspector. The agents say what their members use.
func (b *Backend) Inspect(ctx context.Context, id string) (provisioner.Inspection, error) {
	if err := ctx.Err(); err != nil {
		return provisioner.Inspection{}, err
	}
	cg, err := b.get(ctx, id)
	if err != nil {
		return provisioner.Inspection{}, err
	}
	seen := observation(cg)
	out := provisioner.Inspection{Members: make([]provisioner.MemberInspection, len(cg.Status.Members))}
	var wg sync.WaitGroup
	for i, m := range cg.Status.Members {
		of := &out.Members[i]
		of.MemberObservation, of.Name = seen.Members[i], m.Name
		of.Memory = provisioner.Usage{Used: -1, Limit: m.Memory.Value()}
		of.Disk = provisioner.Usage{Used: -1, Limit: m.Disk.Value()}
		of.CPU = provisioner.Usage{Used: -1, Limit: m.CPU.MilliValue()}
		if m.Address != "" {
			wg.Go(func() { b.inspectMember(ctx, id, m, of) })
		}
	}
	wg.Wait()
	return out, ctx.Err()
}

func (b *Backend) inspectMember(ctx context.Context, group string, m v1alpha1.MemberStatus, out *provisioner.MemberInspection) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c := b.agents.Client(group, m.Address)
	began := time.Now()
	before, err := c.State(ctx)
	if err != nil || before.Usage == nil {
		return
	}
	out.Memory.Used, out.Disk.Used = before.Usage.Memory, before.Usage.DiskUsed
	if log, err := c.Log(ctx); err == nil {
		out.Log = provisioner.LogTail(log)
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(sampleTime - time.Since(began)):
	}
	var after agent.State
	if after, err = c.State(ctx); err == nil && after.Usage != nil && before.Usage.CPU >= 0 {
		out.CPU.Used = 1000 * (after.Usage.CPU - before.Usage.CPU) / max(int64(time.Since(began)), 1)
	}
}
