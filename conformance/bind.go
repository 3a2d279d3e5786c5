package conformance

import (
	"context"
)

const bindSection = "Binding"

var bindInputRules = []Rule{
	must("bind-input.malformed", bindSection, "a bind whose body is not JSON is refused with 400"),
	must("bind-input.no-object", bindSection, "a bind whose body is no JSON object is refused with 400"),
	should("bind-input.trailing", bindSection, "a bind whose body goes on after the JSON object is refused with 400"),
	must("bind-input.service-id", bindSection, "a bind without service_id is refused with 400"),
	must("bind-input.plan-id", bindSection, "a bind without plan_id is refused with 400"),
	must("bind-input.types", bindSection, "a bind whose fields have other types is refused with 400"),
	should("bind-input.empty-app", bindSection, "a bind with an empty app_guid is refused with a 4xx, or taken as one without"),
	must("bind-input.unknown-service", bindSection, "a bind with a service_id outside the catalog is refused with a 4xx"),
	must("bind-input.unknown-plan", bindSection, "a bind with a plan_id outside the catalog is refused with a 4xx"),
	must("bind-input.other-plan", bindSection, "a bind with another plan than the instance's is refused with a 4xx"),
	must("bind-input.absent-instance", bindSection, "a bind to an instance that never was is refused with a 4xx"),
	must("bind-input.no-effect", "Service Broker Errors", "a refused bind has made nothing"),
}

var bindRules = []Rule{
	must("bind.status", bindSection, "a new binding is answered with 201, or 202 when it goes on"),
	must("bind.body", bindSection, "the answer is a JSON object"),
	must("bind.operation", bindSection, "operation is a string of at most 10000 characters"),
	must("bind.accepted-no-credentials", bindSection, "a 202 has nothing of the binding's information"),
	must("bind.async-required", "Asynchronous Operations", "without accepts_incomplete=true a bind is done at once, or refused with 422 AsyncRequired"),
	must("bind.without-app", bindSection, "a bind without app_guid succeeds, or is refused with 422 RequiresApp"),
	must("bind.unknown-fields", "Vendor Extension Fields", "unknown fields of a bind are ignored"),
	must("bind.repeat", bindSection, "the same bind again makes nothing new: 200, or 409"),
	should("bind.repeat-200", bindSection, "the same bind again is answered with 200"),
	must("bind.repeat-equal", bindSection, "the same bind again gives the same information"),
	must("bind.repeat-running", bindSection, "the same bind, while the first goes on, is answered with 202 and the same operation"),
	must("bind.conflict-parameters", bindSection, "the same binding with other parameters is refused with 409"),
	should("bind.conflict-app", bindSection, "the same binding with another app_guid or route is refused with 409"),
	should("bind.unique", "Types of Binding", "two bindings have different credentials"),
}

func (s *suite) badBinds(b *binding) []bad {
	whole := plain(b.body)
	list := []bad{
		{rule: "malformed", raw: whole[:len(whole)-1], status: 400},
		{rule: "malformed", empty: true, status: 400},
		{rule: "no-object", raw: "[" + whole + "]", status: 400},
		{rule: "trailing", raw: whole + "]", status: 400},
		{rule: "service-id", body: without(b.body, "service_id"), status: 400},
		{rule: "plan-id", body: without(b.body, "plan_id"), status: 400},
		{rule: "types", body: with(b.body, "plan_id", 1), status: 400},
		{rule: "types", body: with(b.body, "parameters", "text"), status: 400},
		{rule: "types", body: with(b.body, "bind_resource", "text"), status: 400},
		{rule: "empty-app", body: with(without(b.body, "app_guid"), "bind_resource", obj{"app_guid": ""}), taken: true},
		{rule: "unknown-service", body: with(b.body, "service_id", newID())},
		{rule: "unknown-plan", body: with(b.body, "plan_id", newID())},
	}
	other := s.otherPlan(b.of.plan)
	if other == nil {
		_, other = s.foreign()
	}
	if other != nil {
		list = append(list, bad{rule: "other-plan", body: with(b.body, "plan_id", other.id)})
	} else {
		s.skip("bind-input.other-plan", "the catalog has only one plan")
	}
	return list
}

