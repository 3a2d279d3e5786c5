package broker

import (
	"context"
	"errors"
	"time"

	"github.com/remuda/remuda/store"
)

// Links makes the addresses of instances' dashboards; broker/dashboard has them.
type Links interface {
	// Make returns the address for an instance whose id and time of creation
	// are set.
	Make(store.Instance) string
	// Stale says that the instance's address does not work any more, or soon
	// will not.
	Stale(store.Instance) bool
}

// link is the address for a new instance; "" without dashboards.
func (b *Broker) link(inst store.Instance) string {
	if b.o.Links == nil {
		return ""
	}
	return b.o.Links.Make(inst)
}

// freshLink is the instance's address, which is made and stored anew when it is
// stale (OSB, "Fetching a Service Instance").
func (b *Broker) freshLink(ctx context.Context, inst store.Instance) string {
	if b.o.Links == nil || !b.o.Links.Stale(inst) {
		return inst.DashboardURL
	}
	err := b.o.Store.Update(ctx, func(tx store.Tx) (err error) {
		if inst, err = tx.Instances().Get(inst.ID); err != nil || !b.o.Links.Stale(inst) {
			return err
		}
		inst.DashboardURL = b.o.Links.Make(inst)
		return tx.Instances().Put(inst)
	})
	if err != nil {
		b.log.ErrorContext(ctx, "dashboard link could not be made anew", "instance", inst.ID, "error", err)
	}
	return inst.DashboardURL
}

// Bounds of what Details returns.
const (
	maxHistory       = 20
	maxShownBindings = 100
)

// Details is an instance as its owner sees it: no credentials, no parameters,
// and nobody's identity.
type Details struct {
	Instance  store.Instance // without its context and what is sealed
	Offering  string         // names
	Plan      string
	Endpoints []store.Endpoint
	Bindings  []BindingDetails // the newest, up to 100, the oldest of them first
	More      int              // how many other bindings there are
	History   []HistoryEntry   // the newest first, up to 20
	Failure   string           // what the last operation failed with, for the user
}

// BindingDetails is a binding without its login.
type BindingDetails struct {
	ID        string
	State     store.BindingState
	AppGUID   string
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
}

// HistoryEntry is a call that wanted to change the instance, or the end of its work.
type HistoryEntry struct {
	Time      time.Time
	Operation string
	BindingID string
	Result    string
}

// Brief is Details without endpoints, bindings, history and failure: what is
// needed to decide who may see them. NotFound when there is no such instance.
func (b *Broker) Brief(ctx context.Context, id string) (Details, error) {
	return b.readDetails(ctx, id, b.brief)
}

// Details returns what the owner of an instance may see of it, in any state.
// NotFound when there is none.
func (b *Broker) Details(ctx context.Context, id string) (Details, error) {
	return b.readDetails(ctx, id, b.details)
}

func (b *Broker) readDetails(ctx context.Context, id string, read func(store.Tx, string) (Details, error)) (Details, error) {
	var d Details
	err := b.o.Store.View(ctx, func(tx store.Tx) (err error) {
		d, err = read(tx, id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return Details{}, refuse(NotFound, "There is no such service instance.")
	}
	return d, failureOrNil(err, "The service instance could not be read.")
}

func (b *Broker) brief(tx store.Tx, id string) (d Details, err error) {
	d.Instance, err = tx.Instances().Get(id)
	d.Instance.Sealed, d.Instance.Context = nil, nil
	d.Offering, d.Plan = b.plans.names(d.Instance.ServiceID, d.Instance.PlanID)
	return d, err
}

func (b *Broker) details(tx store.Tx, id string) (Details, error) {
	d, err := b.brief(tx, id)
	if err != nil {
		return d, err
	}
	if d.Instance.GroupID != "" {
		if d.Endpoints, err = groupEndpoints(tx, d.Instance.GroupID); err != nil {
			return d, err
		}
	}
	bindings, err := tx.Bindings().Of(id)
	if err != nil {
		return d, err
	}
	d.More = max(len(bindings)-maxShownBindings, 0)
	for _, r := range bindings[d.More:] {
		d.Bindings = append(d.Bindings, BindingDetails{ID: r.ID, State: r.State, AppGUID: r.AppGUID, CreatedAt: r.CreatedAt, ExpiresAt: r.ExpiresAt})
	}
	history, err := tx.Audit().Page(store.AuditQuery{InstanceID: id, Since: d.Instance.CreatedAt.Add(-time.Minute), Limit: maxHistory})
	if err != nil {
		return d, err
	}
	for _, r := range history {
		if r.Operation == string(store.OpDeprovision) && r.Result == "deleted" {
			break // what is older was another instance's
		}
		d.History = append(d.History, HistoryEntry{Time: r.Time, Operation: r.Operation, BindingID: r.BindingID, Result: r.Result})
	}
	op, err := tx.Operations().Latest(id, "")
	switch {
	case errors.Is(err, store.ErrNotFound):
		return d, nil
	case err == nil && op.State == store.OpFailed && !op.StartedAt.Before(d.Instance.CreatedAt):
		d.Failure = op.Description
	}
	return d, err
}
