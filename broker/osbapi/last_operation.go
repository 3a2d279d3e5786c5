package osbapi

import (
	"net/http"

	"github.com/pivotal-cf/brokerapi/v10/domain"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/store"
)

// lastOperation is the answer to a poll. brokerapi's has no flags.
type lastOperation struct {
	State       domain.LastOperationState `json:"state"`
	Description string                    `json:"description,omitempty"`
	updateFlags
}

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
	body := lastOperation{State: domain.LastOperationState(result.State), Description: result.Description}
	if result.Kind == store.OpUpdate && result.State == store.OpFailed && c.minor >= minorUpdateFlags {
		body.setUpdate(!result.Final)
	}
	ans := answer{status: http.StatusOK, body: body}
	if result.State == store.OpInProgress {
		ans.retry = a.o.Broker.PollInterval()
	}
	return ans, nil
}
