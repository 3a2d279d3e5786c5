package conformance

import "context"

const rotateSection = "Binding Rotation"

var rotateRules = since(17,
	must("rotate.status", rotateSection, "a bind with predecessor_binding_id alone is answered with 201 or 202"),
	must("rotate.both", rotateSection, "predecessor and successor are both there"),
	must("rotate.repeat", rotateSection, "the same rotation again makes nothing new: 200, or 409"),
	must("rotate.absent", rotateSection, "a rotation of a binding that never was is refused with a 4xx"),
	must("rotate.other-instance", rotateSection, "a rotation of a binding of another instance is refused with a 4xx"),
	must("rotate.survives", rotateSection, "the successor is there after its predecessor was deleted"),
)

// checkRotation rotates the binding, and deletes the old one. It returns the new
// one, nil if there is none.
func (s *suite) checkRotation(ctx context.Context, old *binding, other *instance) *binding {
	if s.minor < 17 || !s.plan.rotatable {
		s.skipArea("rotate", "the plan has no binding_rotatable")
		return nil
	}
	s.checkRefusedRotation(ctx, "rotate.absent", s.newBinding(old.of), newID())
	if other != nil {
		s.checkRefusedRotation(ctx, "rotate.other-instance", s.newBinding(other), old.id)
	} else {
		s.skip("rotate.other-instance", "there is no second instance")
	}
	b := s.newBinding(old.of)
	b.body, b.query = obj{"predecessor_binding_id": old.id}, accepts()
	r := request{method: "PUT", path: b.path(), query: b.query, body: b.body}
	x := s.call(ctx, r)
	if !s.expectStatus("rotate.status", x, 201, 202) || !s.finishBind(ctx, b, x) {
		return nil
	}
	s.expectStatus("rotate.repeat", s.call(ctx, r), 200, 409)
	s.expectThere(ctx, "rotate.both", old)
	s.expectThere(ctx, "rotate.both", b)
	gone := s.call(ctx, request{method: "DELETE", path: old.path(), query: old.of.deletion()})
	s.settleBinding(ctx, old, gone)
	if old.gone {
		s.expectThere(ctx, "rotate.survives", b)
	}
	return b
}

func (s *suite) checkRefusedRotation(ctx context.Context, id string, b *binding, predecessor string) {
	r := request{method: "PUT", path: b.path(), query: accepts(), body: obj{"predecessor_binding_id": predecessor}}
	b.gone = s.expectRefused(id, s.call(ctx, r))
	if !b.gone {
		s.deleteBinding(ctx, b)
	}
}

// expectThere checks that a binding exists.
func (s *suite) expectThere(ctx context.Context, id string, b *binding) bool {
	if s.offering.bindingsRetrievable && s.minor >= 14 {
		return s.expectStatus(id, s.call(ctx, request{method: "GET", path: b.path()}), 200)
	}
	return s.expectStatus(id, s.call(ctx, request{method: "PUT", path: b.path(), query: b.query, body: b.body}), 200, 409)
}
