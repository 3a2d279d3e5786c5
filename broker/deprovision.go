package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/remuda/remuda/store"
)

// DeprovisionRequest is DELETE /v2/service_instances/:instance_id.
type DeprovisionRequest struct {
	InstanceID string
	ServiceID  string
	PlanID     string
}

// Deprovision deletes the instance with all its bindings. When it returns, the
// tenant is cut off; the reset of the group goes on behind. Work on the
// instance is interrupted, a creation is cancelled (OSB, "Deprovisioning").
func (b *Broker) Deprovision(ctx context.Context, r DeprovisionRequest) error {
	if err := first(
		checkID("instance_id", r.InstanceID),
		checkText("service_id", r.ServiceID),
		checkText("plan_id", r.PlanID),
	); err != nil {
		return err
	}
	ctx, cancel := b.detached(ctx)
	defer cancel()
	check := func(inst store.Instance) error { return samePlan(inst.ServiceID, inst.PlanID, r.ServiceID, r.PlanID) }
	// Nothing is interrupted for a request that will be refused.
	inst, err := b.instance(ctx, r.InstanceID)
	if errors.Is(err, store.ErrNotFound) {
		return refuse(Gone, "There is no such service instance.")
	}
	if err == nil {
		err = check(inst)
	}
	if err != nil {
		return failure(err, "The service instance could not be deleted.")
	}
	wait, stop := context.WithTimeout(ctx, b.o.LockTimeout)
	defer stop()
	held, unlock, err := b.locks.seize(wait, r.InstanceID)
	if err != nil {
		return failure(err, "The service instance could not be deleted, because work on it did not end.")
	}
	defer unlock()
	held, done := context.WithTimeout(held, b.o.WorkTimeout)
	defer done()
	found, err := b.remove(held, r.InstanceID, check)
	if err != nil {
		return failure(err, "The service instance could not be deleted.")
	}
	if !found {
		return refuse(Gone, "There is no such service instance.")
	}
	return nil
}

// remove deletes the instance and its bindings in one transaction, and cuts the
// tenant off. found is false when there was no instance. check may refuse.
func (b *Broker) remove(ctx context.Context, id string, check func(store.Instance) error) (found bool, err error) {
	var released string
	err = b.o.Store.Update(ctx, func(tx store.Tx) (err error) {
		released = ""
		inst, err := tx.Instances().Get(id)
		if found = err == nil; !found {
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			return err
		}
		if check != nil {
			if err := check(inst); err != nil {
				return err
			}
		}
		if released, err = removeRows(tx, inst); err != nil {
			return err
		}
		return audit(ctx, tx, store.OpDeprovision, inst, "", 200, "deleted")
	})
	if err != nil || released == "" {
		return found, err
	}
	if err := b.o.Groups.Release(ctx, released); err != nil {
		return found, &Error{
			Code:    Unavailable,
			Message: "The service instance is deleted, but it is not certain that all its connections are closed; repeat the request.",
			Err:     fmt.Errorf("release group %q: %w", released, err),
		}
	}
	return found, nil
}

// removeRows returns the group to release.
func removeRows(tx store.Tx, inst store.Instance) (string, error) {
	bindings, err := tx.Bindings().Of(inst.ID)
	if err != nil {
		return "", err
	}
	for _, r := range bindings {
		if err := tx.Bindings().Delete(r.ID); err != nil {
			return "", err
		}
	}
	released, err := giveBack(tx, inst)
	if err != nil {
		return "", err
	}
	if err := tx.Instances().Delete(inst.ID); err != nil {
		return "", err
	}
	// OSB, "Deprovisioning": a poll for the creation says failed from now on.
	for _, kind := range []store.OperationKind{store.OpProvision, store.OpUpdate} {
		if err := endOperation(tx, inst.ID, "", kind, store.OpFailed, "The service instance was deleted."); err != nil {
			return "", err
		}
	}
	t := now()
	return released, tx.Operations().Put(store.Operation{
		ID: newOperationID(), Kind: store.OpDeprovision, State: store.OpSucceeded,
		InstanceID: inst.ID, ServiceID: inst.ServiceID, PlanID: inst.PlanID, StartedAt: t, FinishedAt: t,
	})
}

// samePlan checks the ids of a request about something that exists.
func samePlan(serviceID, planID, gotService, gotPlan string) error {
	switch {
	case gotService != serviceID:
		return refuse(Invalid, "service_id %s is not its service.", quote(gotService))
	case gotPlan != planID:
		return refuse(Invalid, "plan_id %s is not its plan, which is %s.", quote(gotPlan), quote(planID))
	}
	return nil
}
