package broker

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"time"

	"github.com/remuda/remuda/store"
)

// UpdateRequest is PATCH /v2/service_instances/:instance_id.
type UpdateRequest struct {
	InstanceID         string
	ServiceID          string
	PlanID             string          // "" leaves it
	Context            json.RawMessage // an object; empty leaves it
	Parameters         json.RawMessage // an object with those to change; empty leaves them
	MaintenanceVersion string          // "" when not given
	AcceptsIncomplete  bool
}

// UpdateResult is the answer to an UpdateRequest.
type UpdateResult struct {
	Operation    string // not empty: in progress, 202
	DashboardURL string
}

// updateTime bounds an update that goes on behind its answer.
const updateTime = 6 * time.Minute

// Update changes plan, parameters, context and recipe version of an instance,
// each only when asked for, and all or nothing (OSB, "Updating a Service
// Instance"). Data and logins stay.
func (b *Broker) Update(ctx context.Context, r UpdateRequest) (UpdateResult, error) {
	if err := b.checkUpdate(&r); err != nil {
		return UpdateResult{}, err
	}
	inst, err := b.updatable(ctx, r)
	var running *inProgress
	if errors.As(err, &running) {
		return UpdateResult{Operation: running.operation, DashboardURL: inst.DashboardURL}, nil
	}
	if err != nil {
		return UpdateResult{}, failure(err, "The service instance could not be updated.")
	}
	limit := b.o.WorkTimeout
	if r.AcceptsIncomplete {
		limit = updateTime
	}
	op, err := b.patiently(ctx, r.AcceptsIncomplete, store.Operation{Kind: store.OpUpdate, InstanceID: r.InstanceID},
		func(ctx context.Context, _ *pending) error {
			return b.lockedFor(ctx, r.InstanceID, limit, func(ctx context.Context) error { return b.updateLocked(ctx, r) })
		})
	if err != nil {
		return UpdateResult{}, failure(err, "The service instance could not be updated; it is as it was before.")
	}
	return UpdateResult{Operation: op, DashboardURL: inst.DashboardURL}, nil
}

// inProgress says that the same request is being worked on.
type inProgress struct{ operation string }

func (*inProgress) Error() string { return "in progress" }

// checkUpdate validates all of the request that needs no store, and brings its
// objects into one form.
func (b *Broker) checkUpdate(r *UpdateRequest) (err error) {
	if err := first(checkID("instance_id", r.InstanceID), checkText("service_id", r.ServiceID)); err != nil {
		return err
	}
	if r.PlanID != "" {
		if _, err := b.plans.find(r.ServiceID, r.PlanID); err != nil {
			return err
		}
	} else if err := b.plans.offers(r.ServiceID); err != nil {
		return err
	}
	if r.Context, err = object("context", r.Context); err != nil {
		return err
	}
	r.Parameters, err = object("parameters", r.Parameters)
	return err
}

