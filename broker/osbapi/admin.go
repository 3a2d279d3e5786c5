package osbapi

import (
	"context"
	"net/http"
	"slices"
	"time"
)

// Pool is one definition's groups by state, and what the pool aims for.
type Pool struct {
	Offering   string `json:"offering"`
	Plan       string `json:"plan"`
	Definition string `json:"definition"` // fingerprint
	Warm       int    `json:"warm"`
	Claimed    int    `json:"claimed"`
	Creating   int    `json:"creating"`
	Resetting  int    `json:"resetting"`
	Floor      int    `json:"floor"`
	Target     int    `json:"target"`
	Ceiling    int    `json:"ceiling"`
	Trouble    string `json:"trouble,omitempty"` // why no group could be made lately
}

// Group is a container group that is not closed.
type Group struct {
	ID         string     `json:"id"`
	Definition string     `json:"definition"` // fingerprint
	Offering   string     `json:"offering"`
	Plan       string     `json:"plan"`
	State      string     `json:"state"` // creating, warm, claimed, resetting, closing
	Generation int        `json:"generation"`
	InstanceID string     `json:"instance_id"` // "" while unclaimed
	Address    string     `json:"address"`     // host:port of the leader; "" while unclaimed
	Members    []Member   `json:"members"`
	CreatedAt  time.Time  `json:"created_at"`
	ClaimedAt  *time.Time `json:"claimed_at"` // null while unclaimed
}

// Member is a container of a group.
type Member struct {
	ID        string     `json:"id"`
	Role      string     `json:"role"`
	PID       int        `json:"pid"`        // of its PID 1, as the host sees it; 0 when there is none
	StartedAt *time.Time `json:"started_at"` // of that process; null when there is none
	Healthy   bool       `json:"healthy"`
}

// Instance is a service instance.
type Instance struct {
	ID        string    `json:"id"`
	Offering  string    `json:"offering"`
	Plan      string    `json:"plan"`
	State     string    `json:"state"`   // creating, ready, failed
	Group     string    `json:"group"`   // id; "" while there is none
	Address   string    `json:"address"` // host:port; "" while there is none
	Bindings  int       `json:"bindings"`
	CreatedAt time.Time `json:"created_at"`
}

func (a *API) pools(c *call) (answer, error) { return list(c, "pools", a.o.Pools) }

func (a *API) groups(c *call) (answer, error) {
	from := a.o.Groups
	if from == nil {
		return list[Group](c, "groups", nil)
	}
	return list(c, "groups", func(ctx context.Context) ([]Group, error) {
		groups, err := from(ctx)
		groups = slices.Clone(groups)
		for i := range groups {
			if groups[i].Members == nil {
				groups[i].Members = []Member{}
			}
		}
		return groups, err
	})
}

func (a *API) instances(c *call) (answer, error) {
	from := a.o.Instances
	if from == nil {
		from = a.brokerInstances
	}
	return list(c, "instances", from)
}

// dashboardLink is GET /admin/v1/instances/:instance_id/dashboard.
func (a *API) dashboardLink(c *call) (answer, error) {
	link, err := a.o.DashboardLink(c.Context(), c.instance)
	return answer{status: http.StatusOK, body: map[string]string{"dashboard_url": link}}, err
}

// list answers with {name: […]}; an empty list is [], never null.
func list[T any](c *call, name string, from func(context.Context) ([]T, error)) (answer, error) {
	all := []T{}
	if from != nil {
		got, err := from(c.Context())
		if err != nil {
			return answer{}, err
		}
		all = append(all, got...)
	}
	return answer{status: http.StatusOK, body: map[string][]T{name: all}}, nil
}

func (a *API) brokerInstances(ctx context.Context) ([]Instance, error) {
	known, err := a.o.Broker.Instances(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]Instance, 0, len(known))
	for _, i := range known {
		list = append(list, Instance{
			ID: i.ID, Offering: i.Offering, Plan: i.Plan, State: string(i.State), Group: i.GroupID,
			Address: i.Address, Bindings: i.Bindings, CreatedAt: i.CreatedAt,
		})
	}
	return list, nil
}
