package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/store"
)

// finishUpdate does what was intended. The caller holds the instance's lock.
// Doing it twice does no harm.
func (b *Broker) finishUpdate(ctx context.Context, inst store.Instance) error {
	next := inst.Next
	if next == nil {
		return fmt.Errorf("instance %q is updating to nothing", inst.ID)
	}
	if err := b.ensurePrepared(ctx, inst); err != nil {
		return err
	}
	if next.Fingerprint != inst.Fingerprint {
		if err := b.o.Groups.Change(ctx, inst.GroupID, next.Fingerprint); err != nil {
			return err
		}
	}
	if next.Configure {
		if err := b.configure(ctx, inst, next.Sealed); err != nil {
			return errors.Join(err, b.revert(ctx, inst))
		}
	}
	return b.o.Store.Update(context.WithoutCancel(ctx), func(tx store.Tx) error {
		row, err := tx.Instances().Get(inst.ID)
		if err != nil {
			return err
		}
		if row.State != store.InstanceUpdating || row.Next == nil {
			return fmt.Errorf("instance %q was changed meanwhile", inst.ID)
		}
		if row.PlanID != next.PlanID {
			if err := b.moveBindings(tx, row.ID, next.PlanID); err != nil {
				return err
			}
		}
		row.PlanID, row.Fingerprint, row.Context, row.Sealed = next.PlanID, next.Fingerprint, next.Context, next.Sealed
		row.Digest, row.Maintenance = next.Digest, next.Maintenance
		row.State, row.Next = store.InstanceReady, nil
		if err := tx.Instances().Put(row); err != nil {
			return err
		}
		return endOperation(tx, row.ID, "", store.OpUpdate, store.OpSucceeded, "")
	})
}

// configure runs the provision hook with parameters.
func (b *Broker) configure(ctx context.Context, inst store.Instance, sealed []byte) error {
	inst.Sealed = sealed
	return b.prepare(ctx, inst)
}

// revert takes a change back whose last step failed.
func (b *Broker) revert(ctx context.Context, inst store.Instance) error {
	if seized(ctx) {
		return nil
	}
	var errs []error
	if inst.Next.Fingerprint != inst.Fingerprint {
		errs = append(errs, b.o.Groups.Change(ctx, inst.GroupID, inst.Fingerprint))
	}
	return errors.Join(append(errs, b.configure(ctx, inst, inst.Sealed))...)
}

// moveBindings makes the bindings those of the new plan: platforms name it when
// they delete them.
func (b *Broker) moveBindings(tx store.Tx, instanceID, planID string) error {
	bindings, err := tx.Bindings().Of(instanceID)
	if err != nil {
		return err
	}
	for _, r := range bindings {
		s, err := b.openBinding(r)
		if err != nil {
			return err
		}
		r.PlanID = planID
		r.Digest = bindDigest(BindRequest{
			InstanceID: r.InstanceID, ServiceID: r.ServiceID, PlanID: planID, AppGUID: r.AppGUID, Context: r.Context,
			Route: s.RouteText, Predecessor: r.Predecessor,
		})
		if err := tx.Bindings().Put(r); err != nil {
			return err
		}
	}
	return nil
}

// failUpdate leaves the instance as it was, and says why in the operation and in
// its error.
func (b *Broker) failUpdate(ctx context.Context, id string, cause error) error {
	refusal := updateFailure(cause)
	err := b.o.Store.Update(ctx, func(tx store.Tx) error {
		inst, err := tx.Instances().Get(id)
		if errors.Is(err, store.ErrNotFound) || err == nil && inst.State != store.InstanceUpdating {
			return nil
		}
		if err != nil {
			return err
		}
		inst.State, inst.Next = store.InstanceReady, nil
		if err := tx.Instances().Put(inst); err != nil {
			return err
		}
		op, err := tx.Operations().Latest(id, "")
		if errors.Is(err, store.ErrNotFound) || err == nil && (op.Kind != store.OpUpdate || op.State != store.OpInProgress) {
			return nil
		}
		if err != nil {
			return err
		}
		op.State, op.Description, op.FinishedAt, op.Final = store.OpFailed, refusal.Message, now(), refusal.Final
		if err := auditEnd(tx, op); err != nil {
			return err
		}
		return tx.Operations().Put(op)
	})
	if err != nil {
		refusal.Err = errors.Join(refusal.Err, err)
	}
	return refusal
}

// updateFailure is the error of an update that was begun.
func updateFailure(cause error) *Error {
	var unfit *provisioner.Unfit
	if errors.As(cause, &unfit) {
		return &Error{Code: Refused, Message: unfit.Message, Updating: true, Final: unfit.Final}
	}
	var e *Error
	if !errors.As(failure(cause, "The service instance could not be updated; it is as it was before."), &e) {
		e = &Error{Code: Internal, Message: "The service instance could not be updated.", Err: cause}
	}
	copied := *e
	copied.Updating = true
	return &copied
}
