package osbapi

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/remuda/remuda/catalog"
)

// Of brokerapi's catalog structures those of offerings and plans are not used:
// they cannot leave out a schema for updates, and they give metadata a form.
type (
	offering struct {
		ID                   string         `json:"id"`
		Name                 string         `json:"name"`
		Description          string         `json:"description"`
		Bindable             bool           `json:"bindable"`
		InstancesRetrievable bool           `json:"instances_retrievable"`
		BindingsRetrievable  bool           `json:"bindings_retrievable"`
		AllowContextUpdates  bool           `json:"allow_context_updates,omitempty"`
		PlanUpdateable       bool           `json:"plan_updateable"` // sic
		Tags                 []string       `json:"tags,omitempty"`
		Requires             []string       `json:"requires,omitempty"`
		Metadata             map[string]any `json:"metadata,omitempty"`
		Plans                []offeringPlan `json:"plans"`

		DashboardClient *DashboardClient `json:"dashboard_client,omitempty"`
	}
	offeringPlan struct {
		ID                     string           `json:"id"`
		Name                   string           `json:"name"`
		Description            string           `json:"description"`
		Free                   bool             `json:"free"`
		Bindable               bool             `json:"bindable"` // said for those who do not look at the offering
		PlanUpdateable         bool             `json:"plan_updateable,omitempty"`
		BindingRotatable       bool             `json:"binding_rotatable,omitempty"`
		Metadata               map[string]any   `json:"metadata,omitempty"`
		Schemas                schemas          `json:"schemas"`
		MaximumPollingDuration int              `json:"maximum_polling_duration,omitempty"`
		MaintenanceInfo        *maintenanceInfo `json:"maintenance_info,omitempty"`
	}
	maintenanceInfo struct {
		Version     string `json:"version"`
		Description string `json:"description,omitempty"`
	}
	schemas struct {
		Instance operations `json:"service_instance"`
		Binding  operations `json:"service_binding"`
	}
	operations struct {
		Create schema  `json:"create"`
		Update *schema `json:"update,omitempty"`
	}
	schema struct {
		Parameters map[string]any `json:"parameters"`
	}
)

// DashboardClient is what a platform must know to make its login server know
// the dashboards of an offering (OSB, "Dashboard Client Object").
type DashboardClient struct {
	ID          string `json:"id"`
	Secret      string `json:"secret"`
	RedirectURI string `json:"redirect_uri"`
}

// noParameters is the schema of those who give none.
var noParameters = map[string]any{
	"$schema":              "http://json-schema.org/draft-07/schema#",
	"type":                 "object",
	"additionalProperties": false,
}

// document is JSON that does not change.
type document struct {
	text []byte
	etag string
}

// newCatalogs writes the catalog for every minor version that is understood.
func newCatalogs(recipes []catalog.Recipe, client func(string) (DashboardClient, bool)) (map[int]document, error) {
	all := map[int]document{}
	for minor := minMinor; minor <= minorNewest; minor++ {
		d, err := newCatalog(recipes, minor, client)
		if err != nil {
			return nil, err
		}
		all[minor] = d
	}
	return all, nil
}

// newCatalog writes the catalog (OSB, "Catalog Management") as version 2.minor has it.
func newCatalog(recipes []catalog.Recipe, minor int, client func(string) (DashboardClient, bool)) (document, error) {
	services := make([]offering, 0, len(recipes)) // never null
	for _, r := range recipes {
		o := offering{
			ID: r.Offering.ID, Name: r.Name, Description: r.Offering.Description,
			Bindable: true, InstancesRetrievable: true, BindingsRetrievable: true,
			PlanUpdateable: len(r.Offering.Plans) > 1, AllowContextUpdates: minor >= minorMaintenance,
			Tags: r.Offering.Tags, Requires: r.Offering.Requires, Metadata: r.Offering.Metadata,
			Plans: make([]offeringPlan, 0, len(r.Offering.Plans)),
		}
		if client != nil {
			if c, ok := client(r.Name); ok {
				o.DashboardClient = &c
			}
		}
		for _, p := range r.Offering.Plans {
			plan := offeringPlan{
				ID: p.ID, Name: p.Name, Description: p.Description,
				Free: p.Free == nil || *p.Free, Bindable: true, Metadata: p.Metadata,
				BindingRotatable: minor >= minorRotation,
				Schemas: schemas{
					Instance: operations{
						Create: schema{orNone(r.Offering.ProvisionSchema)},
						Update: &schema{forUpdate(r.Offering.ProvisionSchema)},
					},
					Binding: operations{Create: schema{orNone(r.Offering.BindSchema)}},
				},
			}
			if minor >= minorMaintenance {
				plan.PlanUpdateable = o.PlanUpdateable
				plan.MaximumPollingDuration = p.MaximumPollingDuration
				plan.MaintenanceInfo = &maintenanceInfo{
					Version: r.Version, Description: fmt.Sprintf("Version %s of how %s is run. An upgrade keeps the data and restarts the server.", r.Version, r.Name),
				}
			}
			o.Plans = append(o.Plans, plan)
		}
		services = append(services, o)
	}
	text, err := encode(map[string]any{"services": services})
	if err != nil {
		return document{}, err
	}
	sum := sha256.Sum256(text)
	return document{text: text, etag: `"` + hex.EncodeToString(sum[:16]) + `"`}, nil
}

func orNone(s map[string]any) map[string]any {
	if s == nil {
		return noParameters
	}
	return s
}

// forUpdate is the schema of an update, which may leave out what a creation
// must have.
func forUpdate(s map[string]any) map[string]any {
	s = maps.Clone(orNone(s))
	delete(s, "required")
	return s
}

// getCatalog is GET /v2/catalog.
func (a *API) getCatalog(c *call) (answer, error) {
	d := a.catalogs[c.minor]
	ans := answer{
		status:  http.StatusOK,
		encoded: d.text,
		header:  [][2]string{{"ETag", d.etag}, {"Cache-Control", "no-cache"}, {"Vary", "X-Broker-API-Version"}},
	}
	if matches(c.Header.Values("If-None-Match"), d.etag) {
		ans.status, ans.encoded = http.StatusNotModified, nil
	}
	return ans, nil
}

// matches compares entity tags weakly (RFC 9110, 13.1.2).
func matches(headers []string, etag string) bool {
	for _, h := range headers {
		for tag := range strings.SplitSeq(h, ",") {
			tag = strings.TrimSpace(tag)
			if tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
				return true
			}
		}
	}
	return false
}
