package conformance

import (
	"encoding/json"
	"slices"
	"time"
)

// offering is what the catalog says of a service offering.
type offering struct {
	id, name             string
	requires             []any
	bindable             bool
	instancesRetrievable bool
	bindingsRetrievable  bool
	contextUpdates       bool
	planUpdateable       bool
	plans                []plan
}

// plan is what the catalog says of a plan, with the offering's defaults.
type plan struct {
	id, name    string
	bindable    bool
	rotatable   bool
	updateable  bool
	maintenance string        // version, "" if none is offered
	maxPolling  time.Duration // 0 if none is given
	create      obj           // schemas, nil if none is given
	update      obj
	bind        obj
}

func text(o obj, name string) string {
	v, _ := o[name].(string)
	return v
}

func truth(o obj, name string) bool {
	v, _ := o[name].(bool)
	return v
}

func newOffering(o obj) offering {
	requires, _ := o["requires"].([]any)
	return offering{
		id: text(o, "id"), name: text(o, "name"), requires: requires,
		bindable: truth(o, "bindable"), planUpdateable: truth(o, "plan_updateable"),
		instancesRetrievable: truth(o, "instances_retrievable"), bindingsRetrievable: truth(o, "bindings_retrievable"),
		contextUpdates: truth(o, "allow_context_updates"),
	}
}

func newPlan(of *offering, p obj) plan {
	out := plan{
		id: text(p, "id"), name: text(p, "name"), bindable: of.bindable, updateable: of.planUpdateable,
		rotatable: truth(p, "binding_rotatable"),
	}
	if v, ok := p["bindable"].(bool); ok {
		out.bindable = v
	}
	if v, ok := p["plan_updateable"].(bool); ok {
		out.updateable = v
	}
	info, _ := p["maintenance_info"].(obj)
	out.maintenance = text(info, "version")
	if n, ok := p["maximum_polling_duration"].(json.Number); ok {
		if seconds, err := n.Int64(); err == nil && seconds > 0 && seconds < 1<<30 {
			out.maxPolling = time.Duration(seconds) * time.Second
		}
	}
	schemas, _ := p["schemas"].(obj)
	at := func(of, operation string) obj {
		group, _ := schemas[of].(obj)
		op, _ := group[operation].(obj)
		schema, _ := op["parameters"].(obj)
		return schema
	}
	out.create, out.update, out.bind = at("service_instance", "create"), at("service_instance", "update"), at("service_binding", "create")
	return out
}

// choose finds the plan to use.
func (s *suite) choose() bool {
	var first *plan
	for i := range s.offerings {
		o := &s.offerings[i]
		if s.o.Service != "" && s.o.Service != o.id && s.o.Service != o.name {
			continue
		}
		for j := range o.plans {
			p := &o.plans[j]
			if s.o.Plan != "" && s.o.Plan != p.id && s.o.Plan != p.name || o.id == "" || p.id == "" {
				continue
			}
			if first == nil || p.bindable && !first.bindable {
				s.offering, first = o, p
			}
		}
	}
	s.plan = first
	if first == nil {
		s.skipAll("the catalog has no such plan to use")
	}
	return first != nil
}

// otherPlan returns another plan of the offering than that with the id.
func (s *suite) otherPlan(id string) *plan {
	for i := range s.offering.plans {
		if p := &s.offering.plans[i]; p.id != id && p.id != "" {
			return p
		}
	}
	return nil
}

// foreign returns a plan of another offering.
func (s *suite) foreign() (o *offering, p *plan) {
	for i := range s.offerings {
		o := &s.offerings[i]
		if o.id == s.offering.id || o.id == "" {
			continue
		}
		for j := range o.plans {
			p := &o.plans[j]
			if p.id != "" && !slices.ContainsFunc(s.offering.plans, func(own plan) bool { return own.id == p.id }) {
				return o, p
			}
		}
	}
	return nil, nil
}

func (o *offering) needs(permission string) bool { return slices.Contains(o.requires, any(permission)) }
