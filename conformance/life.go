package conformance

import "context"

// checkLife makes two instances, binds the first, and deletes all again.
func (s *suite) checkLife(ctx context.Context) {
	first := s.newInstance()
	if !s.provision(ctx, first, true) {
		s.skipAll("no instance could be made")
		return
	}
	s.checkRepeats(ctx, first)
	s.checkFetch(ctx, first)
	s.unchanged(ctx, "provision-input.no-effect", first)

	second := s.newInstance()
	second.body["x-conformance-unknown"] = obj{"a": []any{1}}
	if !s.provisionSecond(ctx, second) {
		second = nil
	}
	if s.plan.bindable {
		bindings := s.checkBind(ctx, first, second)
		if len(bindings) > 0 {
			if successor := s.checkRotation(ctx, bindings[0], second); successor != nil {
				bindings = append(bindings, successor)
			}
			bindings = stillThere(bindings)
		}
		s.checkUnbind(ctx, bindings, second)
	} else {
		for _, area := range []string{"bind-input", "bind", "binding", "poll-binding", "fetch-binding", "rotate", "unbind"} {
			s.skipArea(area, notBindable)
		}
	}
	s.checkDeprovision(ctx, first, true)
	if second != nil && !s.updatesOffered() {
		s.checkDeprovision(ctx, second, false)
	}
	s.second = second
}

func stillThere(bindings []*binding) (there []*binding) {
	for _, b := range bindings {
		if !b.gone {
			there = append(there, b)
		}
	}
	return there
}

// provisionSecond makes an instance with unknown fields and the identity of a
// user.
func (s *suite) provisionSecond(ctx context.Context, i *instance) bool {
	r := request{method: "PUT", path: i.path(), query: accepts(), body: i.body,
		header: map[string]string{"X-Broker-API-Originating-Identity": identity()}}
	x := s.call(ctx, r)
	i.first, i.query = x, r.query
	s.expectStatus("identity.originating", x, 201, 202)
	if !s.expectStatus("provision.unknown-fields", x, 201, 202) {
		return false
	}
	s.checkInstanceAnswer("provision", x)
	if x.in(201) {
		s.skip("provision.repeat-running", alwaysSync)
		s.skip("provision.conflict-running", alwaysSync)
		s.checkFetch(ctx, i)
		return true
	}
	s.wasAsync = true
	p := polled{area: "poll", path: i.path(), hints: i.hints(), first: x}
	s.checkWhileProvisioning(ctx, i, p)
	if !s.wait(ctx, p) {
		return false
	}
	s.checkFetch(ctx, i)
	return true
}