// updatable finds the instance and refuses what cannot be, without waiting for
// what else is done to it.
func (b *Broker) updatable(ctx context.Context, r UpdateRequest) (inst store.Instance, err error) {
	var running string
	err = b.o.Store.View(ctx, func(tx store.Tx) (err error) {
		if inst, err = tx.Instances().Get(r.InstanceID); err != nil {
			return err
		}
		running, err = underWay(tx, r.InstanceID, "", store.OpUpdate)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return inst, refuse(NotFound, "There is no such service instance.")
	}
	if err != nil {
		return inst, err
	}
	if inst.State == store.InstanceUpdating && inst.Next != nil && inst.Next.Request == updateDigest(r) && running != "" {
		if !r.AcceptsIncomplete {
			return inst, refuse(Concurrency, "The service instance is being updated.")
		}
		return inst, &inProgress{running}
	}
	return inst, b.checkTarget(inst, r)
}

// checkTarget refuses what the instance's state or the catalog does not allow.
func (b *Broker) checkTarget(inst store.Instance, r UpdateRequest) error {
	if r.ServiceID != inst.ServiceID {
		return refuse(Invalid, "service_id %s is not its service.", quote(r.ServiceID))
	}
	switch inst.State {
	case store.InstanceCreating:
		return refuse(Concurrency, "The service instance is still being created.")
	case store.InstanceUpdating:
		return refuse(Concurrency, "The service instance is being updated already.")
	case store.InstanceFailed:
		return refuse(Refused, "The creation of the service instance failed, so it cannot be updated.")
	}
	planID := r.PlanID
	if planID == "" {
		planID = inst.PlanID
	}
	p, err := b.plans.find(inst.ServiceID, planID)
	if err != nil {
		return refuse(Refused, "The plan of the service instance is not in the catalog any more; ask for another plan.")
	}
	return checkMaintenance(p, r.MaintenanceVersion)
}

// checkMaintenance is OSB's rule for maintenance_info: only the version counts.
func checkMaintenance(p *plan, version string) error {
	if version != "" && version != p.version {
		return refuse(MaintenanceConflict, "maintenance_info.version %s is not the plan's, which is %s. Fetch the catalog again.", quote(version), p.version)
	}
	return nil
}

func updateDigest(r UpdateRequest) string {
	return digest(r.ServiceID, r.PlanID, string(r.Context), string(r.Parameters), r.MaintenanceVersion)
}

func (b *Broker) updateLocked(ctx context.Context, r UpdateRequest) error {
	inst, err := b.updatable(ctx, r)
	var running *inProgress
	switch {
	case errors.As(err, &running): // interrupted, and found before the sweep
		return b.finishUpdate(ctx, inst)
	case err != nil:
		return err
	}
	next, err := b.plannedUpdate(ctx, inst, r)
	if err != nil || next == nil {
		return err
	}
	if err := b.intendUpdate(ctx, &inst, next, r); err != nil {
		return err
	}
	err = b.finishUpdate(ctx, inst)
	if err == nil {
		return nil
	}
	if seized(ctx) {
		return interruption(ctx)
	}
	undo, cancel := b.cleanup(ctx)
	defer cancel()
	return b.failUpdate(undo, inst.ID, err)
}

// plannedUpdate says what the instance is to become; nil when the request
// changes nothing.
func (b *Broker) plannedUpdate(ctx context.Context, inst store.Instance, r UpdateRequest) (*store.InstanceUpdate, error) {
	next := &store.InstanceUpdate{
		PlanID: inst.PlanID, Fingerprint: inst.Fingerprint, Context: inst.Context, Sealed: inst.Sealed,
		Maintenance: inst.Maintenance, Request: updateDigest(r),
	}
	if r.PlanID != "" {
		next.PlanID = r.PlanID
	}
	if len(r.Context) > 0 {
		next.Context = r.Context
	}
	p, err := b.plans.find(inst.ServiceID, next.PlanID)
	if err != nil {
		return nil, err
	}
	if err := b.mergeParameters(next, inst, p, r.Parameters); err != nil {
		return nil, err
	}
	upgrade := r.MaintenanceVersion != ""
	if upgrade || next.PlanID != inst.PlanID {
		next.Fingerprint, err = b.o.Groups.Prospect(ctx, inst.GroupID, p.offering, p.name, upgrade)
		if err != nil {
			return nil, err
		}
		if upgrade {
			next.Maintenance = p.version
		}
	}
	next.Digest = digest(inst.ServiceID, next.PlanID, inst.OrgGUID, inst.SpaceGUID, string(next.Context))
	if next.PlanID == inst.PlanID && next.Fingerprint == inst.Fingerprint && next.Maintenance == inst.Maintenance &&
		!next.Configure && string(next.Context) == string(inst.Context) {
		return nil, nil
	}
	return next, nil
}

// mergeParameters puts the given parameters over those that the instance has.
func (b *Broker) mergeParameters(next *store.InstanceUpdate, inst store.Instance, p *plan, given json.RawMessage) error {
	if len(given) == 0 {
		return nil
	}
	old, err := b.openParameters(inst)
	if err != nil {
		return err
	}
	merged, err := decodeObject(old)
	if err != nil {
		return err
	}
	changes, err := decodeObject(given)
	if err != nil {
		return err
	}
	if merged == nil {
		merged = map[string]any{}
	}
	maps.Copy(merged, changes)
	text, err := json.Marshal(merged)
	if err != nil {
		return err
	}
	if err := checkParameters(p.provision, text); err != nil {
		return err
	}
	if len(merged) == 0 || sameJSON(old, text) {
		return nil
	}
	next.Configure = true
	next.Sealed, err = b.sealParameters(inst.ID, text)
	return err
}

// intendUpdate stores what is about to be done.
func (b *Broker) intendUpdate(ctx context.Context, inst *store.Instance, next *store.InstanceUpdate, r UpdateRequest) error {
	offering, name := b.plans.names(inst.ServiceID, next.PlanID)
	current, ceiling, _ := b.o.Groups.Fingerprint(offering, name)
	return b.o.Store.Update(ctx, func(tx store.Tx) error {
		row, err := tx.Instances().Get(inst.ID)
		if err != nil {
			return err
		}
		if err := b.checkTarget(row, r); err != nil {
			return err
		}
		if err := b.planWithinLimits(tx, row, next.PlanID); err != nil {
			return err
		}
		if next.Fingerprint != row.Fingerprint && next.Fingerprint == current {
			counts, err := tx.Groups().Count(current)
			if err != nil {
				return err
			}
			if counts[store.GroupClaimed] >= ceiling {
				return refuse(Refused, "All %d service instances that the plan can have at a time are in use. Ask the operator for more.", ceiling)
			}
		}
		row.State, row.Next = store.InstanceUpdating, next
		*inst = row
		if err := tx.Instances().Put(row); err != nil {
			return err
		}
		return tx.Operations().Put(store.Operation{
			ID: newOperationID(), Kind: store.OpUpdate, State: store.OpInProgress, InstanceID: row.ID,
			ServiceID: row.ServiceID, PlanID: row.PlanID, NextPlanID: next.PlanID, StartedAt: now(),
		})
	})
}
