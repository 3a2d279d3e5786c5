package broker

import (
	"context"

	"github.com/remuda/remuda/store"
)

// Forget is what the worker does now and then.
func (b *Broker) Forget(ctx context.Context) error { return b.forget(ctx) }

// PlanWithinLimits is what an update asks.
func (b *Broker) PlanWithinLimits(tx store.Tx, inst store.Instance, planID string) error {
	return b.planWithinLimits(tx, inst, planID)
}
