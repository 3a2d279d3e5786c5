package osbapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/pivotal-cf/brokerapi/v10/domain"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/store"
)

// binding is the answer about a binding. brokerapi's has no endpoints and no metadata.
type binding struct {
	Metadata        *bindingMetadata     `json:"metadata,omitempty"`
	Credentials     json.RawMessage      `json:"credentials,omitempty"`
	SyslogDrainURL  string               `json:"syslog_drain_url,omitempty"`
	RouteServiceURL string               `json:"route_service_url,omitempty"`
	VolumeMounts    []domain.VolumeMount `json:"volume_mounts,omitempty"`
	Endpoints       []bindingEndpoint    `json:"endpoints,omitempty"`
	Parameters      json.RawMessage      `json:"parameters,omitempty"` // when fetched
}

// bindingMetadata is OSB's "Binding Metadata Object".
type bindingMetadata struct {
	ExpiresAt   string `json:"expires_at,omitempty"`
	RenewBefore string `json:"renew_before,omitempty"`
}

// timestamp is yyyy-mm-ddThh:mm:ss.sZ.
func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0Z") }

// bindingEndpoint is OSB's "Endpoint Object"; ports are strings, "443" or "9000-9010".
type bindingEndpoint struct {
	Host     string   `json:"host"`
	Ports    []string `json:"ports"`
	Protocol string   `json:"protocol"`
}

// bind is PUT /v2/service_instances/:instance_id/service_bindings/:binding_id.
func (a *API) bind(c *call) (answer, error) {
	accepts, err := c.bindsIncomplete()
	if err != nil {
		return answer{}, err
	}
	body, err := c.body()
	if err != nil {
		return answer{}, err
	}
	r, err := bindRequest(body)
	if err != nil {
		return answer{}, err
	}
	r.InstanceID, r.BindingID, r.AcceptsIncomplete = c.instance, c.binding, accepts
	result, err := a.o.Broker.Bind(c.Context(), r)
	if err != nil {
		return answer{}, err
	}
	if result.Operation != "" {
		return a.accepted(result.Operation), nil
	}
	ans := answer{status: http.StatusOK, body: c.bindingOf(result)}
	if result.Created {
		ans.status = http.StatusCreated
	}
	return ans, nil
}

// bindingOf is the answer of a binding that exists, without its parameters.
func (c *call) bindingOf(r broker.BindResult) binding {
	b := binding{
		Credentials: r.Credentials, SyslogDrainURL: r.Other.SyslogDrainURL, RouteServiceURL: r.Other.RouteServiceURL,
	}
	if c.minor >= minorEndpoints {
		b.Endpoints = endpoints(r.Endpoints)
	}
	if !r.ExpiresAt.IsZero() && c.minor >= minorExpiry {
		b.Metadata = &bindingMetadata{ExpiresAt: timestamp(r.ExpiresAt)}
		if c.minor >= minorRotation {
			b.Metadata.RenewBefore = timestamp(r.RenewBefore)
		}
	}
	for _, v := range r.Other.VolumeMounts {
		m := domain.VolumeMount{
			Driver: v.Driver, ContainerDir: v.ContainerDir, Mode: v.Mode, DeviceType: "shared",
			Device: domain.SharedDevice{VolumeId: v.VolumeID, MountConfig: map[string]any{}},
		}
		for key, value := range v.MountConfig {
			m.Device.MountConfig[key] = value
		}
		b.VolumeMounts = append(b.VolumeMounts, m)
	}
	return b
}

func bindRequest(f fields) (r broker.BindRequest, err error) {
	if r.Predecessor, err = f.text("predecessor_binding_id"); err != nil || r.Predecessor == "" && f.has("predecessor_binding_id") {
		return r, invalid("predecessor_binding_id must be a non-empty string.")
	}
	if err = f.texts(map[string]*string{"service_id": &r.ServiceID, "plan_id": &r.PlanID}); err != nil {
		return r, err
	}
	if err = f.objects(map[string]*json.RawMessage{"context": &r.Context, "parameters": &r.Parameters}); err != nil {
		return r, err
	}
	// An empty app_guid counts as none: Korifi sends it for bindings that belong
	// to no application.
	if r.AppGUID, err = f.text("app_guid"); err != nil {
		return r, err
	}
	resource, err := f.sub("bind_resource")
	if err != nil {
		return r, err
	}
	// app_guid itself is deprecated in favour of the resource's.
	if guid, err := resource.text("app_guid"); err != nil {
		return r, err
	} else if guid != "" {
		r.AppGUID = guid
	}
	if r.Route, err = resource.text("route"); err != nil || r.Route == "" && resource.has("route") {
		return r, invalid("bind_resource.route must be a non-empty string.")
	}
	return r, nil
}

func endpoints(of []store.Endpoint) []bindingEndpoint {
	var list []bindingEndpoint
	for _, e := range of {
		ports := strconv.Itoa(e.Port)
		if e.Count > 1 {
			ports = fmt.Sprintf("%d-%d", e.Port, e.Port+e.Count-1)
		}
		list = append(list, bindingEndpoint{Host: e.Host, Ports: []string{ports}, Protocol: "tcp"})
	}
	return list
}