// bindQuery asks for an asynchronous answer where bindings may have one.
func (s *suite) bindQuery() request {
	if s.minor < 14 {
		return request{method: "PUT"}
	}
	return request{method: "PUT", query: accepts()}
}

func (s *suite) checkBindInput(ctx context.Context, i *instance) {
	n := len(s.badBinds(s.sampleBinding(i)))
	for k := range n {
		b := s.newBinding(i)
		r := s.bindQuery()
		r.path = b.path()
		if x := s.callBad(ctx, "bind-input.", r, s.badBinds(b)[k]); x.refused() {
			s.expectNoBinding(ctx, "bind-input.no-effect", b)
		} else {
			s.deleteBinding(ctx, b)
		}
	}
	b := s.newBinding(s.sample())
	r := s.bindQuery()
	r.path, r.body = b.path(), b.body
	b.gone = s.expectRefused("bind-input.absent-instance", s.call(ctx, r))
}

// sampleBinding is a binding that is never sent.
func (s *suite) sampleBinding(i *instance) *binding {
	b := s.newBinding(i)
	b.gone = true
	return b
}

// expectNoBinding checks that a refused bind made nothing.
func (s *suite) expectNoBinding(ctx context.Context, id string, b *binding) {
	x := s.call(ctx, request{method: "DELETE", path: b.path(), query: b.of.deletion()})
	b.gone = s.expect(id, x.in(410), x, "410: the refused bind made nothing")
	if !b.gone {
		s.settleBinding(ctx, b, x)
	}
}

// settleBinding waits for a deletion that was accepted.
func (s *suite) settleBinding(ctx context.Context, b *binding, x *exchange) {
	switch {
	case x.in(200, 410):
		b.gone = true
	case x.in(202) && s.mayWait():
		b.gone = s.wait(ctx, polled{area: "poll-binding", path: b.path(), hints: b.of.hints(), first: x, deleting: true})
	}
}

// bind makes the binding with all checks, and says whether it is there. When
// eager, it first asks for an answer at once.
func (s *suite) bind(ctx context.Context, b *binding, eager bool) bool {
	r := request{method: "PUT", path: b.path(), body: b.body}
	if !eager {
		r.query = s.bindQuery().query
	}
	x := s.call(ctx, r)
	if eager {
		s.expect("bind.async-required", x.in(201) || x.code("AsyncRequired") || x.code("RequiresApp"), x,
			"201, or 422 with the error AsyncRequired")
		if x.code("AsyncRequired") {
			r.query = s.bindQuery().query
			x = s.call(ctx, r)
		}
	}
	b.query = r.query
	if !s.expectStatus("bind.status", x, 201, 202) {
		return x.in(200)
	}
	return s.finishBind(ctx, b, x)
}

// finishBind checks the answer to a bind, and waits for it.
func (s *suite) finishBind(ctx context.Context, b *binding, x *exchange) bool {
	b.first = x
	s.expect("bind.body", x.object() != nil, x, "a JSON object")
	if x.in(201) {
		s.skip("bind.repeat-running", alwaysSync)
		s.skip("bind.accepted-no-credentials", alwaysSync)
		s.skip("fetch-binding.running", alwaysSync)
		b.answer = x
		s.checkBindingAnswer(x)
		s.checkInformation(x)
		return true
	}
	s.checkOperation("bind.operation", x)
	for _, name := range information {
		s.expect("bind.accepted-no-credentials", x.object()[name] == nil, x, "no "+name)
	}
	p := polled{area: "poll-binding", path: b.path(), hints: b.of.hints(), first: x}
	s.checkRepeatRunning(ctx, "bind.repeat-running", request{method: "PUT", path: b.path(), body: b.body, query: b.query}, p)
	if s.offering.bindingsRetrievable {
		get := s.call(ctx, request{method: "GET", path: b.path()})
		if get.in(404) || s.running(ctx, p) {
			s.expectStatus("fetch-binding.running", get, 404)
		}
	}
	if !s.wait(ctx, p) {
		return false
	}
	if s.offering.bindingsRetrievable {
		if get := s.call(ctx, request{method: "GET", path: b.path()}); get.in(200) {
			b.answer = get
			s.checkInformation(get)
		}
	}
	return true
}

