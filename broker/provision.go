package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/remuda/remuda/store"
)

// ProvisionRequest is PUT /v2/service_instances/:instance_id.
type ProvisionRequest struct {
	InstanceID         string
	ServiceID          string
	PlanID             string
	OrganizationGUID   string
	SpaceGUID          string
	Context            json.RawMessage // an object, or empty
	Parameters         json.RawMessage // an object, or empty
	MaintenanceVersion string          // "" when not given
	AcceptsIncomplete  bool
}

// ProvisionResult is the answer to a ProvisionRequest.
type ProvisionResult struct {
	Created      bool   // by this request: 201, otherwise 200
	Operation    string // not empty: in progress, 202
	DashboardURL string
}

// Provision gives the instance a group: a warm one at once, or, if the platform
// accepts to wait, one that is made behind (OSB, "Provisioning").
func (b *Broker) Provision(ctx context.Context, r ProvisionRequest) (ProvisionResult, error) {
	p, err := b.provisionPlan(&r)
	if err != nil {
		return ProvisionResult{}, err
	}
	fingerprint, ceiling, ok := b.o.Groups.Fingerprint(p.offering, p.name)
	if !ok {
		return ProvisionResult{}, failure(fmt.Errorf("no pool for plan %q of offering %q", p.name, p.offering),
			"The service instance could not be created.")
	}
	sealed, err := b.sealParameters(r.InstanceID, r.Parameters)
	if err != nil {
		return ProvisionResult{}, failure(err, "The service instance could not be created.")
	}
	c := claim{
		ceiling: ceiling, within: b.withinLimits, link: b.link,
		inst: store.Instance{
			ID: r.InstanceID, ServiceID: r.ServiceID, PlanID: r.PlanID, Fingerprint: fingerprint,
			OrgGUID: r.OrganizationGUID, SpaceGUID: r.SpaceGUID, Context: r.Context, Sealed: sealed,
			Maintenance: p.version,
			Digest:      digest(r.ServiceID, r.PlanID, r.OrganizationGUID, r.SpaceGUID, string(r.Context)),
		},
	}
	if len(r.Parameters) == 0 {
		ctx, cancel := b.detached(ctx)
		defer cancel()
		return b.claimGroup(ctx, r, c)
	}
	// The hook must have taken the parameters before the answer. The lock is
	// taken first, so that nobody else begins to work on the new row; a repeated
	// request is answered without waiting for it.
	var result ProvisionResult
	if known, err := b.lookUp(ctx, &c); err != nil {
		return result, failure(err, "The service instance could not be created.")
	} else if known {
		return b.repeated(r, c)
	}
	op, err := b.patiently(ctx, r.AcceptsIncomplete, store.Operation{Kind: store.OpProvision, InstanceID: r.InstanceID},
		func(ctx context.Context, p *pending) error {
			return b.locked(ctx, r.InstanceID, func(ctx context.Context) (err error) {
				result, err = b.claimAndRun(ctx, r, c, p)
				return err
			})
		})
	if op != "" {
		return ProvisionResult{Operation: op}, nil
	}
	return result, failureOrNil(err, "The service instance could not be created.")
}

// provisionPlan validates all of the request that needs no store, brings its
// objects into one form, and returns its plan.
func (b *Broker) provisionPlan(r *ProvisionRequest) (*plan, error) {
	if err := first(
		checkID("instance_id", r.InstanceID),
		checkText("service_id", r.ServiceID),
		checkText("plan_id", r.PlanID),
	); err != nil {
		return nil, err
	}
	p, err := b.plans.find(r.ServiceID, r.PlanID)
	if err != nil {
		return nil, err
	}
	if err := first(
		checkText("organization_guid", r.OrganizationGUID),
		checkText("space_guid", r.SpaceGUID),
	); err != nil {
		return nil, err
	}
	if r.Context, err = object("context", r.Context); err != nil {
		return nil, err
	}
	if r.Parameters, err = object("parameters", r.Parameters); err != nil {
		return nil, err
	}
	if err := checkParameters(p.provision, r.Parameters); err != nil {
		return nil, err
	}
	return p, checkMaintenance(p, r.MaintenanceVersion)
}

