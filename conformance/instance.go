package conformance

import (
	"context"
	"maps"
	"net/url"
)

// instance is one that may exist in the broker.
type instance struct {
	id       string
	service  string
	plan     string
	body     obj        // of the provision
	query    url.Values // of the provision
	first    *exchange  // answer to the provision
	gone     bool       // surely
	bindings []*binding
}

// binding is one that may exist in the broker.
type binding struct {
	id     string
	of     *instance
	body   obj
	query  url.Values
	first  *exchange // answer to the bind
	answer *exchange // that has its credentials, nil if none did
	gone   bool
}

// newInstance makes one for the plan in use, and remembers to delete it.
func (s *suite) newInstance() *instance {
	i := &instance{id: newID()}
	if s.plan != nil {
		i.service, i.plan = s.offering.id, s.plan.id
	} else {
		i.service, i.plan = newID(), newID()
	}
	i.body = obj{
		"service_id": i.service, "plan_id": i.plan, "organization_guid": s.org, "space_guid": s.space,
		"context": obj{"platform": "conformance"},
	}
	if s.o.Parameters != nil {
		i.body["parameters"] = s.o.Parameters
	}
	s.instances = append(s.instances, i)
	return i
}

func (s *suite) newBinding(i *instance) *binding {
	b := &binding{id: newID(), of: i, body: obj{
		"service_id": i.service, "plan_id": i.plan, "context": obj{"platform": "conformance"},
	}}
	app := s.o.AppGUID
	if app == "" {
		app = newID()
	}
	resource := obj{"app_guid": app}
	if s.offering.needs("route_forwarding") {
		route := s.o.Route
		if route == "" {
			route = newID() + ".example.com"
		}
		resource = obj{"route": route}
	} else {
		b.body["app_guid"] = app
	}
	b.body["bind_resource"] = resource
	if s.o.BindParameters != nil {
		b.body["parameters"] = s.o.BindParameters
	}
	i.bindings = append(i.bindings, b)
	return b
}

func (i *instance) path() string { return "/v2/service_instances/" + url.PathEscape(i.id) }

func (b *binding) path() string { return b.of.path() + "/service_bindings/" + url.PathEscape(b.id) }

// hints are service and plan, as a query.
func (i *instance) hints() url.Values {
	return url.Values{"service_id": {i.service}, "plan_id": {i.plan}}
}

// deletion is the query of a deletion.
func (i *instance) deletion() url.Values {
	q := i.hints()
	q.Set("accepts_incomplete", "true")
	return q
}

// without is a copy that lacks a field.
func without(o obj, name string) obj {
	c := maps.Clone(o)
	delete(c, name)
	return c
}

// with is a copy with a field.
func with(o obj, name string, value any) obj {
	c := maps.Clone(o)
	c[name] = value
	return c
}

// expectNothing checks that a refused provision made nothing: a deletion must
// find nothing.
func (s *suite) expectNothing(ctx context.Context, id string, i *instance) {
	if s.offering.instancesRetrievable && s.minor >= 14 {
		get := s.call(ctx, request{method: "GET", path: i.path()})
		s.expect(id, get.in(404, 410), get, "404: the refused provision made nothing")
	}
	x := s.call(ctx, request{method: "DELETE", path: i.path(), query: i.deletion()})
	if s.expect(id, x.in(410), x, "410: the refused provision made nothing") {
		i.gone = true
		return
	}
	s.settle(ctx, i, x)
}

// mayWait says whether it is worth while to wait for a deletion now: once an
// operation did not end in time, all that remains is left to the clean-up.
func (s *suite) mayWait() bool { return !s.late || s.cleaning }

// settle waits for a deletion that was accepted.
func (s *suite) settle(ctx context.Context, i *instance, x *exchange) {
	switch {
	case x.in(200, 410):
		i.gone = true
	case x.in(202) && s.mayWait():
		i.gone = s.wait(ctx, polled{area: "poll", path: i.path(), hints: i.hints(), first: x, deleting: true})
	}
}

// cleanUp deletes all that may exist, also when ctx has ended.
func (s *suite) cleanUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.Timeout+s.o.RequestTimeout)
	defer cancel()
	s.progress("cleaning up")
	s.forgive()
	s.cleaning = true
	left := 0
	for _, i := range s.instances {
		s.deleteBindings(ctx, i)
		if i.gone {
			continue
		}
		s.deleteInstance(ctx, i)
		if !i.gone {
			left++
			s.record("general.cleanup", false, func(r *Result) {
				r.Sent, r.Expected, r.Got = "DELETE "+i.path(), "200, 202 or 410", "the instance may be left in the broker"
			})
		}
	}
	if left == 0 {
		s.record("general.cleanup", true, nil)
	}
}

// deleteBindings deletes those that may exist.
func (s *suite) deleteBindings(ctx context.Context, i *instance) {
	for _, b := range i.bindings {
		if !b.gone {
			s.deleteBinding(ctx, b)
		}
	}
}

func (s *suite) deleteBinding(ctx context.Context, b *binding) {
	for range patience {
		x := s.do(ctx, request{method: "DELETE", path: b.path(), query: b.of.deletion()})
		s.settleBinding(ctx, b, x)
		b.gone = b.gone || x.in(404)
		if b.gone || !x.in(409, 422) {
			return
		}
		s.idle(ctx, polled{path: b.path(), hints: b.of.hints(), first: b.first})
	}
}

// deleteInstance tries what the instance may have been made with.
func (s *suite) deleteInstance(ctx context.Context, i *instance) {
	service, plan := text(i.body, "service_id"), text(i.body, "plan_id")
	tries := []url.Values{i.deletion(), (&instance{service: service, plan: plan}).deletion()}
	if s.plan != nil {
		tries = append(tries, (&instance{service: s.offering.id, plan: s.plan.id}).deletion())
	}
	for range patience {
		busy := false
		for k, q := range tries {
			x := s.do(ctx, request{method: "DELETE", path: i.path(), query: q})
			s.settle(ctx, i, x)
			if i.gone = i.gone || k == 0 && x.in(404); i.gone {
				return
			}
			busy = busy || x.in(409, 422)
		}
		if !busy {
			return
		}
		s.idle(ctx, polled{path: i.path(), hints: i.hints(), first: i.first})
	}
}
