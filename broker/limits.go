package broker

import (
	"fmt"

	"github.com/remuda/remuda/store"
)

// Limit bounds how many service instances there may be. Nil is without limit, 0
// allows no new one. Failed instances count too until they are deleted.
type Limit struct {
	Instances       *int // in all
	PerOrganization *int // in each organization
	PerSpace        *int // in each space
}

// Limits are the limits of the whole broker and of its offerings and plans, by
// name. All of them hold at the same time.
type Limits struct {
	Limit
	Offerings map[string]OfferingLimits
}

// OfferingLimits are those of one offering and of its plans.
type OfferingLimits struct {
	Limit
	Plans map[string]Limit
}

// bound is one limit that an instance meets.
type bound struct {
	scope store.InstanceScope
	max   int
	who   string // has or may have the instances
	what  string // they are: "", or "of …" with a space before it
}

// bounds lists what one limit says about an instance. scope tells what is
// counted, and what is its name for the user.
func (l Limit) bounds(scope store.InstanceScope, what string, inst store.Instance) (all []bound) {
	if l.Instances != nil {
		all = append(all, bound{scope, *l.Instances, "This broker", what})
	}
	if scope.OrgGUID = inst.OrgGUID; l.PerOrganization != nil {
		all = append(all, bound{scope, *l.PerOrganization, "This organization", what})
	}
	if scope.SpaceGUID = inst.SpaceGUID; l.PerSpace != nil {
		all = append(all, bound{scope, *l.PerSpace, "This space", what})
	}
	return all
}

// ofPlan lists what bounds the instances of the plan that inst names.
func (l Limits) ofPlan(inst store.Instance, offering, plan string) []bound {
	return l.Offerings[offering].Plans[plan].bounds(store.InstanceScope{ServiceID: inst.ServiceID, PlanID: inst.PlanID},
		fmt.Sprintf(" of plan %s of %s", plan, offering), inst)
}

// all lists everything that bounds a new instance, the narrowest first.
func (l Limits) all(inst store.Instance, offering, plan string) []bound {
	all := l.ofPlan(inst, offering, plan)
	all = append(all, l.Offerings[offering].bounds(store.InstanceScope{ServiceID: inst.ServiceID},
		" of "+offering, inst)...)
	return append(all, l.bounds(store.InstanceScope{}, "", inst)...)
}

// withinLimits refuses a new instance that there would be too many of. It must
// be part of the transaction that stores the instance.
func (b *Broker) withinLimits(tx store.Tx, inst store.Instance) error {
	offering, plan := b.plans.names(inst.ServiceID, inst.PlanID)
	return checkBounds(tx, b.o.Limits.all(inst, offering, plan))
}

// planWithinLimits refuses to move an instance that is stored to another plan of
// its offering when there would be too many of that plan. It must be part of the
// transaction that stores the move.
func (b *Broker) planWithinLimits(tx store.Tx, inst store.Instance, planID string) error {
	if inst.PlanID == planID {
		return nil
	}
	inst.PlanID = planID
	offering, plan := b.plans.names(inst.ServiceID, planID)
	return checkBounds(tx, b.o.Limits.ofPlan(inst, offering, plan))
}

// checkBounds counts, and refuses one more than may be.
func checkBounds(tx store.Tx, bounds []bound) error {
	for _, l := range bounds {
		n, err := tx.Instances().CountIn(l.scope)
		if err != nil {
			return err
		}
		if n >= l.max {
			return refuse(Refused, "%s may have %s%s and has %d. Delete one that is not needed (failed ones count until they are deleted), or ask the operator for more.",
				l.who, countInstances(l.max), l.what, n)
		}
	}
	return nil
}

func countInstances(n int) string {
	if n == 1 {
		return "1 service instance"
	}
	return fmt.Sprintf("%d service instances", n)
}
