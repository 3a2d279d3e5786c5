package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/store"
)

// BindRequest is PUT /v2/service_instances/:instance_id/service_bindings/:binding_id.
type BindRequest struct {
	InstanceID string
	BindingID  string
	ServiceID  string
	PlanID     string
	AppGUID    string          // "" when not given
	Route      string          // of bind_resource; "" when not given
	Context    json.RawMessage // an object, or empty
	Parameters json.RawMessage // an object, or empty

	Predecessor       string // the binding that this one replaces; "" for none
	AcceptsIncomplete bool

	route    route         // Route, read
	lifetime time.Duration // 0 for ever
}

// BindResult is a binding as the platform sees it.
type BindResult struct {
	Created     bool // by this request: 201, otherwise 200
	Credentials json.RawMessage
	Other       catalog.Access // what it has besides credentials
	Endpoints   []store.Endpoint
	Parameters  json.RawMessage // empty when none were given
	ExpiresAt   time.Time       // zero for never
	RenewBefore time.Time
	Operation   string // not empty: in progress, 202, and nothing else is set
}

// Bind creates a login that belongs to this binding alone (OSB, "Binding").
func (b *Broker) Bind(ctx context.Context, r BindRequest) (BindResult, error) {
	err := b.succeed(ctx, &r)
	if err == nil {
		err = b.checkBind(&r)
	}
	if err != nil {
		return BindResult{}, failure(err, "The binding could not be created.")
	}
	if r.AcceptsIncomplete {
		if op, err := b.bindUnderWay(ctx, r); err != nil || op != "" {
			return BindResult{Operation: op}, failureOrNil(err, "The binding could not be created.")
		}
	}
	var result BindResult
	op, err := b.patiently(ctx, r.AcceptsIncomplete, store.Operation{Kind: store.OpBind, InstanceID: r.InstanceID, BindingID: r.BindingID},
		func(ctx context.Context, _ *pending) error {
			return b.locked(ctx, r.InstanceID, func(ctx context.Context) (err error) {
				result, err = b.bindLocked(ctx, r)
				if err != nil && seized(ctx) {
					return interruption(ctx)
				}
				return err
			})
		})
	if op != "" {
		return BindResult{Operation: op}, nil
	}
	return result, failureOrNil(err, "The binding could not be created; nothing of it was kept.")
}

// checkBind validates all of the request that needs no store, and brings its
// objects into one form.
func (b *Broker) checkBind(r *BindRequest) error {
	if err := first(
		checkID("instance_id", r.InstanceID),
		checkID("binding_id", r.BindingID),
		checkText("service_id", r.ServiceID),
		checkText("plan_id", r.PlanID),
	); err != nil {
		return err
	}
	p, err := b.plans.find(r.ServiceID, r.PlanID)
	if err != nil {
		return err
	}
	if r.AppGUID != "" {
		if err := checkText("app_guid", r.AppGUID); err != nil {
			return err
		}
	}
	if p.needsRoute && r.Route == "" {
		return refuse(Invalid, "This service is for routes: bind_resource.route is needed.")
	}
	if r.Route != "" {
		if r.route, err = readRoute(r.Route); err != nil {
			return err
		}
	}
	if r.Context, err = object("context", r.Context); err != nil {
		return err
	}
	if r.Parameters, err = object("parameters", r.Parameters); err != nil {
		return err
	}
	if err := checkParameters(p.bind, r.Parameters); err != nil {
		return err
	}
	if p.requiresApp && r.AppGUID == "" {
		return refuse(RequiresApp, "This service can be bound to an application only: app_guid is required.")
	}
	r.lifetime, err = bindLifetime(p, r.Parameters)
	return err
}

// bindUnderWay returns the operation if the same binding is being made just now.
func (b *Broker) bindUnderWay(ctx context.Context, r BindRequest) (op string, err error) {
	_, old, err := b.bindTarget(ctx, r)
	if err != nil || old == nil || old.State != store.BindingCreating {
		return "", err
	}
	err = b.o.Store.View(ctx, func(tx store.Tx) error {
		op, err = underWay(tx, r.InstanceID, r.BindingID, store.OpBind)
		return err
	})
	return op, err
}

// work is a binding that is being made.
type work struct {
	inst    store.Instance
	binding store.Binding
	secrets bindingSecrets
}

