package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/remuda/remuda/store"
)

// UnbindRequest is DELETE /v2/service_instances/:instance_id/service_bindings/:binding_id.
type UnbindRequest struct {
	InstanceID string
	BindingID  string
	ServiceID  string
	PlanID     string

	AcceptsIncomplete bool
}

// Unbind disables the binding's login and ends its sessions. What the binding
// created stays (OSB, "Unbinding"). An operation that is not empty is still in
// progress.
func (b *Broker) Unbind(ctx context.Context, r UnbindRequest) (operation string, err error) {
	if err := first(
		checkID("instance_id", r.InstanceID),
		checkID("binding_id", r.BindingID),
		checkText("service_id", r.ServiceID),
		checkText("plan_id", r.PlanID),
	); err != nil {
		return "", err
	}
	op, err := b.patiently(ctx, r.AcceptsIncomplete, store.Operation{Kind: store.OpUnbind, InstanceID: r.InstanceID, BindingID: r.BindingID},
		func(ctx context.Context, _ *pending) error {
			return b.locked(ctx, r.InstanceID, func(ctx context.Context) error {
				err := b.unbindLocked(ctx, r)
				if err != nil && seized(ctx) {
					return interruption(ctx)
				}
				return err
			})
		})
	return op, failureOrNil(err, "The binding could not be deleted; repeat the request.")
}

func (b *Broker) unbindLocked(ctx context.Context, r UnbindRequest) error {
	gone := refuse(Gone, "There is no such binding.")
	var binding store.Binding
	err := b.o.Store.Update(ctx, func(tx store.Tx) (err error) {
		binding, err = tx.Bindings().Get(r.BindingID)
		if errors.Is(err, store.ErrNotFound) || err == nil && binding.InstanceID != r.InstanceID {
			return gone
		}
		if err != nil {
			return err
		}
		if err := samePlan(binding.ServiceID, binding.PlanID, r.ServiceID, r.PlanID); err != nil {
			return err
		}
		if binding.State == store.BindingDeleting { // an earlier request did not end
			return nil
		}
		if err := endOperation(tx, r.InstanceID, r.BindingID, store.OpBind, store.OpFailed, "The binding was deleted."); err != nil {
			return err
		}
		binding.State = store.BindingDeleting
		if err := tx.Bindings().Put(binding); err != nil {
			return err
		}
		return tx.Operations().Put(bindingOperation(binding, store.OpUnbind))
	})
	if err != nil {
		return err
	}
	return b.finishUnbind(ctx, binding)
}

// finishUnbind runs the hook for a binding that is deleting, and deletes it. The
// caller holds the instance's lock.
func (b *Broker) finishUnbind(ctx context.Context, r store.Binding) error {
	inst, err := b.instance(ctx, r.InstanceID)
	if err == nil {
		err = b.runUnbind(ctx, inst, r)
	} else if errors.Is(err, store.ErrNotFound) {
		err = nil // its group is cut off
	}
	if err != nil {
		return err
	}
	return b.o.Store.Update(ctx, func(tx store.Tx) error {
		if err := tx.Bindings().Delete(r.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return endOperation(tx, r.InstanceID, r.ID, store.OpUnbind, store.OpSucceeded, "")
	})
}

// runUnbind gives the login a password that nobody learns.
func (b *Broker) runUnbind(ctx context.Context, inst store.Instance, r store.Binding) error {
	if inst.GroupID == "" {
		return nil
	}
	secrets, err := b.openBinding(r)
	if err != nil {
		return err
	}
	secrets.Password = newPassword()
	values, err := hookValues(inst.ID, r, secrets)
	if err != nil {
		return err
	}
	if _, err := b.o.Groups.Program(ctx, inst.GroupID, "unbind", values); err != nil {
		return fmt.Errorf("run unbind hook in group %q: %w", inst.GroupID, err)
	}
	return nil
}
