package conformance

import (
	"context"
	"fmt"
	"slices"
)

const (
	fetchSection        = "Fetching a Service Instance"
	fetchBindingSection = "Fetching a Service Binding"
)

var fetchRules = slices.Concat(since(14,
	must("fetch-instance.status", fetchSection, "an instance is fetched with 200 as soon as it is there"),
	must("fetch-instance.fields", fetchSection, "service_id, plan_id, parameters and dashboard_url are right and have their types"),
	must("fetch-instance.running", fetchSection, "an instance that is being made is answered with 404"),
	must("fetch-instance.deleted", fetchSection, "a deleted instance is answered with 404"),
), since(16,
	must("fetch-instance.hints", fetchSection, "service_id and plan_id may be given as hints"),
))

var fetchBindingRules = slices.Concat(since(14,
	must("fetch-binding.status", fetchBindingSection, "a binding is fetched with 200 as soon as it is there"),
	must("fetch-binding.equal", fetchBindingSection, "what is fetched is what the bind gave"),
	must("fetch-binding.running", fetchBindingSection, "a binding that is being made is answered with 404"),
	must("fetch-binding.other-instance", fetchBindingSection, "a binding below another instance is answered with 404"),
	must("fetch-binding.deleted", fetchBindingSection, "a deleted binding is answered with 404"),
), since(16,
	must("fetch-binding.hints", fetchBindingSection, "service_id and plan_id may be given as hints"),
))

// checkFetch fetches a finished instance.
func (s *suite) checkFetch(ctx context.Context, i *instance) {
	if !s.offering.instancesRetrievable || s.minor < 14 {
		s.skipArea("fetch-instance", notRetrievable)
		return
	}
	x := s.call(ctx, request{method: "GET", path: i.path()})
	if s.expect("fetch-instance.status", x.in(200) && x.object() != nil, x, "200 and a JSON object") {
		s.checkInstance(i, x)
	}
	s.checkDashboard(i, x)
	if s.minor >= 16 {
		s.expectStatus("fetch-instance.hints", s.call(ctx, request{method: "GET", path: i.path(), query: i.hints()}), 200)
	}
}

func (s *suite) checkInstance(i *instance, x *exchange) {
	o := x.object()
	const id = "fetch-instance.fields"
	for name, want := range map[string]string{"service_id": i.service, "plan_id": i.plan} {
		if v, has := o[name]; has {
			s.expect(id, v == want, x, fmt.Sprintf("%s %q", name, want))
		}
	}
	s.checkTypes(id, x, "answer", o, map[string]kind{"parameters": isObject, "dashboard_url": isURL, "maintenance_info": isObject})
	if info, ok := o["maintenance_info"].(obj); ok {
		s.expect(id, isSemver(text(info, "version")), x, "maintenance_info.version as a semantic version")
	}
	s.checkMetadata(id, x)
}

// unchanged checks that a refused request left the instance as it was.
func (s *suite) unchanged(ctx context.Context, id string, i *instance) {
	if s.offering.instancesRetrievable && s.minor >= 14 {
		x := s.call(ctx, request{method: "GET", path: i.path()})
		v, has := x.object()["plan_id"]
		s.expect(id, x.in(200) && (!has || v == i.plan), x, "200 and the instance as before")
		return
	}
	x := s.call(ctx, request{method: "PUT", path: i.path(), query: i.query, body: with(i.body, "plan_id", i.plan)})
	s.expectStatus(id, x, 200, 409)
}

// checkFetchBinding fetches a finished binding and returns the answer.
func (s *suite) checkFetchBinding(ctx context.Context, b *binding) {
	if !s.offering.bindingsRetrievable || s.minor < 14 {
		s.skipArea("fetch-binding", bindingsNotRetrievable)
		return
	}
	x := s.call(ctx, request{method: "GET", path: b.path()})
	if !s.expect("fetch-binding.status", x.in(200) && x.object() != nil, x, "200 and a JSON object") {
		return
	}
	s.checkBindingAnswer(x)
	if b.answer == nil {
		b.answer = x
	}
	s.expectSameBinding("fetch-binding.equal", b, x)
	if s.minor >= 16 {
		s.expectStatus("fetch-binding.hints", s.call(ctx, request{method: "GET", path: b.path(), query: b.of.hints()}), 200)
	}
}

// expectSameBinding compares what says how to reach the instance.
func (s *suite) expectSameBinding(id string, b *binding, x *exchange) {
	if b.answer == nil {
		return
	}
	for _, name := range information {
		before, had := b.answer.object()[name]
		now, has := x.object()[name]
		if had && has {
			s.expect(id, plain(before) == plain(now), x, name+" as before", "another "+name)
		}
	}
}
