package kubernetes

import (
	"context"

	"github.com/remuda/remuda/provisioner"
)

// Inspect implements provisioner.Inspector.
func (b *Backend) Inspect(ctx context.Context, id string) (provisioner.Inspection, error) {
	cg, err := b.get(ctx, id)
	if err != nil {
		return provisioner.Inspection{}, err
	}
	var out provisioner.Inspection
	seen := observation(cg)
	for i, m := range cg.Status.Members {
		out.Members = append(out.Members, provisioner.MemberInspection{MemberObservation: seen.Members[i], Name: m.Name,
			Memory: provisioner.Usage{Used: -1, Limit: m.Memory.Value()},
			Disk:   provisioner.Usage{Used: -1, Limit: m.Disk.Value()},
			CPU:    provisioner.Usage{Used: -1, Limit: m.CPU.MilliValue()},
		})
		if m.Address != "" {
			log, err := b.agents.Client(id, m.Address).Log(ctx)
			if err == nil {
				out.Members[i].Log = provisioner.LogTail(log)
			}
		}
	}
	return out, ctx.Err()
}
