package osbapi

import "github.com/remuda/remuda/broker"

// update is PATCH /v2/service_instances/:instance_id. No plan can be updated
// yet, and the catalog says so.
func (a *API) update(c *call) (answer, error) {
	if _, err := c.body(); err != nil {
		return answer{}, err
	}
	return answer{}, &broker.Error{
		Code:    broker.Refused,
		Message: "Service instances of this plan cannot be updated. Create a new one with the plan and parameters you want.",
	}
}
