package osbapi

import (
	"encoding/json"
	"net/http"

	"github.com/remuda/remuda/broker"
)

// instance is the answer about an instance. brokerapi's has no maintenance_info.
type instance struct {
	ServiceID    string           `json:"service_id"`
	PlanID       string           `json:"plan_id"`
	DashboardURL string           `json:"dashboard_url,omitempty"`
	Parameters   json.RawMessage  `json:"parameters,omitempty"`
	Maintenance  *maintenanceInfo `json:"maintenance_info,omitempty"`
}

func (c *call) fetchRequest() (broker.FetchRequest, error) {
	serviceID, planID, err := c.planHints()
	return broker.FetchRequest{
		InstanceID: c.instance, BindingID: c.binding, ServiceID: serviceID, PlanID: planID,
	}, err
}

// fetchInstance is GET /v2/service_instances/:instance_id.
func (a *API) fetchInstance(c *call) (answer, error) {
	r, err := c.fetchRequest()
	if err != nil {
		return answer{}, err
	}
	result, err := a.o.Broker.FetchInstance(c.Context(), r)
	if err != nil {
		return answer{}, err
	}
	body := instance{
		ServiceID: result.ServiceID, PlanID: result.PlanID, DashboardURL: result.DashboardURL, Parameters: result.Parameters,
	}
	if result.Maintenance != "" && c.minor >= minorMaintenance {
		body.Maintenance = &maintenanceInfo{Version: result.Maintenance}
	}
	return answer{status: http.StatusOK, body: body}, nil
}

// fetchBinding is GET /v2/service_instances/:instance_id/service_bindings/:binding_id.
func (a *API) fetchBinding(c *call) (answer, error) {
	r, err := c.fetchRequest()
	if err != nil {
		return answer{}, err
	}
	result, err := a.o.Broker.FetchBinding(c.Context(), r)
	if err != nil {
		return answer{}, err
	}
	body := c.bindingOf(result)
	body.Parameters = result.Parameters
	return answer{status: http.StatusOK, body: body}, nil
}
