package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/store"
)

func limited(t *testing.T, l broker.Limits) *brokertest.Fixture {
	t.Helper()
	return brokertest.New(t, func(o *broker.Options) { o.Limits = l })
}

func TestLimits(t *testing.T) {
	one, two := new(1), new(2)
	box := func(l broker.Limit) broker.Limits {
		return broker.Limits{Offerings: map[string]broker.OfferingLimits{"box": {Limit: l}}}
	}
	small := func(l broker.Limit) broker.Limits {
		return broker.Limits{Offerings: map[string]broker.OfferingLimits{"box": {Plans: map[string]broker.Limit{"small": l}}}}
	}
	elsewhere := func(r *broker.ProvisionRequest) { r.SpaceGUID = "space-2" }
	otherOrg := func(r *broker.ProvisionRequest) { r.OrganizationGUID = "org-2" }
	otherPlan := func(r *broker.ProvisionRequest) { r.PlanID = brokertest.MediumID }
	otherOffering := func(r *broker.ProvisionRequest) {
		r.ServiceID, r.PlanID = brokertest.OtherID, brokertest.OtherPlanID
	}
	for _, test := range []struct {
		name   string
		limits broker.Limits
		free   func(*broker.ProvisionRequest) // what is still possible
		says   string
	}{
		{"broker", broker.Limits{Limit: broker.Limit{Instances: two}}, nil, "This broker may have 2 service instances and has 2."},
		{"organization", broker.Limits{Limit: broker.Limit{PerOrganization: two}}, otherOrg, "This organization may have 2 service instances and has 2."},
		{"space", broker.Limits{Limit: broker.Limit{PerSpace: two}}, elsewhere, "This space may have 2 service instances and has 2."},
		{"offering", box(broker.Limit{Instances: two}), otherOffering, "This broker may have 2 service instances of box and has 2."},
		{"offering in an organization", box(broker.Limit{PerOrganization: two}), otherOrg, "This organization may have 2 service instances of box and has 2."},
		{"offering in a space", box(broker.Limit{PerSpace: two}), otherOffering, "This space may have 2 service instances of box and has 2."},
		{"plan", small(broker.Limit{Instances: two}), otherPlan, "This broker may have 2 service instances of plan small of box and has 2."},
		{"plan in an organization", small(broker.Limit{PerOrganization: two}), otherOrg, "This organization may have 2 service instances of plan small of box and has 2."},
		{"lowered", small(broker.Limit{PerSpace: one}), elsewhere, "This space may have 1 service instance of plan small of box and has 2."},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := brokertest.New(t, nil)
			f.Pool.Warm(t, 3)
			provision(t, f, "a")
			provision(t, f, "b")
			f.Stop(t)
			f.Start(t, func(o *broker.Options) { o.Limits = test.limits })
			_, err := f.Broker.Provision(ctx, provisionRequest("c"))
			wantCode(t, err, broker.Refused)
			if !strings.HasPrefix(err.Error(), test.says) {
				t.Errorf("%q, want %q", err, test.says)
			}
			_, err = f.Broker.Provision(ctx, provisionRequest("a")) // it is there
			wantCode(t, err, "")
			if test.free != nil {
				r := provisionRequest("d")
				r.AcceptsIncomplete = true
				test.free(&r)
				_, err = f.Broker.Provision(ctx, r)
				wantCode(t, err, "")
			}
		})
	}
}

// N parallel requests make exactly as many instances as there may be, whether
// their groups are warm or not.
func TestLimitsAreNotRaced(t *testing.T) {
	const limit = 3
	f := limited(t, broker.Limits{Limit: broker.Limit{PerSpace: new(limit)}})
	f.Pool.Warm(t, 2)
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for n := range 20 {
		wg.Go(func() {
			r := provisionRequest(fmt.Sprint(n))
			r.AcceptsIncomplete = true
			_, err := f.Broker.Provision(ctx, r)
			var e *broker.Error
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			} else if !errors.As(err, &e) || e.Code != broker.Refused {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f.View(t, func(tx store.Tx) error {
		n, err := tx.Instances().CountIn(store.InstanceScope{})
		if made != limit || n != limit {
			t.Errorf("%d were made and %d are there, want %d", made, n, limit)
		}
		return err
	})
}

func TestLimitIsFreeAfterDeletion(t *testing.T) {
	f := limited(t, broker.Limits{Limit: broker.Limit{Instances: new(1)}})
	f.Pool.Warm(t, 2)
	provision(t, f, "a")
	_, err := f.Broker.Provision(ctx, provisionRequest("b"))
	wantCode(t, err, broker.Refused)
	wantCode(t, f.Broker.Deprovision(ctx, deprovisionRequest("a")), "")
	provision(t, f, "b")
}

func TestFailedInstancesCount(t *testing.T) {
	f := limited(t, broker.Limits{Limit: broker.Limit{Instances: new(1)}})
	err := f.Store.Update(ctx, func(tx store.Tx) error {
		return tx.Instances().Put(store.Instance{ID: "failed", State: store.InstanceFailed})
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Pool.Warm(t, 1)
	_, err = f.Broker.Provision(ctx, provisionRequest("a"))
	wantCode(t, err, broker.Refused)
	if !strings.Contains(err.Error(), "failed ones count") {
		t.Error(err)
	}
}

func TestNoneAllowed(t *testing.T) {
	f := limited(t, broker.Limits{Offerings: map[string]broker.OfferingLimits{"box": {Limit: broker.Limit{Instances: new(0)}}}})
	f.Pool.Warm(t, 1)
	_, err := f.Broker.Provision(ctx, provisionRequest("a"))
	wantCode(t, err, broker.Refused)
}

// A move to another plan meets the limits of that plan alone.
func TestPlanWithinLimits(t *testing.T) {
	f := limited(t, broker.Limits{
		Limit:     broker.Limit{PerSpace: new(2)},
		Offerings: map[string]broker.OfferingLimits{"box": {Plans: map[string]broker.Limit{"medium": {PerOrganization: new(1)}}}},
	})
	f.Pool.Warm(t, 2)
	provision(t, f, "a")
	provision(t, f, "b") // the space is full
	move := func(id string) error {
		return f.Store.Update(ctx, func(tx store.Tx) error {
			inst, err := tx.Instances().Get(id)
			if err != nil {
				return err
			}
			if err := f.Broker.PlanWithinLimits(tx, inst, brokertest.MediumID); err != nil {
				return err
			}
			inst.PlanID = brokertest.MediumID
			return tx.Instances().Put(inst)
		})
	}
	wantCode(t, move("a"), "")
	wantCode(t, move("a"), "") // it has the plan already
	wantCode(t, move("b"), broker.Refused)
}