// claim is what the transaction of a provision needs and finds.
type claim struct {
	inst    store.Instance // as it would be new
	ceiling int            // of the pool
	within  func(store.Tx, store.Instance) error
	link    func(store.Instance) string // to its dashboard

	old       *store.Instance // was there before
	made      store.Instance  // inst as it was stored; with a group it was a hit
	operation store.Operation // the latest of old, or the new one if there is something to wait for
}

// claimGroup provisions without a hook: one transaction, and the address is
// opened behind the answer.
func (b *Broker) claimGroup(ctx context.Context, r ProvisionRequest, c claim) (ProvisionResult, error) {
	if err := b.o.Store.Update(ctx, func(tx store.Tx) error {
		if err := c.run(tx, r, store.InstanceReady); err != nil {
			return err
		}
		return c.audit(ctx, tx)
	}); err != nil {
		return ProvisionResult{}, failure(err, "The service instance could not be created.")
	}
	if c.old != nil {
		return b.repeated(r, c)
	}
	b.o.Groups.Demand(c.inst.Fingerprint, c.made.GroupID != "")
	if c.made.GroupID == "" {
		return ProvisionResult{Operation: c.operation.ID, DashboardURL: c.made.DashboardURL}, nil
	}
	b.queue.add(job{settleInstance, r.InstanceID})
	return ProvisionResult{Created: true, DashboardURL: c.made.DashboardURL}, nil
}

// claimAndRun provisions with a hook, under the instance's lock. A failure
// leaves nothing behind.
func (b *Broker) claimAndRun(ctx context.Context, r ProvisionRequest, c claim, p *pending) (ProvisionResult, error) {
	if err := b.o.Store.Update(ctx, func(tx store.Tx) error { return c.run(tx, r, store.InstanceCreating) }); err != nil {
		return ProvisionResult{}, err
	}
	if c.old != nil {
		return b.repeated(r, c)
	}
	b.o.Groups.Demand(c.inst.Fingerprint, c.made.GroupID != "")
	if c.made.GroupID == "" {
		return ProvisionResult{Operation: c.operation.ID, DashboardURL: c.made.DashboardURL}, nil
	}
	if err := b.finishProvision(ctx, c.made); err != nil {
		if seized(ctx) {
			return ProvisionResult{}, interruption(ctx)
		}
		undo, cancel := b.cleanup(ctx)
		defer cancel()
		if p.told.Load() { // it is polled, and must stay to be
			const why = "The service instance could not be set up with these parameters. Delete it and try again."
			return ProvisionResult{}, errors.Join(err, b.failProvision(undo, r.InstanceID, why))
		}
		if _, undoErr := b.remove(undo, r.InstanceID, nil); undoErr != nil {
			err = errors.Join(err, fmt.Errorf("undo: %w", undoErr))
		}
		return ProvisionResult{}, failure(err, "The service instance could not be set up with these parameters; nothing of it was kept.")
	}
	return ProvisionResult{Created: true, DashboardURL: c.made.DashboardURL}, nil
}

