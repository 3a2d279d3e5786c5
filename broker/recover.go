package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/remuda/remuda/store"
)

// pageSize is how many instances one transaction reads.
const pageSize = 500

// Recover queues what an earlier run left unfinished: bindings that are being
// made (undone, because nobody learned their login) or deleted, instances that
// got a group or whose address is not open yet. Run calls it.
func (b *Broker) Recover(ctx context.Context) error {
	return b.recoverSince(ctx, time.Time{})
}

// answerTail is how long after its instance was created a broker that died may
// have had to open the address.
const answerTail = 5 * time.Minute

// succeedOthers goes on with what another broker was doing when it ended. What it
// had a lock on is found by the sweeps; besides, an address may not be open yet.
func (b *Broker) succeedOthers(ctx context.Context) {
	gone := make(chan struct{}, 1)
	defer b.o.Cluster.Listen(func(message string) {
		if message == "" {
			select {
			case gone <- struct{}{}:
			default:
			}
		}
	})()
	for {
		select {
		case <-ctx.Done():
			return
		case <-gone:
		}
		if err := b.recoverSince(ctx, now().Add(-answerTail)); err != nil && ctx.Err() == nil {
			b.log.ErrorContext(ctx, "cannot look for another broker's work", "error", err)
		}
		pause(ctx, b.o.SweepInterval)
	}
}

// recoverSince is Recover; addresses are opened only of instances that are not
// older.
func (b *Broker) recoverSince(ctx context.Context, t time.Time) error {
	if err := b.sweep(ctx); err != nil {
		return err
	}
	for after := ""; ; {
		var page []store.Instance
		err := b.o.Store.View(ctx, func(tx store.Tx) (err error) {
			page, err = tx.Instances().Page(after, pageSize)
			return err
		})
		if err != nil {
			return fmt.Errorf("read instances: %w", err)
		}
		for _, inst := range page {
			after = inst.ID
			if inst.State == store.InstanceReady && !inst.Prepared && !inst.CreatedAt.Before(t) {
				b.queue.add(job{settleInstance, inst.ID})
			}
		}
		if len(page) < pageSize {
			return nil
		}
	}
}

// sweep queues everything that is half-done. What a call is just now working on
// is among it: the lock tells them apart.
func (b *Broker) sweep(ctx context.Context) error {
	err := b.o.Store.View(ctx, func(tx store.Tx) error {
		instances, err := tx.Instances().InState(store.InstanceCreating)
		if err != nil {
			return err
		}
		for _, inst := range instances {
			if inst.GroupID != "" || now().Sub(inst.CreatedAt) > b.patience(inst) {
				b.queue.add(job{settleInstance, inst.ID})
			}
		}
		if instances, err = tx.Instances().InState(store.InstanceUpdating); err != nil {
			return err
		}
		for _, inst := range instances {
			b.queue.add(job{settleInstance, inst.ID})
		}
		expired, err := tx.Bindings().Expiring(now(), pageSize)
		if err != nil {
			return err
		}
		for _, r := range expired {
			b.queue.add(job{settleBinding, r.ID})
		}
		for _, state := range []store.BindingState{store.BindingCreating, store.BindingDeleting} {
			bindings, err := tx.Bindings().InState(state)
			if err != nil {
				return err
			}
			for _, r := range bindings {
				b.queue.add(job{settleBinding, r.ID})
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for unfinished work: %w", err)
	}
	return nil
}

// settleBindingLocked ends a half-done binding.
func (b *Broker) settleBindingLocked(ctx context.Context, id string) error {
	var binding store.Binding
	var inst store.Instance
	err := b.o.Store.View(ctx, func(tx store.Tx) (err error) {
		if binding, err = tx.Bindings().Get(id); err != nil {
			return err
		}
		inst, err = tx.Instances().Get(binding.InstanceID)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	switch binding.State {
	case store.BindingCreating:
		return b.undoBinding(ctx, work{inst: inst, binding: binding}, "The broker was interrupted while it created the binding.")
	case store.BindingDeleting:
		return b.finishUnbind(ctx, binding)
	case store.BindingReady:
		return b.expire(ctx, inst, binding)
	}
	return nil
}

// patience is how long an instance waits for its group: as long as its plan
// lets platforms poll, less what giving up takes.
func (b *Broker) patience(inst store.Instance) time.Duration {
	if p := b.plans[inst.ServiceID][inst.PlanID]; p != nil && p.limit > 0 {
		return min(b.o.ProvisionTimeout, p.limit*8/10)
	}
	return b.o.ProvisionTimeout
}

// settleInstanceLocked finishes the creation of an instance that has a group,
// or gives up on one that waited too long for it.
func (b *Broker) settleInstanceLocked(ctx context.Context, id string) error {
	inst, err := b.instance(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if inst.State == store.InstanceCreating && inst.GroupID == "" {
		limit := b.patience(inst)
		if now().Sub(inst.CreatedAt) <= limit {
			return nil
		}
		b.log.ErrorContext(ctx, "no group for an instance in time", "instance", id,
			"fingerprint", inst.Fingerprint, "trouble", b.o.Groups.Trouble(inst.Fingerprint))
		return b.failProvision(ctx, id, fmt.Sprintf("The service instance did not become ready within %s. Delete it and try again.", limit))
	}
	if inst.State == store.InstanceUpdating {
		return b.finishUpdate(ctx, inst)
	}
	return b.finishProvision(ctx, inst)
}
