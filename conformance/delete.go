package conformance

import (
	"context"
	"net/url"
)

const (
	unbindSection      = "Unbinding"
	deprovisionSection = "Deprovisioning"
)

// deleteRules are the same for "unbind" and "deprovision".
func deleteRules(area, section, what string) []Rule {
	return []Rule{
		must(area+".service-id", section, "deleting "+what+" without service_id is refused with 400"),
		must(area+".plan-id", section, "deleting "+what+" without plan_id is refused with 400"),
		must(area+".wrong-service", section, "deleting "+what+" with another service_id is refused with a 4xx that is not 410"),
		must(area+".wrong-plan", section, "deleting "+what+" with another plan_id is refused with a 4xx that is not 410"),
		must(area+".no-effect", "Service Broker Errors", "after a refused deletion "+what+" is still there"),
		must(area+".status", section, "deleting "+what+" is answered with 200, or 202 when it goes on"),
		must(area+".body", section, "the answer is a JSON object"),
		must(area+".operation", section, "operation is a string of at most 10000 characters"),
		must(area+".async-required", "Asynchronous Operations", "without accepts_incomplete=true "+what+" is deleted at once, or it is refused with 422 AsyncRequired"),
		must(area+".repeat-running", section, "the same deletion, while the first goes on, is answered with 202 and the same operation"),
		must(area+".repeat", section, "deleting "+what+" again is answered with 410"),
	}
}

var (
	unbindRules = append(deleteRules("unbind", unbindSection, "a binding"),
		must("unbind.other-instance", unbindSection, "deleting a binding below another instance is refused with a 4xx and leaves it there"))
	deprovisionRules = append(deleteRules("deprovision", deprovisionSection, "an instance"),
		must("deprovision.bind-after", bindSection, "a bind to a deleted instance is refused with a 4xx"),
		must("deprovision.during-create", deprovisionSection, "deleting an instance that is being made halts that, or is refused with 422 ConcurrencyError"))
)

// deletable is an instance or a binding.
type deletable struct {
	area  string // of rules
	poll  string
	path  string
	of    *instance
	there func(id string) bool // checks that it exists
	gone  *bool
}

func (s *suite) deletableInstance(ctx context.Context, i *instance) deletable {
	return deletable{area: "deprovision", poll: "poll", path: i.path(), of: i, gone: &i.gone, there: func(id string) bool {
		s.unchanged(ctx, id, i)
		return true
	}}
}

func (s *suite) deletableBinding(ctx context.Context, b *binding) deletable {
	return deletable{area: "unbind", poll: "poll-binding", path: b.path(), of: b.of, gone: &b.gone, there: func(id string) bool {
		return s.expectThere(ctx, id, b)
	}}
}

// checkBadDeletion deletes with wrong requests, and says whether the thing is
// still there.
func (s *suite) checkBadDeletion(ctx context.Context, d deletable) bool {
	wrongs := []struct {
		rule   string
		change func(url.Values)
	}{
		{"service-id", func(q url.Values) { q.Del("service_id") }},
		{"plan-id", func(q url.Values) { q.Del("plan_id") }},
		{"wrong-service", func(q url.Values) { q.Set("service_id", newID()) }},
		{"wrong-plan", func(q url.Values) { q.Set("plan_id", newID()) }},
	}
	if p := s.otherPlan(d.of.plan); p != nil {
		wrongs = append(wrongs, struct {
			rule   string
			change func(url.Values)
		}{"wrong-plan", func(q url.Values) { q.Set("plan_id", p.id) }})
	}
	for k, w := range wrongs {
		q := d.of.deletion()
		w.change(q)
		x := s.call(ctx, request{method: "DELETE", path: d.path, query: q})
		if k < 2 {
			s.expectStatus(d.area+"."+w.rule, x, 400)
		} else {
			s.expect(d.area+"."+w.rule, x.refused() && !x.in(410), x, "a 4xx that is not 410")
		}
		if x.ok() {
			s.finishDeletion(ctx, d, x)
			return false
		}
		d.there(d.area + ".no-effect")
	}
	return true
}

