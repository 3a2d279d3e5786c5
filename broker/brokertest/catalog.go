package brokertest

import (
	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
)

// Ids of the catalog.
const (
	ServiceID   = "service-box"
	SmallID     = "plan-small"
	MediumID    = "plan-medium"
	OtherID     = "service-other"
	OtherPlanID = "plan-other"
)

const image = "image"

// Small is the fingerprint of the plan of SmallID.
var Small = func() string {
	r := Catalog()[0]
	return provisioner.NewDefinition(r, r.Offering.Plans[0], image).Fingerprint()
}()

// Catalog has an offering with two plans and schemas, and one without schemas.
func Catalog() []catalog.Recipe {
	return []catalog.Recipe{
		{
			Name: "box", Version: "1.0.0",
			Roles:     []catalog.Role{{Name: "server", User: "box"}},
			Endpoints: []catalog.Endpoint{{Name: "main", Port: 7000}, {Name: "passive", Count: 10}},
			Provision: &catalog.Program{Command: []string{"provision"}},
			Bind:      &catalog.Program{Command: []string{"bind"}},
			Unbind:    &catalog.Program{Command: []string{"unbind"}},
			Credentials: map[string]string{
				"hostname": "{{.host}}", "port": "{{.ports.main}}", "username": "{{.username}}", "password": "{{.password}}",
				"uri": "box://{{.username}}:{{.password}}@{{.host}}/?a=1&b=2",
			},
			Offering: boxOffering(),
		},
		{
			Name: "other", Version: "1.0.0",
			Roles:     []catalog.Role{{Name: "server", User: "box"}},
			Endpoints: []catalog.Endpoint{{Name: "main", Port: 7000}},
			Offering: catalog.Offering{
				ID: OtherID, Description: "Another thing",
				Plans: []catalog.Plan{{ID: OtherPlanID, Name: "only", Description: "The only one", Members: servers(1)}},
			},
		},
	}
}

func boxOffering() catalog.Offering {
	const dialect = "https://json-schema.org/draft/2020-12/schema"
	free := false
	return catalog.Offering{
		ID: ServiceID, Description: "A box", Tags: []string{"box"}, Metadata: map[string]any{"displayName": "Box"},
		Plans: []catalog.Plan{
			{ID: SmallID, Name: "small", Description: "A small box", Members: servers(1)},
			{ID: MediumID, Name: "medium", Description: "A medium box", Free: &free, Members: servers(2), MaximumPollingDuration: 600},
		},
		ProvisionSchema: map[string]any{
			"$schema": dialect, "type": "object", "additionalProperties": false,
			"properties": map[string]any{
				"colour": map[string]any{"enum": []any{"red", "blue"}},
				"size":   map[string]any{"type": "integer", "minimum": 1, "maximum": 9},
			},
		},
		BindSchema: map[string]any{
			"$schema": dialect, "type": "object", "additionalProperties": false,
			"properties": map[string]any{
				"readonly":         map[string]any{"type": "boolean"},
				"lifetime_seconds": map[string]any{"type": "integer", "minimum": 1},
			},
		},
	}
}

func servers(size catalog.Bytes) map[string]catalog.Size {
	return map[string]catalog.Size{"server": {Count: 1, CPU: 1, Memory: size * 64 << 20, Disk: size * 64 << 20}}
}
