package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/remuda/remuda/store"
)

// LifetimeParameter is the bind parameter with which a tenant limits how long a
// binding is valid, in seconds, where the recipe's schema has it.
const LifetimeParameter = "lifetime_seconds"

// established says that a binding was made and not yet asked to be deleted.
func established(s store.BindingState) bool {
	return s == store.BindingReady || s == store.BindingExpired
}

// bindLifetime is what the parameters ask for, within what the plan gives.
func bindLifetime(p *plan, parameters json.RawMessage) (time.Duration, error) {
	values, err := templateValues(parameters)
	if err != nil {
		return 0, err
	}
	seconds, ok := values[LifetimeParameter].(int)
	if !ok {
		return p.lifetime, nil
	}
	asked := time.Duration(seconds) * time.Second
	if seconds < 1 || seconds > 100*365*24*3600 {
		return 0, refuse(Invalid, "%s must be between one second and a hundred years.", LifetimeParameter)
	}
	if p.lifetime > 0 && asked > p.lifetime {
		return 0, refuse(Invalid, "A binding of this plan is valid for at most %d seconds.", int(p.lifetime/time.Second))
	}
	return asked, nil
}

// expiry is when a binding that begins at t ends, and when it should be renewed:
// a fifth of its life before.
func expiry(t time.Time, lifetime time.Duration) (expires, renew time.Time) {
	if lifetime <= 0 {
		return time.Time{}, time.Time{}
	}
	return t.Add(lifetime), t.Add(lifetime - lifetime/5)
}

// expire takes the login of a binding whose time is over away. The binding
// itself stays until the platform deletes it. The caller holds the instance's lock.
func (b *Broker) expire(ctx context.Context, inst store.Instance, r store.Binding) error {
	if r.ExpiresAt.IsZero() || now().Before(r.ExpiresAt) {
		return nil
	}
	if err := b.runUnbind(ctx, inst, r); err != nil {
		return fmt.Errorf("expire binding %q: %w", r.ID, err)
	}
	return b.o.Store.Update(ctx, func(tx store.Tx) error {
		row, err := tx.Bindings().Get(r.ID)
		if errors.Is(err, store.ErrNotFound) || err == nil && row.State != store.BindingReady {
			return nil
		}
		if err != nil {
			return err
		}
		row.State = store.BindingExpired
		return tx.Bindings().Put(row)
	})
}

// succeed fills a request for a successor with what its predecessor was made
// from (OSB, "Binding Rotation"). What the request itself says must not differ.
func (b *Broker) succeed(ctx context.Context, r *BindRequest) error {
	if r.Predecessor == "" {
		return nil
	}
	if err := first(checkID("instance_id", r.InstanceID), checkID("binding_id", r.BindingID), checkID("predecessor_binding_id", r.Predecessor)); err != nil {
		return err
	}
	var inst store.Instance
	var old store.Binding
	err := b.o.Store.View(ctx, func(tx store.Tx) (err error) {
		if inst, err = tx.Instances().Get(r.InstanceID); errors.Is(err, store.ErrNotFound) {
			return refuse(NotFound, "There is no such service instance.")
		} else if err != nil {
			return err
		}
		if again, err := tx.Bindings().Get(r.BindingID); err == nil && again.Predecessor == r.Predecessor && again.InstanceID == r.InstanceID {
			old = again // asked once more: its predecessor may be gone by now
			return nil
		}
		old, err = tx.Bindings().Get(r.Predecessor)
		if errors.Is(err, store.ErrNotFound) || err == nil && old.InstanceID != r.InstanceID {
			return refuse(Invalid, "predecessor_binding_id %s is not a binding of this service instance.", quote(r.Predecessor))
		}
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case old.ID == r.BindingID && r.Predecessor != r.BindingID:
	case r.Predecessor == r.BindingID:
		return refuse(Invalid, "A binding cannot be its own predecessor.")
	case old.State == store.BindingExpired || !old.ExpiresAt.IsZero() && !now().Before(old.ExpiresAt):
		return refuse(Invalid, "The predecessor has expired, so it cannot be rotated; create a new binding.")
	case old.State == store.BindingCreating:
		return refuse(Concurrency, "The predecessor is still being created.")
	case old.State == store.BindingDeleting:
		return refuse(Concurrency, "The predecessor is being deleted.")
	}
	secrets, err := b.openBinding(old)
	if err != nil {
		return err
	}
	for _, field := range []struct {
		name string
		to   *string
		from string
	}{{"service_id", &r.ServiceID, inst.ServiceID}, {"plan_id", &r.PlanID, inst.PlanID}, {"app_guid", &r.AppGUID, old.AppGUID}, {"bind_resource.route", &r.Route, secrets.RouteText}} {
		if *field.to != "" && *field.to != field.from {
			return refuse(Invalid, "%s is not that of the predecessor.", field.name)
		}
		*field.to = field.from
	}
	if len(r.Parameters) == 0 {
		r.Parameters = secrets.Parameters
	}
	if len(r.Context) == 0 {
		r.Context = old.Context
	}
	return nil
}