// checkBind is all about bindings of a finished instance; other is another
// instance, or nil. It returns the bindings that are there.
func (s *suite) checkBind(ctx context.Context, i, other *instance) []*binding {
	s.checkBindInput(ctx, i)
	b := s.newBinding(i)
	if !s.bind(ctx, b, true) {
		return nil
	}
	s.checkRepeatedBind(ctx, b)
	s.checkFetchBinding(ctx, b)
	if other != nil && s.offering.bindingsRetrievable {
		elsewhere := &binding{id: b.id, of: other}
		s.expectStatus("fetch-binding.other-instance", s.call(ctx, request{method: "GET", path: elsewhere.path()}), 404)
	} else {
		s.skip("fetch-binding.other-instance", "there is no second instance, or bindings are not retrievable")
	}
	made := []*binding{b}
	if second := s.checkSecondBind(ctx, i, b); second != nil {
		made = append(made, second)
	}
	return made
}

func (s *suite) checkRepeatedBind(ctx context.Context, b *binding) {
	r := request{method: "PUT", path: b.path(), body: b.body, query: b.query}
	x := s.call(ctx, r)
	s.expectStatus("bind.repeat", x, 200, 409)
	s.expectStatus("bind.repeat-200", x, 200)
	if x.in(200) {
		if b.answer != nil {
			s.expectSameBinding("bind.repeat-equal", b, x)
		}
		s.checkBindingAnswer(x)
	}
	resource := obj{"app_guid": newID()}
	changed := with(without(b.body, "app_guid"), "bind_resource", resource)
	if s.offering.needs("route_forwarding") {
		changed = with(b.body, "bind_resource", obj{"route": newID() + ".example.com"})
	}
	r.body = changed
	s.expectStatus("bind.conflict-app", s.call(ctx, r), 409)
	if parameters := s.otherParameters(s.plan.bind, s.o.BindParameters); parameters != nil {
		r.body = with(b.body, "parameters", parameters)
		s.expectStatus("bind.conflict-parameters", s.call(ctx, r), 409)
	} else {
		s.skip("bind.conflict-parameters", noParameters)
	}
}

// checkSecondBind binds without an application, and with an unknown field.
func (s *suite) checkSecondBind(ctx context.Context, i *instance, first *binding) *binding {
	b := s.newBinding(i)
	r := s.bindQuery()
	b.query = r.query
	if !s.offering.needs("route_forwarding") {
		b.body = without(without(b.body, "app_guid"), "bind_resource")
		r.path, r.body = b.path(), b.body
		x := s.call(ctx, r)
		s.expect("bind.without-app", x.in(201, 202) || x.code("RequiresApp"), x, "201, 202, or 422 with the error RequiresApp")
		if x.ok() && !s.finishBind(ctx, b, x) {
			return nil
		}
		b.gone = !x.ok()
	} else {
		s.skip("bind.without-app", "the offering forwards routes")
		b.gone = true
	}
	third := s.newBinding(i)
	third.body["x-conformance-unknown"] = obj{"a": []any{1}}
	r.path, r.body = third.path(), third.body
	third.query = r.query
	x := s.call(ctx, r)
	if !s.expectStatus("bind.unknown-fields", x, 201, 202) || !s.finishBind(ctx, third, x) {
		return nil
	}
	if c := first.answer.credentials(); len(c) > 0 {
		s.expect("bind.unique", plain(c) != plain(third.answer.credentials()), x, "other credentials than those of the first binding", "the same credentials")
	} else {
		s.skip("bind.unique", "the bindings have no credentials")
	}
	return third
}

// credentials are those of a binding's answer.
func (x *exchange) credentials() obj {
	if x == nil {
		return nil
	}
	c, _ := x.object()["credentials"].(obj)
	return c
}
