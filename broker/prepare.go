package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/remuda/remuda/store"
)

// prepare opens the instance's address and runs the recipe's provision hook if
// there are parameters. The caller holds the instance's lock. Doing it twice
// does no harm.
func (b *Broker) prepare(ctx context.Context, inst store.Instance) error {
	if err := b.o.Groups.Publish(ctx, inst.GroupID); err != nil {
		return fmt.Errorf("publish group %q: %w", inst.GroupID, err)
	}
	parameters, err := b.openParameters(inst)
	if err != nil {
		return err
	}
	if parameters == nil {
		return nil
	}
	values, err := hookValues(inst.ID, store.Binding{}, bindingSecrets{Parameters: parameters})
	if err != nil {
		return err
	}
	if _, err := b.o.Groups.Program(ctx, inst.GroupID, "provision", values); err != nil {
		return fmt.Errorf("run provision hook in group %q: %w", inst.GroupID, err)
	}
	return nil
}

// ensurePrepared prepares a ready instance unless that was done. That a hook has
// run is remembered; an open address is not worth a write, since opening it
// again is cheap. The caller holds the instance's lock.
func (b *Broker) ensurePrepared(ctx context.Context, inst store.Instance) error {
	if inst.Prepared {
		return nil
	}
	if err := b.prepare(ctx, inst); err != nil || len(inst.Sealed) == 0 {
		return err
	}
	return b.o.Store.Update(ctx, func(tx store.Tx) error {
		inst, err := tx.Instances().Get(inst.ID)
		if err != nil {
			return err
		}
		inst.Prepared = true
		return tx.Instances().Put(inst)
	})
}

// finishProvision prepares an instance that is creating and has a group, and
// makes it ready. The caller holds the instance's lock. The instance may be
// ready already.
func (b *Broker) finishProvision(ctx context.Context, inst store.Instance) error {
	switch {
	case inst.State == store.InstanceFailed:
		return nil
	case inst.State == store.InstanceReady:
		return b.ensurePrepared(ctx, inst)
	case inst.GroupID == "":
		return nil // waits
	}
	if err := b.prepare(ctx, inst); err != nil {
		return err
	}
	return b.o.Store.Update(ctx, func(tx store.Tx) error {
		inst, err := tx.Instances().Get(inst.ID)
		if err != nil {
			return err
		}
		inst.State, inst.Prepared = store.InstanceReady, true
		if err := tx.Instances().Put(inst); err != nil {
			return err
		}
		return endOperation(tx, inst.ID, "", store.OpProvision, store.OpSucceeded, "")
	})
}

// failProvision ends the creation of an instance for good: only its deletion
// is possible afterwards. Its group is given back.
func (b *Broker) failProvision(ctx context.Context, id, why string) error {
	var released string
	err := b.o.Store.Update(ctx, func(tx store.Tx) error {
		released = ""
		inst, err := tx.Instances().Get(id)
		if err != nil || inst.State != store.InstanceCreating {
			return err
		}
		if released, err = giveBack(tx, inst); err != nil {
			return err
		}
		inst.State, inst.GroupID = store.InstanceFailed, ""
		if err := tx.Instances().Put(inst); err != nil {
			return err
		}
		return endOperation(tx, id, "", store.OpProvision, store.OpFailed, why)
	})
	if err != nil || released == "" {
		return err
	}
	return b.o.Groups.Release(ctx, released)
}

// giveBack moves the instance's group to resetting, with the next generation,
// and returns its id; "" when the instance holds no claimed group. It is part
// of the transaction that ends the instance; Groups.Release follows it.
func giveBack(tx store.Tx, inst store.Instance) (string, error) {
	if inst.GroupID == "" {
		return "", nil
	}
	g, err := tx.Groups().Get(inst.GroupID)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if g.InstanceID != inst.ID || g.State != store.GroupClaimed {
		return "", nil
	}
	t := now()
	g.State, g.InstanceID = store.GroupResetting, ""
	g.Generation++
	g.Since, g.ReturnedAt = t, t
	return g.ID, tx.Groups().Put(g)
}

// endOperation ends the latest operation of the instance or binding, if it is
// of that kind and still in progress.
func endOperation(tx store.Tx, instanceID, bindingID string, kind store.OperationKind, state store.OperationState, description string) error {
	op, err := tx.Operations().Latest(instanceID, bindingID)
	if errors.Is(err, store.ErrNotFound) || err == nil && (op.Kind != kind || op.State != store.OpInProgress) {
		return nil
	}
	if err != nil {
		return err
	}
	op.State, op.Description, op.FinishedAt = state, description, now()
	if err := auditEnd(tx, op); err != nil {
		return err
	}
	return tx.Operations().Put(op)
}

func (b *Broker) instance(ctx context.Context, id string) (store.Instance, error) {
	var inst store.Instance
	err := b.o.Store.View(ctx, func(tx store.Tx) (err error) {
		inst, err = tx.Instances().Get(id)
		return err
	})
	return inst, err
}

// hookValues is catalog.HookValues but for host and ports, which the pool adds.
func hookValues(instanceID string, r store.Binding, s bindingSecrets) (map[string]any, error) {
	parameters, err := templateValues(s.Parameters)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"instance":   instanceID,
		"binding":    r.ID,
		"username":   r.Username,
		"password":   s.Password,
		"number":     s.Number,
		"parameters": parameters,
		"route":      map[string]any{"host": s.Route.Host, "port": s.Route.Port, "path": s.Route.Path},
	}, nil
}
