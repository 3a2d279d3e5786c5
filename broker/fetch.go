package broker

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/remuda/remuda/store"
)

// FetchRequest is GET on an instance (BindingID "") or a binding.
type FetchRequest struct {
	InstanceID string
	BindingID  string
	ServiceID  string // hints: "" when not given
	PlanID     string
}

func (r FetchRequest) check() error {
	err := checkID("instance_id", r.InstanceID)
	if err == nil && r.BindingID != "" {
		err = checkID("binding_id", r.BindingID)
	}
	return err
}

// checkHints compares the hints that are given.
func checkHints(serviceID, planID, hintService, hintPlan string) error {
	if hintService == "" {
		hintService = serviceID
	}
	if hintPlan == "" {
		hintPlan = planID
	}
	return samePlan(serviceID, planID, hintService, hintPlan)
}

// InstanceResult is an instance as the platform sees it.
type InstanceResult struct {
	ServiceID    string
	PlanID       string
	DashboardURL string
	Parameters   json.RawMessage // empty when none were given
	Maintenance  string          // version of the recipe that serves it; "" when not known
}

// FetchInstance shows an instance that is ready (OSB, "Fetching a Service
// Instance").
func (b *Broker) FetchInstance(ctx context.Context, r FetchRequest) (InstanceResult, error) {
	if err := r.check(); err != nil {
		return InstanceResult{}, err
	}
	inst, err := b.instance(ctx, r.InstanceID)
	if err == nil && inst.State == store.InstanceUpdating {
		return InstanceResult{}, refuse(Concurrency, "The service instance is being updated.")
	}
	if errors.Is(err, store.ErrNotFound) || err == nil && inst.State != store.InstanceReady {
		return InstanceResult{}, refuse(NotFound, "There is no such service instance, or it is not ready.")
	}
	if err == nil {
		err = checkHints(inst.ServiceID, inst.PlanID, r.ServiceID, r.PlanID)
	}
	if err != nil {
		return InstanceResult{}, failure(err, "The service instance could not be fetched.")
	}
	parameters, err := b.openParameters(inst)
	if err != nil {
		return InstanceResult{}, failure(err, "The service instance could not be fetched.")
	}
	return InstanceResult{
		ServiceID: inst.ServiceID, PlanID: inst.PlanID, DashboardURL: b.freshLink(ctx, inst), Parameters: parameters,
		Maintenance: inst.Maintenance,
	}, nil
}

// FetchBinding shows a binding that is ready, with its credentials (OSB,
// "Fetching a Service Binding").
func (b *Broker) FetchBinding(ctx context.Context, r FetchRequest) (BindResult, error) {
	if err := first(r.check(), checkID("binding_id", r.BindingID)); err != nil {
		return BindResult{}, err
	}
	var binding store.Binding
	err := b.o.Store.View(ctx, func(tx store.Tx) (err error) {
		binding, err = tx.Bindings().Get(r.BindingID)
		return err
	})
	if errors.Is(err, store.ErrNotFound) ||
		err == nil && (binding.InstanceID != r.InstanceID || !established(binding.State)) {
		return BindResult{}, refuse(NotFound, "There is no such binding, or it is not ready.")
	}
	if err == nil {
		err = checkHints(binding.ServiceID, binding.PlanID, r.ServiceID, r.PlanID)
	}
	if err != nil {
		return BindResult{}, failure(err, "The binding could not be fetched.")
	}
	result, err := b.existingBinding(ctx, binding)
	if errors.Is(err, store.ErrNotFound) { // deleted meanwhile with its instance
		return BindResult{}, refuse(NotFound, "There is no such binding, or it is not ready.")
	}
	return result, failureOrNil(err, "The binding could not be fetched.")
}
