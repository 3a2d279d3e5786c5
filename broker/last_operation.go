package broker

import (
	"context"
	"errors"

	"github.com/remuda/remuda/store"
)

// maxOperation is the longest operation in characters (OSB, "Provisioning").
const maxOperation = 10000

// PollRequest is GET last_operation of an instance (BindingID "") or a binding.
type PollRequest struct {
	FetchRequest
	Operation string // "" when not given
}

// PollResult says how an operation is getting on.
type PollResult struct {
	Kind        store.OperationKind
	State       store.OperationState
	Description string // for the user; may be ""
	Final       bool   // of a failed update: the same request would fail again
}

// LastOperation answers a poll (OSB, "Polling Last Operation"). Finished
// operations are remembered for Options.OperationMemory; after that what exists
// counts as successfully made, as does an instance that was there at once.
func (b *Broker) LastOperation(ctx context.Context, r PollRequest) (PollResult, error) {
	if err := r.check(); err != nil {
		return PollResult{}, err
	}
	if len(r.Operation) > maxOperation {
		return PollResult{}, refuse(Invalid, "operation must not be longer than %d characters.", maxOperation)
	}
	var op store.Operation
	var exists bool
	err := b.o.Store.View(ctx, func(tx store.Tx) (err error) {
		if exists, err = r.exists(tx); err != nil {
			return err
		}
		op, err = findOperation(tx, r, exists)
		return err
	})
	if err == nil {
		planID := op.PlanID
		if op.NextPlanID != "" && r.PlanID == op.NextPlanID { // either may be meant
			planID = op.NextPlanID
		}
		err = checkHints(op.ServiceID, planID, r.ServiceID, r.PlanID)
	}
	if err != nil {
		return PollResult{}, failure(err, "The operation could not be looked up.")
	}
	description := op.Description
	if description == "" && op.State == store.OpInProgress {
		description = "In progress."
	}
	return PollResult{Kind: op.Kind, State: op.State, Description: description, Final: op.Final}, nil
}

// deleted says whether the operation was the end of what is polled.
func deleted(op store.Operation) bool {
	return (op.Kind == store.OpDeprovision || op.Kind == store.OpUnbind) && op.State == store.OpSucceeded
}

// findOperation returns the named operation, or the latest one. It must be one
// of what is polled. A deletion is not the latest when what was deleted exists:
// it was made anew since.
func findOperation(tx store.Tx, r PollRequest, exists bool) (op store.Operation, err error) {
	unknown := refuse(NotFound, "There is no such operation.")
	if r.Operation != "" {
		op, err = tx.Operations().Get(r.Operation)
		if err == nil && (op.InstanceID != r.InstanceID || op.BindingID != r.BindingID) {
			return op, unknown
		}
	} else {
		op, err = tx.Operations().Latest(r.InstanceID, r.BindingID)
		if errors.Is(err, store.ErrNotFound) || err == nil && exists && deleted(op) {
			return r.forgotten(tx)
		}
	}
	if errors.Is(err, store.ErrNotFound) {
		return op, unknown
	}
	return op, err
}

// forgotten makes up the operation of something that exists and whose
// operations are no longer remembered.
func (r PollRequest) forgotten(tx store.Tx) (store.Operation, error) {
	if r.BindingID != "" {
		binding, err := tx.Bindings().Get(r.BindingID)
		if errors.Is(err, store.ErrNotFound) || err == nil && binding.InstanceID != r.InstanceID {
			return store.Operation{}, refuse(NotFound, "There is no such binding.")
		}
		return store.Operation{Kind: store.OpBind, State: store.OpSucceeded, ServiceID: binding.ServiceID, PlanID: binding.PlanID}, err
	}
	inst, err := tx.Instances().Get(r.InstanceID)
	if errors.Is(err, store.ErrNotFound) {
		return store.Operation{}, refuse(NotFound, "There is no such service instance.")
	}
	op := store.Operation{Kind: store.OpProvision, State: store.OpSucceeded, ServiceID: inst.ServiceID, PlanID: inst.PlanID}
	if inst.State == store.InstanceFailed {
		op.State, op.Description = store.OpFailed, "The creation of the service instance failed."
	}
	return op, err
}

// exists says whether what is polled is there.
func (r PollRequest) exists(tx store.Tx) (bool, error) {
	var err error
	if r.BindingID != "" {
		_, err = tx.Bindings().Get(r.BindingID)
	} else {
		_, err = tx.Instances().Get(r.InstanceID)
	}
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
