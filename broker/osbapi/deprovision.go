package osbapi

import (
	"net/http"

	"github.com/pivotal-cf/brokerapi/v10/domain/apiresponses"

	"github.com/remuda/remuda/broker"
)

// deprovision is DELETE /v2/service_instances/:instance_id.
func (a *API) deprovision(c *call) (answer, error) {
	if _, err := c.acceptsIncomplete(); err != nil {
		return answer{}, err
	}
	serviceID, planID, err := c.plan()
	if err != nil {
		return answer{}, err
	}
	err = a.o.Broker.Deprovision(c.Context(), broker.DeprovisionRequest{
		InstanceID: c.instance, ServiceID: serviceID, PlanID: planID,
	})
	return answer{status: http.StatusOK, body: apiresponses.EmptyResponse{}}, err
}
