package osbapi

import (
	"net/http"

	"github.com/pivotal-cf/brokerapi/v10/domain/apiresponses"

	"github.com/remuda/remuda/broker"
)

// unbind is DELETE /v2/service_instances/:instance_id/service_bindings/:binding_id.
func (a *API) unbind(c *call) (answer, error) {
	accepts, err := c.bindsIncomplete()
	if err != nil {
		return answer{}, err
	}
	serviceID, planID, err := c.plan()
	if err != nil {
		return answer{}, err
	}
	operation, err := a.o.Broker.Unbind(c.Context(), broker.UnbindRequest{
		InstanceID: c.instance, BindingID: c.binding, ServiceID: serviceID, PlanID: planID,
		AcceptsIncomplete: accepts,
	})
	if operation != "" {
		return a.accepted(operation), nil
	}
	return answer{status: http.StatusOK, body: apiresponses.EmptyResponse{}}, err
}