func (b *Broker) bindLocked(ctx context.Context, r BindRequest) (BindResult, error) {
	inst, old, err := b.bindTarget(ctx, r)
	if err != nil {
		return BindResult{}, err
	}
	if old != nil && established(old.State) {
		return b.existingBinding(ctx, *old)
	}
	w, err := b.intend(ctx, inst, old, r)
	if err != nil {
		return BindResult{}, err
	}
	result, err := b.makeBinding(ctx, w)
	if err == nil || seized(ctx) {
		return result, err
	}
	undo, cancel := b.cleanup(ctx)
	defer cancel()
	if undoErr := b.undoBinding(undo, w, "The binding could not be created."); undoErr != nil {
		err = errors.Join(err, fmt.Errorf("undo: %w", undoErr))
	}
	return BindResult{}, err
}

// bindTarget finds the instance, which must be ready, and the binding if it is
// there already, which must be the same.
func (b *Broker) bindTarget(ctx context.Context, r BindRequest) (inst store.Instance, old *store.Binding, err error) {
	err = b.o.Store.View(ctx, func(tx store.Tx) error {
		inst, err = tx.Instances().Get(r.InstanceID)
		if errors.Is(err, store.ErrNotFound) {
			return refuse(NotFound, "There is no such service instance.")
		}
		if err != nil {
			return err
		}
		found, err := tx.Bindings().Get(r.BindingID)
		if err == nil {
			old = &found
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return samePlan(inst.ServiceID, inst.PlanID, r.ServiceID, r.PlanID)
	})
	if err != nil {
		return inst, nil, err
	}
	switch inst.State {
	case store.InstanceCreating:
		return inst, nil, refuse(Concurrency, "The service instance is still being created.")
	case store.InstanceUpdating:
		return inst, nil, refuse(Concurrency, "The service instance is being updated.")
	case store.InstanceFailed:
		return inst, nil, refuse(Refused, "The creation of the service instance failed, so it cannot be bound.")
	}
	if old == nil {
		return inst, nil, nil
	}
	secrets, err := b.openBinding(*old)
	if err != nil {
		return inst, nil, err
	}
	switch {
	case old.InstanceID != r.InstanceID:
		return inst, nil, refuse(Conflict, "A binding with this id exists for another service instance.")
	case old.Digest != bindDigest(r) || !sameJSON(secrets.Parameters, r.Parameters):
		return inst, nil, refuse(Conflict, "A binding with this id exists and has different attributes.")
	case old.State == store.BindingDeleting:
		return inst, nil, refuse(Concurrency, "The binding is being deleted.")
	}
	return inst, old, nil
}

func bindDigest(r BindRequest) string {
	parts := []string{r.InstanceID, r.ServiceID, r.PlanID, r.AppGUID, string(r.Context)}
	if r.Route != "" || r.Predecessor != "" { // as most have none
		parts = append(parts, r.Route, r.Predecessor)
	}
	return digest(parts...)
}

// intend stores what the binding will be, before its hook runs. A binding that
// was left half-made keeps its login.
func (b *Broker) intend(ctx context.Context, inst store.Instance, old *store.Binding, r BindRequest) (work, error) {
	w := work{inst: inst}
	if old != nil {
		secrets, err := b.openBinding(*old)
		w.binding, w.secrets = *old, secrets
		return w, err
	}
	number, err := b.freeNumber(ctx, inst.ID)
	if err != nil {
		return w, err
	}
	w.secrets = bindingSecrets{Password: newPassword(), Number: number, Parameters: r.Parameters, Route: r.route, RouteText: r.Route}
	sealed, err := b.sealBinding(r.BindingID, w.secrets)
	if err != nil {
		return w, err
	}
	w.binding = store.Binding{
		ID: r.BindingID, InstanceID: r.InstanceID, ServiceID: r.ServiceID, PlanID: r.PlanID,
		State: store.BindingCreating, AppGUID: r.AppGUID, Context: r.Context,
		Username: newUsername(), Sealed: sealed, Digest: bindDigest(r), CreatedAt: now(), Predecessor: r.Predecessor,
	}
	w.binding.ExpiresAt, w.binding.RenewBefore = expiry(w.binding.CreatedAt, r.lifetime)
	return w, b.o.Store.Update(ctx, func(tx store.Tx) error {
		if _, err := tx.Instances().Get(r.InstanceID); errors.Is(err, store.ErrNotFound) {
			return refuse(NotFound, "There is no such service instance.")
		} else if err != nil {
			return err
		}
		if _, err := tx.Bindings().Get(r.BindingID); err == nil {
			// Bindings of one instance are made one after the other.
			return refuse(Conflict, "A binding with this id exists for another service instance.")
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := tx.Bindings().Put(w.binding); err != nil {
			return err
		}
		return tx.Operations().Put(bindingOperation(w.binding, store.OpBind))
	})
}

// freeNumber finds a number that no other binding of the instance has.
func (b *Broker) freeNumber(ctx context.Context, instanceID string) (int, error) {
	var others []store.Binding
	err := b.o.Store.View(ctx, func(tx store.Tx) (err error) {
		others, err = tx.Bindings().Of(instanceID)
		return err
	})
	if err != nil {
		return 0, err
	}
	taken := make(map[int]bool, len(others))
	for _, other := range others {
		secrets, err := b.openBinding(other)
		if err != nil {
			return 0, err
		}
		taken[secrets.Number] = true
	}
	return newNumber(taken)
}

// makeBinding does the intended work and makes the binding ready.
func (b *Broker) makeBinding(ctx context.Context, w work) (BindResult, error) {
	if err := b.ensurePrepared(ctx, w.inst); err != nil {
		return BindResult{}, err
	}
	values, err := hookValues(w.inst.ID, w.binding, w.secrets)
	if err != nil {
		return BindResult{}, err
	}
	values["output"], err = b.o.Groups.Program(ctx, w.inst.GroupID, "bind", values)
	if err != nil {
		return BindResult{}, fmt.Errorf("run bind hook in group %q: %w", w.inst.GroupID, err)
	}
	access, err := b.o.Groups.Access(ctx, w.inst.GroupID, values)
	if err != nil {
		return BindResult{}, fmt.Errorf("render credentials of group %q: %w", w.inst.GroupID, err)
	}
	if w.secrets.Credentials, err = json.Marshal(access.Credentials); err != nil {
		return BindResult{}, fmt.Errorf("marshal credentials: %w", err)
	}
	access.Credentials = nil
	w.secrets.Other = access
	if w.binding.Sealed, err = b.sealBinding(w.binding.ID, w.secrets); err != nil {
		return BindResult{}, err
	}
	w.binding.State = store.BindingReady
	var endpoints []store.Endpoint
	err = b.o.Store.Update(ctx, func(tx store.Tx) error {
		if r, err := tx.Bindings().Get(w.binding.ID); err != nil {
			return err
		} else if r.State != store.BindingCreating || r.Username != w.binding.Username {
			return fmt.Errorf("binding %q was changed meanwhile", r.ID)
		}
		if err := tx.Bindings().Put(w.binding); err != nil {
			return err
		}
		if endpoints, err = groupEndpoints(tx, w.inst.GroupID); err != nil {
			return err
		}
		return endOperation(tx, w.inst.ID, w.binding.ID, store.OpBind, store.OpSucceeded, "")
	})
	if err != nil {
		return BindResult{}, fmt.Errorf("store binding: %w", err)
	}
	return BindResult{
		Created: true, Credentials: w.secrets.Credentials, Other: access, Endpoints: endpoints, Parameters: w.secrets.Parameters,
		ExpiresAt: w.binding.ExpiresAt, RenewBefore: w.binding.RenewBefore,
	}, nil
}

// existingBinding answers with what was handed out before.
func (b *Broker) existingBinding(ctx context.Context, r store.Binding) (BindResult, error) {
	secrets, err := b.openBinding(r)
	if err != nil {
		return BindResult{}, err
	}
	var endpoints []store.Endpoint
	err = b.o.Store.View(ctx, func(tx store.Tx) error {
		inst, err := tx.Instances().Get(r.InstanceID)
		if err != nil {
			return err
		}
		endpoints, err = groupEndpoints(tx, inst.GroupID)
		return err
	})
	return BindResult{
		Credentials: secrets.Credentials, Other: secrets.Other, Endpoints: endpoints, Parameters: secrets.Parameters,
		ExpiresAt: r.ExpiresAt, RenewBefore: r.RenewBefore,
	}, err
}

func groupEndpoints(tx store.Tx, groupID string) ([]store.Endpoint, error) {
	g, err := tx.Groups().Get(groupID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return g.Endpoints, err
}

// bindingOperation is a new operation on a binding, in progress.
func bindingOperation(r store.Binding, kind store.OperationKind) store.Operation {
	return store.Operation{
		ID: newOperationID(), Kind: kind, State: store.OpInProgress,
		InstanceID: r.InstanceID, BindingID: r.ID, ServiceID: r.ServiceID, PlanID: r.PlanID, StartedAt: now(),
	}
}

// undoBinding removes a binding whose login nobody has learned. The row goes
// even if the hook fails: the password was never handed out.
func (b *Broker) undoBinding(ctx context.Context, w work, why string) error {
	hookErr := b.runUnbind(ctx, w.inst, w.binding)
	err := b.o.Store.Update(ctx, func(tx store.Tx) error {
		if err := tx.Bindings().Delete(w.binding.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return endOperation(tx, w.binding.InstanceID, w.binding.ID, store.OpBind, store.OpFailed, why)
	})
	return errors.Join(hookErr, err)
}