// run is the transaction. On a hit the new instance gets state; a ready one is
// done at once.
func (c *claim) run(tx store.Tx, r ProvisionRequest, state store.InstanceState) error {
	c.old, c.made = nil, store.Instance{}
	if err := c.find(tx); err != nil || c.old != nil {
		return err
	}
	if err := c.within(tx, c.inst); err != nil {
		return err
	}
	t := now()
	inst := c.inst
	inst.CreatedAt = t
	inst.DashboardURL = c.link(inst)
	group, err := tx.Groups().ClaimWarm(inst.Fingerprint, inst.ID, t)
	switch {
	case err == nil:
		inst.GroupID, inst.State = group.ID, state
	case errors.Is(err, store.ErrNotFound):
		if err := mayWait(tx, inst.Fingerprint, c.ceiling, r.AcceptsIncomplete); err != nil {
			return err
		}
		inst.State = store.InstanceCreating
	default:
		return err
	}
	c.made = inst
	if err := tx.Instances().Put(inst); err != nil || inst.State == store.InstanceReady {
		return err // nobody learns of an operation that ended before the answer
	}
	c.operation = store.Operation{
		ID: newOperationID(), Kind: store.OpProvision, State: store.OpInProgress,
		InstanceID: r.InstanceID, ServiceID: r.ServiceID, PlanID: r.PlanID, StartedAt: t, Async: inst.GroupID == "",
	}
	return tx.Operations().Put(c.operation)
}

// audit records what run has made.
func (c *claim) audit(ctx context.Context, tx store.Tx) error {
	switch {
	case c.old != nil:
		return nil // nothing was made
	case c.made.GroupID == "":
		return audit(ctx, tx, store.OpProvision, c.made, c.operation.ID, 202, "accepted")
	}
	return audit(ctx, tx, store.OpProvision, c.made, "", 201, "created")
}

// find looks for an instance with the id, and its operation.
func (c *claim) find(tx store.Tx) error {
	old, err := tx.Instances().Get(c.inst.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	c.old = &old
	c.operation, err = tx.Operations().Latest(old.ID, "")
	if errors.Is(err, store.ErrNotFound) { // forgotten
		return nil
	}
	return err
}

func (b *Broker) lookUp(ctx context.Context, c *claim) (known bool, err error) {
	err = b.o.Store.View(ctx, c.find)
	return c.old != nil, err
}

// mayWait says whether an instance may wait for a group.
func mayWait(tx store.Tx, fingerprint string, ceiling int, acceptsIncomplete bool) error {
	if !acceptsIncomplete {
		return refuse(AsyncRequired, "No service instance of this plan is ready at the moment. Creating one requires client support for asynchronous service operations (accepts_incomplete=true).")
	}
	counts, err := tx.Groups().Count(fingerprint)
	if err != nil {
		return err
	}
	waiting, err := tx.Instances().CountWaiting(fingerprint)
	if err != nil {
		return err
	}
	if counts[store.GroupClaimed]+waiting >= ceiling {
		return refuse(Refused, "All %d service instances that this plan can have at a time are in use. Delete one, or ask the operator for more.", ceiling)
	}
	return nil
}

// repeated answers for an instance that was there before: OSB, "Provisioning",
// 200, 202 and 409.
func (b *Broker) repeated(r ProvisionRequest, c claim) (ProvisionResult, error) {
	parameters, err := b.openParameters(*c.old)
	if err != nil {
		return ProvisionResult{}, failure(err, "The service instance could not be compared with the existing one.")
	}
	switch {
	case c.old.Digest != c.inst.Digest || !sameJSON(parameters, r.Parameters):
		return ProvisionResult{}, refuse(Conflict, "A service instance with this id exists and has different attributes.")
	case c.old.State == store.InstanceReady, c.old.State == store.InstanceUpdating:
		return ProvisionResult{DashboardURL: c.old.DashboardURL}, nil
	case c.old.State == store.InstanceFailed:
		return ProvisionResult{}, refuse(Conflict, "The creation of this service instance failed. Delete it before you create it again.")
	case !r.AcceptsIncomplete:
		return ProvisionResult{}, refuse(Concurrency, "The service instance is being created.")
	}
	return ProvisionResult{Operation: c.operation.ID, DashboardURL: c.old.DashboardURL}, nil
}

// failureOrNil is failure that lets nil pass.
func failureOrNil(err error, message string) error {
	if err == nil {
		return nil
	}
	return failure(err, message)
}
