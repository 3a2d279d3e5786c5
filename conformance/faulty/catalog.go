package faulty

import (
	"strconv"
	"strings"
)

// Ids of the catalog.
const (
	FullID       = "service-full"
	SmallID      = "plan-small"
	LargeID      = "plan-large"
	BareID       = "service-bare"
	BarePlanID   = "plan-bare"
	RoutesID     = "service-routes"
	RoutesPlanID = "plan-routes"

	maintenance = "2.1.1+abcdef"
)

func schema(property obj) obj {
	return obj{"parameters": obj{
		"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "additionalProperties": false,
		"properties": obj{"colour": property},
		"$ref":       "#/definitions/any", "definitions": obj{"any": obj{}},
	}}
}

func fullPlan(id, name string) obj {
	colour := obj{"enum": []any{"red", "blue"}}
	return obj{
		"id": id, "name": name, "description": "A " + name + " one", "free": true, "metadata": obj{},
		"binding_rotatable": true, "maximum_polling_duration": 60,
		"maintenance_info": obj{"version": maintenance, "description": "An update"},
		"schemas": obj{
			"service_instance": obj{"create": schema(colour), "update": schema(colour)},
			"service_binding":  obj{"create": schema(colour)},
		},
	}
}

// newCatalog is right in all.
func newCatalog() (full, small, bare obj, services []any) {
	small = fullPlan(SmallID, "small")
	full = obj{
		"id": FullID, "name": "full", "description": "Has all there is", "bindable": true, "tags": []any{"all"},
		"requires": []any{"syslog_drain", "volume_mount"}, "instances_retrievable": true, "bindings_retrievable": true,
		"allow_context_updates": true, "plan_updateable": true, "metadata": obj{},
		"dashboard_client": obj{"id": "client", "secret": "dashboard-secret", "redirect_uri": "https://dashboard.example.com"},
		"plans":            []any{small, fullPlan(LargeID, "large")},
	}
	bare = obj{
		"id": BareID, "name": "bare", "description": "Has next to nothing", "bindable": false,
		"plans": []any{obj{"id": BarePlanID, "name": "only", "description": "The only one"}},
	}
	routes := obj{
		"id": RoutesID, "name": "routes", "description": "Forwards routes", "bindable": true, "requires": []any{"route_forwarding"},
		"plans": []any{obj{"id": RoutesPlanID, "name": "only", "description": "The only one"}},
	}
	return full, small, bare, []any{full, bare, routes}
}

// catalogFaults make a right catalog wrong.
var catalogFaults = map[string]func(full, small, bare obj){
	"offering-id-duplicate":   func(_, _, bare obj) { bare["id"] = FullID },
	"offering-name-duplicate": func(_, _, bare obj) { bare["name"] = "full" },
	"plan-id-duplicate":       func(_, _, bare obj) { bare["plans"].([]any)[0].(obj)["id"] = SmallID },
	"plan-name-duplicate":     func(full, small, _ obj) { full["plans"].([]any)[1].(obj)["name"] = small["name"] },
	"plans-empty":             func(_, _, bare obj) { bare["plans"] = []any{} },
	"plans-null":              func(_, _, bare obj) { bare["plans"] = nil },
	"bindable-missing":        func(_, _, bare obj) { delete(bare, "bindable") },
	"offering-name-missing":   func(_, _, bare obj) { delete(bare, "name") },
	"plan-description-empty":  func(_, small, _ obj) { small["description"] = "" },
	"plan-id-number":          func(_, _, bare obj) { bare["plans"].([]any)[0].(obj)["id"] = 7 },
	"tags-text":               func(full, _, _ obj) { full["tags"] = "all" },
	"requires-unknown":        func(_, _, bare obj) { bare["requires"] = []any{"money"} },
	"free-text":               func(_, small, _ obj) { small["free"] = "yes" },
	"dashboard-client-short":  func(full, _, _ obj) { delete(full["dashboard_client"].(obj), "secret") },
	"name-spaces":             func(_, _, bare obj) { bare["name"] = "bare and poor" },
	"description-long":        func(_, _, bare obj) { bare["description"] = strings.Repeat("x", 256) },
	"polling-duration-text":   func(_, small, _ obj) { small["maximum_polling_duration"] = "60" },
	"maintenance-not-semver":  func(_, small, _ obj) { small["maintenance_info"] = obj{"version": "2.1"} },
	"schema-text":             func(_, small, _ obj) { small["schemas"].(obj)["service_binding"] = "none" },
	"schema-dialect-missing":  func(_, small, _ obj) { delete(parameters(small), "$schema") },
	"schema-large":            func(_, small, _ obj) { parameters(small)["description"] = strings.Repeat("x", 64<<10) },
	"schema-external":         func(_, small, _ obj) { parameters(small)["$ref"] = "https://example.com/schema.json" },
	"schema-invalid":          func(_, small, _ obj) { parameters(small)["type"] = "thing" },
	"requires-missing":        func(full, _, _ obj) { full["requires"] = []any{} },
}

func parameters(plan obj) obj {
	return plan["schemas"].(obj)["service_instance"].(obj)["create"].(obj)["parameters"].(obj)
}

func (b *Broker) catalog(c *call) answer {
	full, small, bare, services := newCatalog()
	if spoil := catalogFaults[b.o.Fault]; spoil != nil {
		spoil(full, small, bare)
	}
	b.mu.Lock()
	b.calls++
	calls := b.calls
	b.mu.Unlock()
	a := answer{status: 200, body: obj{"services": services}, header: map[string]string{"ETag": `"1"`}}
	asked := c.Header.Get("If-None-Match")
	switch {
	case b.is("catalog-crash"):
		return refuse(500, "", "crash")
	case b.is("services-null"):
		a.body = obj{"services": nil}
	case b.is("ids-change"):
		bare["id"] = BareID + strconv.Itoa(calls)
	case b.is("etag-refused") && asked != "" && asked != `"1"`:
		return answer{status: 304}
	case asked == `"1"` && !b.is("etag-ignored"):
		return answer{status: 304}
	}
	return a
}

// offers says whether the plan is one of the offering.
func offers(service, plan string) bool {
	switch service {
	case FullID:
		return plan == SmallID || plan == LargeID
	case BareID:
		return plan == BarePlanID
	case RoutesID:
		return plan == RoutesPlanID
	}
	return false
}

func isService(id string) bool { return id == FullID || id == BareID || id == RoutesID }

func isPlan(id string) bool { return offers(FullID, id) || offers(BareID, id) || offers(RoutesID, id) }
