package main

import (
	"context"
	"time"

	"github.com/remuda/remuda/broker/osbapi"
	"github.com/remuda/remuda/provisioner"
)

func poolView(levels []provisioner.Level) []osbapi.Pool {
	out := make([]osbapi.Pool, 0, len(levels))
	for _, l := range levels {
		out = append(out, osbapi.Pool{
			Offering: l.Offering, Plan: l.Plan, Definition: l.Definition, Warm: l.Warm, Claimed: l.Claimed,
			Creating: l.Creating, Resetting: l.Resetting, Floor: l.Floor, Target: l.Target, Ceiling: l.Ceiling, Trouble: l.Trouble,
		})
	}
	return out
}

func groupView(ctx context.Context, pool *provisioner.Pool) ([]osbapi.Group, error) {
	groups, err := pool.Groups(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]osbapi.Group, 0, len(groups))
	for _, g := range groups {
		view := osbapi.Group{
			ID: g.ID, Definition: g.Fingerprint, Offering: g.Offering, Plan: g.Plan, State: string(g.State),
			Generation: g.Generation, InstanceID: g.InstanceID, Address: g.Address, Members: []osbapi.Member{},
			CreatedAt: g.CreatedAt, ClaimedAt: timeOrNil(g.ClaimedAt),
		}
		for _, m := range g.Members {
			view.Members = append(view.Members, osbapi.Member{
				ID: m.ID, Role: m.Role, PID: m.PID, StartedAt: timeOrNil(m.StartedAt), Healthy: m.Healthy,
			})
		}
		out = append(out, view)
	}
	return out, nil
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
