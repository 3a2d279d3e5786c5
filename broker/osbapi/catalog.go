package osbapi

import (
	"crypto/sha256"
	"encoding/hex"
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
		PlanUpdateable       bool           `json:"plan_updateable"` // sic
		Tags                 []string       `json:"tags,omitempty"`
		Requires             []string       `json:"requires,omitempty"`
		Metadata             map[string]any `json:"metadata,omitempty"`
		Plans                []offeringPlan `json:"plans"`

		DashboardClient *DashboardClient `json:"dashboard_client,omitempty"`
	}
	offeringPlan struct {
		ID          string         `json:"id"`
		Name        string         `json:"name"`
		Description string         `json:"description"`
		Free        bool           `json:"free"`
		Metadata    map[string]any `json:"metadata,omitempty"`
		Schemas     schemas        `json:"schemas"`
	}
	schemas struct {
		Instance operations `json:"service_instance"`
		Binding  operations `json:"service_binding"`
	}
	operations struct {
		Create schema `json:"create"`
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

// newCatalog writes the catalog (OSB, "Catalog Management").
func newCatalog(recipes []catalog.Recipe, client func(string) (DashboardClient, bool)) (document, error) {
	services := make([]offering, 0, len(recipes)) // never null
	for _, r := range recipes {
		o := offering{
			ID: r.Offering.ID, Name: r.Name, Description: r.Offering.Description,
			Bindable: true, InstancesRetrievable: true, BindingsRetrievable: true,
			Tags: r.Offering.Tags, Requires: r.Offering.Requires, Metadata: r.Offering.Metadata,
			Plans: make([]offeringPlan, 0, len(r.Offering.Plans)),
		}
		if client != nil {
			if c, ok := client(r.Name); ok {
				o.DashboardClient = &c
			}
		}
		for _, p := range r.Offering.Plans {
			o.Plans = append(o.Plans, offeringPlan{
				ID: p.ID, Name: p.Name, Description: p.Description,
				Free: p.Free == nil || *p.Free, Metadata: p.Metadata,
				Schemas: schemas{
					Instance: operations{schema{orNone(r.Offering.ProvisionSchema)}},
					Binding:  operations{schema{orNone(r.Offering.BindSchema)}},
				},
			})
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

// getCatalog is GET /v2/catalog.
func (a *API) getCatalog(c *call) (answer, error) {
	ans := answer{
		status:  http.StatusOK,
		encoded: a.catalog.text,
		header:  [][2]string{{"ETag", a.catalog.etag}, {"Cache-Control", "no-cache"}},
	}
	if matches(c.Header.Values("If-None-Match"), a.catalog.etag) {
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
