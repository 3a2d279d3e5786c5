package osbapi

import (
	"encoding/json"
	"net/http"

	"github.com/pivotal-cf/brokerapi/v10/domain/apiresponses"

	"github.com/remuda/remuda/broker"
)

// provision is PUT /v2/service_instances/:instance_id.
func (a *API) provision(c *call) (answer, error) {
	accepts, err := c.acceptsIncomplete()
	if err != nil {
		return answer{}, err
	}
	body, err := c.body()
	if err != nil {
		return answer{}, err
	}
	r, err := provisionRequest(body)
	if err != nil {
		return answer{}, err
	}
	r.InstanceID, r.AcceptsIncomplete = c.instance, accepts
	result, err := a.o.Broker.Provision(c.Context(), r)
	if err != nil {
		return answer{}, err
	}
	ans := answer{
		status: http.StatusOK,
		body:   apiresponses.ProvisioningResponse{DashboardURL: result.DashboardURL, OperationData: result.Operation},
	}
	switch {
	case result.Operation != "":
		ans.status, ans.retry = http.StatusAccepted, a.o.Broker.PollInterval()
	case result.Created:
		ans.status = http.StatusCreated
	}
	return ans, nil
}

func provisionRequest(f fields) (r broker.ProvisionRequest, err error) {
	if err = f.texts(map[string]*string{
		"service_id": &r.ServiceID, "plan_id": &r.PlanID,
		"organization_guid": &r.OrganizationGUID, "space_guid": &r.SpaceGUID,
	}); err != nil {
		return r, err
	}
	if err = f.objects(map[string]*json.RawMessage{"context": &r.Context, "parameters": &r.Parameters}); err != nil {
		return r, err
	}
	r.MaintenanceVersion, err = maintenanceVersion(f)
	return r, err
}
