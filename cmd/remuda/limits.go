package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/catalog"
)

// Limits bound how many service instances there may be.
type Limits struct {
	Limit     `yaml:",inline"`
	Offerings map[string]OfferingLimits `yaml:"offerings"` // by name
}

// OfferingLimits are those of one offering and of its plans.
type OfferingLimits struct {
	Limit `yaml:",inline"`
	Plans map[string]Limit `yaml:"plans"` // by name
}

// Limit is without limit where a key is not given.
type Limit struct {
	Instances       *int `yaml:"instances"`
	PerOrganization *int `yaml:"per_organization"`
	PerSpace        *int `yaml:"per_space"`
}

// each calls f with every limit and its path.
func (l Limits) each(f func(limit Limit, path ...string)) {
	f(l.Limit, "limits")
	for _, offering := range slices.Sorted(maps.Keys(l.Offerings)) {
		o := l.Offerings[offering]
		f(o.Limit, "limits", "offerings", offering)
		for _, plan := range slices.Sorted(maps.Keys(o.Plans)) {
			f(o.Plans[plan], "limits", "offerings", offering, "plans", plan)
		}
	}
}

// faults checks the numbers.
func (l Limits) faults(at func(path ...string) func(format string, args ...any)) {
	l.each(func(limit Limit, path ...string) {
		for _, n := range []struct {
			key   string
			value *int
		}{{"instances", limit.Instances}, {"per_organization", limit.PerOrganization}, {"per_space", limit.PerSpace}} {
			if n.value != nil && *n.value < 0 {
				at(append(path, n.key)...)("%s.%s: %d is less than 0; leave the key out for no limit", strings.Join(path, "."), n.key, *n.value)
			}
		}
	})
}

// unknown returns a fault for every offering or plan that no recipe has.
func (l Limits) unknown(o origin, recipes []catalog.Recipe) (errs []error) {
	plans := map[string][]string{}
	for _, r := range recipes {
		plans[r.Name] = []string{}
		for _, p := range r.Offering.Plans {
			plans[r.Name] = append(plans[r.Name], p.Name)
		}
	}
	l.each(func(_ Limit, path ...string) {
		var message string
		switch {
		case len(path) < 3:
			return
		case plans[path[2]] == nil && len(path) == 3:
			message = fmt.Sprintf("limits: there is no offering %q; there are %s", path[2], strings.Join(slices.Sorted(maps.Keys(plans)), ", "))
		case len(path) == 5 && plans[path[2]] != nil && !slices.Contains(plans[path[2]], path[4]):
			message = fmt.Sprintf("limits: offering %s has no plan %q; it has %s", path[2], path[4], strings.Join(plans[path[2]], ", "))
		default:
			return
		}
		errs = append(errs, o.fault(message, path...))
	})
	return errs
}

// forBroker is the form that the use cases take.
func (l Limits) forBroker() broker.Limits {
	out := broker.Limits{Limit: broker.Limit(l.Limit), Offerings: map[string]broker.OfferingLimits{}}
	for name, o := range l.Offerings {
		plans := map[string]broker.Limit{}
		for plan, limit := range o.Plans {
			plans[plan] = broker.Limit(limit)
		}
		out.Offerings[name] = broker.OfferingLimits{Limit: broker.Limit(o.Limit), Plans: plans}
	}
	return out
}
