package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/semver"
)

const catalogSection = "Catalog Management"

var catalogRules = slices.Concat([]Rule{
	must("catalog.status", catalogSection, "GET /v2/catalog is answered with 200"),
	must("catalog.services", catalogSection, "the catalog is a JSON object with the array services"),
	must("catalog.offering-fields", "Service Offering Object", "id, name and description of an offering are non-empty strings"),
	must("catalog.bindable", "Service Offering Object", "bindable of an offering is a boolean"),
	must("catalog.offering-id-unique", "Service Offering Object", "no two offerings have the same id"),
	must("catalog.offering-name-unique", "Service Offering Object", "no two offerings have the same name"),
	must("catalog.offering-types", "Service Offering Object", "the optional fields of an offering have their types"),
	must("catalog.requires", "Service Offering Object", "requires lists syslog_drain, route_forwarding and volume_mount only"),
	must("catalog.dashboard-client", "Service Offering Object", "id, secret and redirect_uri of dashboard_client are strings, id and secret not empty"),
	must("catalog.plans", "Service Offering Object", "an offering has at least one plan"),
	must("catalog.plan-fields", "Service Plan Object", "id, name and description of a plan are non-empty strings"),
	must("catalog.plan-id-unique", "Service Plan Object", "no two plans of the broker have the same id"),
	must("catalog.plan-name-unique", "Service Plan Object", "no two plans of an offering have the same name"),
	must("catalog.plan-types", "Service Plan Object", "the optional fields of a plan have their types"),
	should("catalog.names", catalogSection, "names have only letters, digits, periods and hyphens"),
	should("catalog.lengths", catalogSection, "ids, names and descriptions have at most 255 characters"),
	must("catalog.stable", catalogSection, "asked again, the catalog has the same ids"),
}, since(15,
	must("catalog.maximum-polling-duration", "Service Plan Object", "maximum_polling_duration is a whole number of seconds"),
	must("catalog.maintenance-version", "Maintenance Info Object", "maintenance_info.version is a semantic version 2.0"),
), since(16,
	should("catalog.etag", catalogSection, "If-None-Match with the catalog's ETag is answered with 304"),
	must("catalog.etag-other", catalogSection, "If-None-Match with another ETag is answered with the catalog"),
))

var friendly = regexp.MustCompile(`^[A-Za-z0-9.-]+$`)

// checkCatalog reads the catalog, and says whether there is a plan to go on
// with.
func (s *suite) checkCatalog(ctx context.Context) bool {
	get := request{method: "GET", path: "/v2/catalog"}
	x := s.call(ctx, get)
	s.expectStatus("catalog.status", x, 200)
	services, ok := x.object()["services"].([]any)
	if !s.expect("catalog.services", ok && x.in(200), x, "an object with the array services") {
		s.skipAll("there is no catalog to go by")
		return false
	}
	for i, v := range services {
		s.checkOffering(x, fmt.Sprintf("services[%d]", i), v)
	}
	s.checkUnique(x)
	again := s.call(ctx, get)
	s.expect("catalog.stable", slices.Equal(ids(x), ids(again)), again, "the same ids as before")
	s.checkETag(ctx, x)
	return s.choose()
}

// skipAll says why nothing more is looked at.
func (s *suite) skipAll(reason string) {
	s.incomplete = reason
	for _, id := range s.order {
		s.skip(id, reason)
	}
}

func (s *suite) checkOffering(x *exchange, at string, v any) {
	o, _ := v.(obj)
	s.checkTexts("catalog.offering-fields", x, at, o, "id", "name", "description")
	_, ok := o["bindable"].(bool)
	s.expect("catalog.bindable", ok, x, at+".bindable as a boolean", s.show(o["bindable"]))
	s.checkTypes("catalog.offering-types", x, at, o, map[string]kind{
		"tags": isTexts, "requires": isTexts, "metadata": isObject, "instances_retrievable": isBool,
		"bindings_retrievable": isBool, "allow_context_updates": isBool, "plan_updateable": isBool, "dashboard_client": isObject,
	})
	requires, _ := o["requires"].([]any)
	for _, r := range requires {
		s.expect("catalog.requires", r == "syslog_drain" || r == "route_forwarding" || r == "volume_mount", x,
			at+".requires with known values", s.show(r))
	}
	if client, ok := o["dashboard_client"].(obj); ok {
		s.checkDashboardClient(x, at, client)
	}
	plans, ok := o["plans"].([]any)
	s.expect("catalog.plans", ok && len(plans) > 0, x, at+".plans with at least one plan", s.show(o["plans"]))
	offering := newOffering(o)
	for i, p := range plans {
		plan, _ := p.(obj)
		where := fmt.Sprintf("%s.plans[%d]", at, i)
		s.checkPlan(x, where, plan)
		offering.plans = append(offering.plans, newPlan(&offering, plan))
	}
	s.offerings = append(s.offerings, offering)
}

