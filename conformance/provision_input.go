package conformance

import (
	"context"
	"slices"
)

const provisionSection = "Provisioning"

var provisionInputRules = slices.Concat([]Rule{
	must("provision-input.malformed", provisionSection, "a provision whose body is not JSON is refused with 400"),
	must("provision-input.no-body", provisionSection, "a provision without a body is refused with 400"),
	must("provision-input.no-object", provisionSection, "a provision whose body is no JSON object is refused with 400"),
	should("provision-input.trailing", provisionSection, "a provision whose body goes on after the JSON object is refused with 400"),
	must("provision-input.service-id", provisionSection, "a provision without service_id is refused with 400"),
	must("provision-input.plan-id", provisionSection, "a provision without plan_id is refused with 400"),
	must("provision-input.organization-guid", provisionSection, "a provision without organization_guid is refused with 400"),
	must("provision-input.space-guid", provisionSection, "a provision without space_guid is refused with 400"),
	must("provision-input.empty", provisionSection, "a provision with an empty organization_guid or space_guid is refused with 400"),
	must("provision-input.types", provisionSection, "a provision whose fields have other types is refused with 400"),
	must("provision-input.unknown-service", provisionSection, "a provision of a service_id outside the catalog is refused with a 4xx"),
	must("provision-input.unknown-plan", provisionSection, "a provision of a plan_id outside the catalog is refused with a 4xx"),
	should("provision-input.unknown-400", provisionSection, "a provision of what the catalog does not have is refused with 400"),
	must("provision-input.other-plan", provisionSection, "a provision with the plan of another offering is refused with a 4xx"),
	must("provision-input.no-effect", "Service Broker Errors", "a refused provision has made nothing"),
}, since(15,
	must("provision-input.maintenance", "Maintenance Info Object", "a provision with another maintenance_info.version is refused with 422 MaintenanceInfoConflict"),
))

// bad is a request that must be refused.
type bad struct {
	rule   string
	body   obj
	raw    string // instead of body
	empty  bool   // no body at all
	status int    // 0 is any 4xx
	code   string
	taken  bool // may also succeed
}

// badProvisions are provisions of the instance with one fault each.
func (s *suite) badProvisions(i *instance) []bad {
	b := i.body
	whole := plain(b)
	list := []bad{
		{rule: "malformed", raw: whole[:len(whole)-1], status: 400},
		{rule: "malformed", raw: "service_id=" + i.service, status: 400},
		{rule: "no-body", empty: true, status: 400},
		{rule: "no-object", raw: "[" + whole + "]", status: 400},
		{rule: "no-object", raw: "null", status: 400},
		{rule: "no-object", raw: `"text"`, status: 400},
		{rule: "trailing", raw: whole + "]", status: 400},
		{rule: "service-id", body: without(b, "service_id"), status: 400},
		{rule: "plan-id", body: without(b, "plan_id"), status: 400},
		{rule: "organization-guid", body: without(b, "organization_guid"), status: 400},
		{rule: "space-guid", body: without(b, "space_guid"), status: 400},
		{rule: "empty", body: with(b, "organization_guid", ""), status: 400},
		{rule: "empty", body: with(b, "space_guid", ""), status: 400},
		{rule: "types", body: with(b, "service_id", 1), status: 400},
		{rule: "types", body: with(b, "plan_id", obj{}), status: 400},
		{rule: "types", body: with(b, "parameters", "text"), status: 400},
		{rule: "types", body: with(b, "context", []any{}), status: 400},
		{rule: "unknown-service", body: with(b, "service_id", newID())},
		{rule: "unknown-plan", body: with(b, "plan_id", newID())},
		{rule: "unknown-400", body: with(b, "service_id", newID()), status: 400},
		{rule: "unknown-400", body: with(b, "plan_id", newID()), status: 400},
	}
	if _, p := s.foreign(); p != nil {
		list = append(list, bad{rule: "other-plan", body: with(b, "plan_id", p.id)})
	} else {
		s.skip("provision-input.other-plan", "the catalog has only one offering")
	}
	switch {
	case s.minor < 15:
	case s.plan.maintenance == "":
		s.skip("provision-input.maintenance", noMaintenance)
	default:
		list = append(list, bad{rule: "maintenance", status: 422, code: "MaintenanceInfoConflict",
			body: with(b, "maintenance_info", obj{"version": otherVersion(s.plan.maintenance)})})
	}
	return list
}

const noMaintenance = "the plan has no maintenance_info"

// otherVersion is a version that the catalog does not have.
func otherVersion(version string) string {
	if version == "77.7.7" {
		return "77.7.8"
	}
	return "77.7.7"
}

func (s *suite) checkProvisionInput(ctx context.Context) {
	n := len(s.badProvisions(s.sample()))
	for k := range n {
		i := s.newInstance() // of its own, to see which one has an effect
		b := s.badProvisions(i)[k]
		r := request{method: "PUT", path: i.path(), query: accepts()}
		x := s.callBad(ctx, "provision-input.", r, b)
		if b.body != nil {
			i.body = b.body
		}
		if x.refused() {
			s.expectNothing(ctx, "provision-input.no-effect", i)
		} else {
			s.deleteInstance(ctx, i)
		}
	}
}

// sample is an instance that is never sent.
func (s *suite) sample() *instance {
	i := s.newInstance()
	i.gone = true
	return i
}

// callBad sends a bad request and checks how it is refused.
func (s *suite) callBad(ctx context.Context, prefix string, r request, b bad) *exchange {
	switch {
	case b.body != nil:
		r.body = b.body
	case !b.empty:
		r.raw = b.raw
	}
	x := s.call(ctx, r)
	switch {
	case b.code != "":
		s.expect(prefix+b.rule, x.code(b.code), x, "422 with the error "+b.code)
	case b.status != 0:
		s.expectStatus(prefix+b.rule, x, b.status)
	case b.taken:
		s.expect(prefix+b.rule, x.ok() || x.refused(), x, "a 4xx, or success")
	default:
		s.expectRefused(prefix+b.rule, x)
	}
	return x
}
