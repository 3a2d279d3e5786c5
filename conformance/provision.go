package conformance

import (
	"context"
	"maps"
	"slices"
)

var provisionRules = slices.Concat([]Rule{
	must("provision.status", provisionSection, "a new instance is answered with 201, or 202 when it goes on"),
	must("provision.body", provisionSection, "the answer is a JSON object"),
	must("provision.dashboard-url", provisionSection, "dashboard_url is a string or null"),
	must("provision.dashboard-first", provisionSection, "a dashboard_url is in the first answer, and the same later"),
	must("provision.operation", provisionSection, "operation is a string of at most 10000 characters"),
	must("provision.async-required", "Asynchronous Operations", "without accepts_incomplete=true a provision is done at once, or refused with 422 AsyncRequired"),
	must("provision.unknown-fields", "Vendor Extension Fields", "unknown fields of a provision are ignored"),
	must("provision.repeat", provisionSection, "the same provision again makes nothing new: 200, or 409"),
	should("provision.repeat-200", provisionSection, "the same provision again is answered with 200"),
	must("provision.repeat-running", provisionSection, "the same provision, while the first goes on, is answered with 202 and the same operation"),
	must("provision.conflict-service", provisionSection, "the same instance with another offering is refused with 409"),
	must("provision.conflict-plan", provisionSection, "the same instance with another plan is refused with 409"),
	must("provision.conflict-organization", provisionSection, "the same instance with another organization_guid is refused with 409"),
	must("provision.conflict-space", provisionSection, "the same instance with another space_guid is refused with 409"),
	must("provision.conflict-parameters", provisionSection, "the same instance with other parameters is refused with 409"),
	must("provision.conflict-running", provisionSection, "another provision of the same instance, while the first goes on, is refused with 409"),
}, since(16,
	must("provision.metadata", "Service Instance Metadata", "metadata, its labels and attributes are objects"),
))

// provision makes the instance with all checks, and says whether it is there.
// When eager, it first asks for an answer at once.
func (s *suite) provision(ctx context.Context, i *instance, eager bool) bool {
	r := request{method: "PUT", path: i.path(), body: i.body}
	if !eager {
		r.query = accepts()
	}
	if i.query != nil {
		r.query = i.query
	}
	x := s.call(ctx, r)
	if eager {
		s.expect("provision.async-required", x.in(201) || x.code("AsyncRequired"), x, "201, or 422 with the error AsyncRequired")
		if x.in(422) {
			r.query = accepts()
			x = s.call(ctx, r)
		}
	}
	i.first, i.query = x, r.query
	if !s.expectStatus("provision.status", x, 201, 202) {
		return x.in(200)
	}
	s.checkInstanceAnswer("provision", x)
	if x.in(201) {
		s.skip("provision.repeat-running", alwaysSync)
		s.skip("provision.conflict-running", alwaysSync)
		return true
	}
	s.wasAsync = true
	p := polled{area: "poll", path: i.path(), hints: i.hints(), first: x}
	s.checkWhileProvisioning(ctx, i, p)
	return s.wait(ctx, p)
}

const alwaysSync = "the broker did it at once"

// checkInstanceAnswer looks at the body of a successful provision or update.
func (s *suite) checkInstanceAnswer(area string, x *exchange) {
	if !s.expect(area+".body", x.object() != nil, x, "a JSON object") {
		return
	}
	if v, has := x.object()["dashboard_url"]; has {
		s.expect(area+".dashboard-url", isURL.is(v), x, "dashboard_url as a string or null")
	}
	if x.in(202) {
		s.checkOperation(area+".operation", x)
	}
	s.checkMetadata(area+".metadata", x)
}

func (s *suite) checkWhileProvisioning(ctx context.Context, i *instance, p polled) {
	r := request{method: "PUT", path: i.path(), body: i.body, query: i.query}
	s.checkRepeatRunning(ctx, "provision.repeat-running", r, p)
	r.body = with(i.body, "space_guid", newID())
	x := s.call(ctx, r)
	s.expect("provision.conflict-running", x.in(409) || x.code("ConcurrencyError"), x, "409")
	if !s.offering.instancesRetrievable {
		return
	}
	get := s.call(ctx, request{method: "GET", path: i.path()})
	if get.in(404) || s.running(ctx, p) {
		s.expectStatus("fetch-instance.running", get, 404)
	}
}

// checkRepeatRunning sends a request again whose operation is in progress.
func (s *suite) checkRepeatRunning(ctx context.Context, id string, r request, p polled) {
	x := s.call(ctx, r)
	same := x.in(202) && (s.minor < 15 || plain(x.object()["operation"]) == plain(p.first.object()["operation"]))
	if same || x.code("ConcurrencyError") {
		s.expect(id, true, x, "")
		return
	}
	// It may have ended meanwhile.
	if x.in(202) || s.running(ctx, p) {
		s.expect(id, false, x, "202 and the operation "+s.show(p.first.object()["operation"]))
	}
}

// checkRepeats sends the provision of a finished instance again, unchanged and
// changed.
func (s *suite) checkRepeats(ctx context.Context, i *instance) {
	r := request{method: "PUT", path: i.path(), query: i.query, body: i.body}
	x := s.call(ctx, r)
	s.expectStatus("provision.repeat", x, 200, 409)
	s.expectStatus("provision.repeat-200", x, 200)
	if x.in(200) {
		s.checkInstanceAnswer("provision", x)
		s.checkDashboard(i, x)
	}
	conflicts := map[string]obj{
		"organization": with(i.body, "organization_guid", newID()),
		"space":        with(i.body, "space_guid", newID()),
	}
	if p := s.otherPlan(i.plan); p != nil {
		conflicts["plan"] = with(i.body, "plan_id", p.id)
	} else {
		s.skip("provision.conflict-plan", onePlan)
	}
	if o, p := s.foreign(); p != nil {
		conflicts["service"] = with(with(i.body, "service_id", o.id), "plan_id", p.id)
	} else {
		s.skip("provision.conflict-service", "the catalog has only one offering")
	}
	if parameters := s.otherParameters(s.plan.create, s.o.Parameters); parameters != nil {
		conflicts["parameters"] = with(i.body, "parameters", parameters)
	} else {
		s.skip("provision.conflict-parameters", noParameters)
	}
	for _, name := range slices.Sorted(maps.Keys(conflicts)) {
		r.body = conflicts[name]
		s.expectStatus("provision.conflict-"+name, s.call(ctx, r), 409)
	}
}

const (
	onePlan      = "the offering has only one plan"
	noParameters = "no parameters are given, and none could be made from the plan's schema"
)

// otherParameters are valid and not those given, nil if there are none.
func (s *suite) otherParameters(schema, given obj) obj {
	if v := vary(schema, given); v != nil {
		return v
	}
	if len(given) > 0 {
		return obj{}
	}
	return nil
}

// checkDashboard compares a later dashboard_url with the first.
func (s *suite) checkDashboard(i *instance, x *exchange) {
	later, has := x.object()["dashboard_url"]
	if !has || later == nil || later == "" {
		return
	}
	s.expect("provision.dashboard-first", plain(later) == plain(i.first.object()["dashboard_url"]), x,
		"the dashboard_url of the first answer: "+s.show(i.first.object()["dashboard_url"]))
}