// checkDeletion deletes with all checks, and says whether it is gone. When
// eager, it first asks for an answer at once.
func (s *suite) checkDeletion(ctx context.Context, d deletable, eager bool) bool {
	r := request{method: "DELETE", path: d.path, query: d.of.deletion()}
	if eager || d.area == "unbind" && s.minor < 14 {
		r.query = d.of.hints()
	}
	x := s.call(ctx, r)
	if eager {
		s.expect(d.area+".async-required", x.in(200) || x.code("AsyncRequired"), x, "200, or 422 with the error AsyncRequired")
		if x.in(422) {
			r.query = d.of.deletion()
			x = s.call(ctx, r)
		}
	}
	if !s.expectStatus(d.area+".status", x, 200, 202) {
		return false
	}
	if x.in(202) {
		s.checkOperation(d.area+".operation", x)
		s.checkRepeatRunning(ctx, d.area+".repeat-running", r, polled{area: d.poll, path: d.path, hints: d.of.hints(), first: x, deleting: true})
	} else {
		s.skip(d.area+".repeat-running", alwaysSync)
	}
	s.expect(d.area+".body", x.object() != nil, x, "a JSON object")
	if !s.finishDeletion(ctx, d, x) {
		return false
	}
	s.expectStatus(d.area+".repeat", s.call(ctx, r), 410)
	fetch, ok := "fetch-instance.deleted", s.offering.instancesRetrievable
	if d.area == "unbind" {
		fetch, ok = "fetch-binding.deleted", s.offering.bindingsRetrievable
	}
	if ok && s.minor >= 14 {
		s.expectStatus(fetch, s.call(ctx, request{method: "GET", path: d.path}), 404)
	}
	return true
}

// finishDeletion waits for a deletion that was accepted.
func (s *suite) finishDeletion(ctx context.Context, d deletable, x *exchange) bool {
	*d.gone = x.in(200, 410) || x.in(202) &&
		s.wait(ctx, polled{area: d.poll, path: d.path, hints: d.of.hints(), first: x, deleting: true})
	return *d.gone
}

// checkUnbind deletes bindings, the first one after wrong requests; other is
// another instance, or nil.
func (s *suite) checkUnbind(ctx context.Context, bindings []*binding, other *instance) {
	first := true
	for _, b := range bindings {
		d := s.deletableBinding(ctx, b)
		if first && !s.checkUnbindElsewhere(ctx, b, other) {
			other = nil // once is enough
			continue
		}
		if first && !s.checkBadDeletion(ctx, d) {
			first = false
			continue
		}
		s.checkDeletion(ctx, d, first)
		first = false
	}
}

// checkUnbindElsewhere deletes the binding below another instance, and says
// whether it is still there.
func (s *suite) checkUnbindElsewhere(ctx context.Context, b *binding, other *instance) bool {
	const id = "unbind.other-instance"
	if other == nil {
		s.skip(id, "there is no second instance")
		return true
	}
	elsewhere := &binding{id: b.id, of: other}
	x := s.call(ctx, request{method: "DELETE", path: elsewhere.path(), query: other.deletion()})
	s.expectRefused(id, x)
	if x.ok() {
		s.settleBinding(ctx, elsewhere, x)
		b.gone = elsewhere.gone
		return false
	}
	s.expectThere(ctx, id, b)
	return true
}

// checkDeprovision deletes the instance with all checks.
func (s *suite) checkDeprovision(ctx context.Context, i *instance, eager bool) {
	s.deleteBindings(ctx, i)
	d := s.deletableInstance(ctx, i)
	if eager && !s.checkBadDeletion(ctx, d) {
		return
	}
	if !s.checkDeletion(ctx, d, eager) || !s.plan.bindable {
		return
	}
	b := s.newBinding(i)
	r := s.bindQuery()
	r.path, r.body = b.path(), b.body
	b.gone = s.expectRefused("deprovision.bind-after", s.call(ctx, r))
}

// checkDuringCreate deletes an instance that is being made.
func (s *suite) checkDuringCreate(ctx context.Context) {
	const id = "deprovision.during-create"
	if !s.wasAsync || s.late {
		s.skip(id, alwaysSync)
		return
	}
	i := s.newInstance()
	made := s.call(ctx, request{method: "PUT", path: i.path(), query: accepts(), body: i.body})
	i.first = made
	if !made.in(202) {
		s.skip(id, alwaysSync)
		return
	}
	x := s.call(ctx, request{method: "DELETE", path: i.path(), query: i.deletion()})
	if !s.expect(id, x.in(200, 202) || x.code("ConcurrencyError"), x, "200, 202, or 422 with the error ConcurrencyError") || !x.ok() {
		return // the clean-up tries again
	}
	s.settle(ctx, i, x)
	if again := s.call(ctx, request{method: "DELETE", path: i.path(), query: i.deletion()}); i.gone {
		i.gone = s.expectStatus(id, again, 410)
	}
}
