package broker

import (
	"context"
	"net"
	"strconv"
	"time"

	"github.com/remuda/remuda/store"
)

// InstanceSummary is an instance as an operator sees it.
type InstanceSummary struct {
	ID        string
	Offering  string // names; ids when the catalog has lost them
	Plan      string
	State     store.InstanceState
	GroupID   string // "" while there is none
	Address   string // host:port of the main endpoint; "" while there is none
	Bindings  int
	CreatedAt time.Time
}

// Instances lists all instances in the order of their ids. Each page is
// consistent, the whole is not.
func (b *Broker) Instances(ctx context.Context) ([]InstanceSummary, error) {
	var all []InstanceSummary
	for after := ""; ; {
		var page []InstanceSummary
		err := b.o.Store.View(ctx, func(tx store.Tx) (err error) {
			page, err = b.summaries(tx, after)
			return err
		})
		if err != nil {
			return nil, failure(err, "The instances could not be listed.")
		}
		all = append(all, page...)
		if len(page) < pageSize {
			return all, nil
		}
		after = page[len(page)-1].ID
	}
}

func (b *Broker) summaries(tx store.Tx, after string) ([]InstanceSummary, error) {
	page, err := tx.Instances().Page(after, pageSize)
	if err != nil {
		return nil, err
	}
	list := make([]InstanceSummary, 0, len(page))
	for _, inst := range page {
		s := InstanceSummary{ID: inst.ID, State: inst.State, GroupID: inst.GroupID, CreatedAt: inst.CreatedAt}
		s.Offering, s.Plan = b.plans.names(inst.ServiceID, inst.PlanID)
		bindings, err := tx.Bindings().Of(inst.ID)
		if err != nil {
			return nil, err
		}
		s.Bindings = len(bindings)
		if inst.GroupID != "" {
			endpoints, err := groupEndpoints(tx, inst.GroupID)
			if err != nil {
				return nil, err
			}
			if len(endpoints) > 0 {
				s.Address = net.JoinHostPort(endpoints[0].Host, strconv.Itoa(endpoints[0].Port))
			}
		}
		list = append(list, s)
	}
	return list, nil
}