// checkDashboardClient is of the profile's "Catalog Extensions".
func (s *suite) checkDashboardClient(x *exchange, at string, client obj) {
	for _, name := range []string{"id", "secret", "redirect_uri"} {
		v, has := client[name]
		text, isText := v.(string)
		ok := isText && (text != "" || name == "redirect_uri") || !has && name == "redirect_uri"
		s.expect("catalog.dashboard-client", ok, x, fmt.Sprintf("%s.dashboard_client.%s as a string", at, name), "something else")
	}
}

func (s *suite) checkPlan(x *exchange, at string, p obj) {
	s.checkTexts("catalog.plan-fields", x, at, p, "id", "name", "description")
	s.checkTypes("catalog.plan-types", x, at, p, map[string]kind{
		"metadata": isObject, "free": isBool, "bindable": isBool, "binding_rotatable": isBool,
		"plan_updateable": isBool, "schemas": isObject, "maintenance_info": isObject,
	})
	if v, has := p["maximum_polling_duration"]; has {
		n, ok := v.(json.Number)
		seconds, err := n.Int64()
		s.expect("catalog.maximum-polling-duration", ok && err == nil && seconds >= 0, x,
			at+".maximum_polling_duration as a whole number", s.show(v))
	}
	if info, ok := p["maintenance_info"].(obj); ok {
		version, _ := info["version"].(string)
		s.expect("catalog.maintenance-version", isSemver(version), x,
			at+".maintenance_info.version as a semantic version", s.show(info["version"]))
	}
	schemas, _ := p["schemas"].(obj)
	s.checkSchemas(x, at, schemas)
}

// isSemver is stricter than package semver, which takes "1.2", too.
func isSemver(version string) bool {
	core, _, _ := strings.Cut(version, "+")
	core, _, _ = strings.Cut(core, "-")
	return semver.IsValid("v"+version) && strings.Count(core, ".") == 2
}

// checkTexts looks at strings that must be there.
func (s *suite) checkTexts(id string, x *exchange, at string, o obj, names ...string) {
	for _, name := range names {
		text, _ := o[name].(string)
		s.expect(id, text != "", x, fmt.Sprintf("%s.%s as a non-empty string", at, name), s.show(o[name]))
		s.expect("catalog.lengths", len([]rune(text)) <= 255, x, fmt.Sprintf("%s.%s with at most 255 characters", at, name),
			fmt.Sprintf("%d characters", len([]rune(text))))
		if name == "name" && text != "" {
			s.expect("catalog.names", friendly.MatchString(text), x, at+".name that is easy to type", text)
		}
	}
}

func (s *suite) checkUnique(x *exchange) {
	offeringIDs, names, planIDs := map[string]bool{}, map[string]bool{}, map[string]bool{}
	unique := func(id string, seen map[string]bool, value string) {
		s.expect(id, !seen[value], x, "different values", fmt.Sprintf("%q twice", value))
		seen[value] = true
	}
	for _, o := range s.offerings {
		unique("catalog.offering-id-unique", offeringIDs, o.id)
		unique("catalog.offering-name-unique", names, o.name)
		planNames := map[string]bool{}
		for _, p := range o.plans {
			unique("catalog.plan-id-unique", planIDs, p.id)
			unique("catalog.plan-name-unique", planNames, p.name)
		}
	}
}

// ids returns the ids of a catalog, sorted.
func ids(x *exchange) []string {
	var all []string
	services, _ := x.object()["services"].([]any)
	for _, v := range services {
		o, _ := v.(obj)
		all = append(all, plain(o["id"]))
		plans, _ := o["plans"].([]any)
		for _, v := range plans {
			p, _ := v.(obj)
			all = append(all, plain(o["id"])+"/"+plain(p["id"]))
		}
	}
	slices.Sort(all)
	return all
}

func (s *suite) checkETag(ctx context.Context, x *exchange) {
	etag := x.answer.Get("ETag")
	if etag == "" {
		s.skip("catalog.etag", "the catalog has no ETag")
		s.skip("catalog.etag-other", "the catalog has no ETag")
		return
	}
	get := request{method: "GET", path: "/v2/catalog", header: map[string]string{"If-None-Match": etag}}
	same := s.call(ctx, get)
	s.expect("catalog.etag", same.in(304) && len(same.text) == 0, same, "304 without a body")
	get.header = map[string]string{"If-None-Match": `"` + newID() + `"`}
	other := s.call(ctx, get)
	s.expect("catalog.etag-other", other.in(200) && other.object()["services"] != nil, other, "200 and the catalog")
}
