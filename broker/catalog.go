package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/remuda/remuda/catalog"
)

// Catalog returns the recipes whose offerings are served.
func (b *Broker) Catalog() []catalog.Recipe { return b.o.Catalog }

// plan is a plan of the catalog, ready to check requests against.
type plan struct {
	offering, name  string // as Groups wants them
	provision, bind *catalog.ParameterValidator
	version         string        // of maintenance_info
	limit           time.Duration // maximum_polling_duration; 0 for none
	lifetime        time.Duration // of a binding; 0 for ever
	requiresApp     bool
	needsRoute      bool // bindings are of routes only
}

// planIndex is service id → plan id → plan.
type planIndex map[string]map[string]*plan

func indexPlans(recipes []catalog.Recipe) (planIndex, error) {
	index := planIndex{}
	for _, r := range recipes {
		provision, err := catalog.NewParameterValidator(r.Offering.ProvisionSchema)
		if err != nil {
			return nil, fmt.Errorf("provision schema of %q: %w", r.Name, err)
		}
		bind, err := catalog.NewParameterValidator(r.Offering.BindSchema)
		if err != nil {
			return nil, fmt.Errorf("bind schema of %q: %w", r.Name, err)
		}
		if index[r.Offering.ID] != nil {
			return nil, fmt.Errorf("offering id %q occurs twice", r.Offering.ID)
		}
		plans := map[string]*plan{}
		for _, p := range r.Offering.Plans {
			if plans[p.ID] != nil {
				return nil, fmt.Errorf("plan id %q occurs twice in offering %q", p.ID, r.Name)
			}
			plans[p.ID] = &plan{
				offering: r.Name, name: p.Name, provision: provision, bind: bind, version: r.Version,
				limit:    time.Duration(p.MaximumPollingDuration) * time.Second,
				lifetime: time.Duration(p.BindingLifetimeSeconds) * time.Second, requiresApp: r.Offering.RequiresApp,
				needsRoute: r.RouteServiceURL != "",
			}
		}
		index[r.Offering.ID] = plans
	}
	return index, nil
}

// find returns the plan, which must belong to the service.
func (i planIndex) find(serviceID, planID string) (*plan, error) {
	plans, ok := i[serviceID]
	if !ok {
		return nil, refuse(Invalid, "service_id %s is not in the catalog.", quote(serviceID))
	}
	p, ok := plans[planID]
	if !ok {
		return nil, refuse(Invalid, "plan_id %s is not a plan of service_id %s.", quote(planID), quote(serviceID))
	}
	return p, nil
}

// offers refuses a service that is not in the catalog.
func (i planIndex) offers(serviceID string) error {
	if _, ok := i[serviceID]; !ok {
		return refuse(Invalid, "service_id %s is not in the catalog.", quote(serviceID))
	}
	return nil
}

// names are the names behind two ids, for people; the ids themselves when the
// catalog has lost them.
func (i planIndex) names(serviceID, planID string) (offering, name string) {
	if p := i[serviceID][planID]; p != nil {
		return p.offering, p.name
	}
	return serviceID, planID
}

// checkParameters validates a parameters object. The error says where and what
// is wrong.
func checkParameters(v *catalog.ParameterValidator, parameters json.RawMessage) error {
	_, err := v.Validate(parameters)
	var fault *catalog.ParameterError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &fault):
		return refuse(Invalid, "The parameters are not valid: %s.", shorten(fault.Message, 2000))
	}
	return failure(err, "The parameters could not be checked.")
}
