package osbapi

import (
	"encoding/json"
	"net/http"

	"github.com/pivotal-cf/brokerapi/v10/domain/apiresponses"

	"github.com/remuda/remuda/broker"
)

// update is PATCH /v2/service_instances/:instance_id.
func (a *API) update(c *call) (answer, error) {
	accepts, err := c.acceptsIncomplete()
	if err != nil {
		return answer{}, err
	}
	body, err := c.body()
	if err != nil {
		return answer{}, err
	}
	r, err := updateRequest(body)
	if err != nil {
		return answer{}, err
	}
	r.InstanceID, r.AcceptsIncomplete = c.instance, accepts
	result, err := a.o.Broker.Update(c.Context(), r)
	if err != nil {
		return answer{}, err
	}
	if result.Operation == "" {
		return answer{status: http.StatusOK, body: apiresponses.EmptyResponse{}}, nil
	}
	return answer{
		status: http.StatusAccepted, retry: a.o.Broker.PollInterval(),
		body: apiresponses.UpdateResponse{DashboardURL: result.DashboardURL, OperationData: result.Operation},
	}, nil
}

func updateRequest(f fields) (r broker.UpdateRequest, err error) {
	if err = f.texts(map[string]*string{"service_id": &r.ServiceID, "plan_id": &r.PlanID}); err != nil {
		return r, err
	}
	if f.has("plan_id") && r.PlanID == "" {
		return r, invalid("plan_id must be a non-empty string.")
	}
	if err = f.objects(map[string]*json.RawMessage{"context": &r.Context, "parameters": &r.Parameters}); err != nil {
		return r, err
	}
	previous, err := f.sub("previous_values")
	if err != nil {
		return r, err
	}
	if _, err = previous.text("plan_id"); err != nil {
		return r, err
	}
	r.MaintenanceVersion, err = maintenanceVersion(f)
	return r, err
}

// maintenanceVersion reads maintenance_info, of which only the version counts.
func maintenanceVersion(f fields) (string, error) {
	maintenance, err := f.sub("maintenance_info")
	if err != nil || maintenance == nil {
		return "", err
	}
	version, err := maintenance.text("version")
	if err != nil || version == "" {
		return "", invalid("maintenance_info.version must be a non-empty string.")
	}
	return version, nil
}
