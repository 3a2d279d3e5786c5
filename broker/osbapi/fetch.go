package osbapi

import (
	"net/http"

	"github.com/pivotal-cf/brokerapi/v10/domain/apiresponses"

	"github.com/remuda/remuda/broker"
)

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
	body := apiresponses.GetInstanceResponse{
		ServiceID: result.ServiceID, PlanID: result.PlanID, DashboardURL: result.DashboardURL,
	}
	if result.Parameters != nil {
		body.Parameters = result.Parameters
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
	body := bindingOf(result)
	body.Parameters = result.Parameters
	return answer{status: http.StatusOK, body: body}, nil
}
