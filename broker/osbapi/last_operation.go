package osbapi

import (
	"net/http"

	"github.com/pivotal-cf/brokerapi/v10/domain"
	"github.com/pivotal-cf/brokerapi/v10/domain/apiresponses"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/store"
)

// lastOperation is GET …/last_operation of an instance or a binding.
func (a *API) lastOperation(c *call) (answer, error) {
	fetch, err := c.fetchRequest()
	if err != nil {
		return answer{}, err
	}
	operation, err := c.hint("operation")
	if err != nil {
		return answer{}, err
	}
	result, err := a.o.Broker.LastOperation(c.Context(), broker.PollRequest{FetchRequest: fetch, Operation: operation})
	if err != nil {
		return answer{}, err
	}
	ans := answer{status: http.StatusOK, body: apiresponses.LastOperationResponse{
		State: domain.LastOperationState(result.State), Description: result.Description,
	}}
	if result.State == store.OpInProgress {
		ans.retry = a.o.Broker.PollInterval()
	}
	return ans, nil
}
