package provisioner

import (
	"time"

	"github.com/remuda/remuda/store"
)

// action is what must be done with a group.
type action string

const (
	actNothing action = ""
	actCreate  action = "create"
	actReset   action = "reset"
	actRepair  action = "repair"
	actClose   action = "close"
	actCutoff  action = "cutoff"
)

// sight is what the back end shows of a group.
type sight struct {
	there, healthy bool
	generation     int
}

func sightOf(o Observation, there bool) sight {
	return sight{there: there, healthy: there && o.Healthy(), generation: o.Generation}
}

// onStart says what a group needs that was found in the store when the pool
// starts. current: new groups are still made from its definition.
func onStart(g store.Group, s sight, current bool) action {
	switch g.State {
	case store.GroupClaimed:
		return watch(g, s, current)
	case store.GroupWarm:
		if s.there && s.generation != g.Generation {
			return actClose
		}
		return watch(g, s, current)
	case store.GroupResetting:
		if s.there && current {
			return actReset
		}
	}
	return actClose // half-made, or to be closed anyway
}

// watch says what a group needs that nobody is working on. A tenant's group is
// never closed, nor touched while it is well.
func watch(g store.Group, s sight, current bool) action {
	switch {
	case g.State == store.GroupClaimed && !s.healthy:
		return actRepair
	case g.State == store.GroupWarm && (!s.healthy || !current):
		return actClose
	}
	return actNothing
}

// missing says how many groups to begin to make. All groups of the definition
// count against the ceiling, in whatever state.
func missing(l Limits, target int, counts map[store.GroupState]int, waiting int) int {
	all := 0
	for _, n := range counts {
		all += n
	}
	coming := counts[store.GroupWarm] + counts[store.GroupCreating] + counts[store.GroupResetting]
	return max(min(target+waiting-coming, l.Ceiling-all), 0)
}

// surplus returns the warm groups to close: oldest first, so many that target
// are left, and only those that have been idle for keep since a tenant gave
// them back (or, when none ever had them, since they became warm).
func surplus(groups []store.Group, target int, keep time.Duration, now time.Time) []store.Group {
	var warm []store.Group
	for _, g := range groups {
		if g.State == store.GroupWarm {
			warm = append(warm, g)
		}
	}
	over := len(warm) - target
	var out []store.Group
	for _, g := range warm {
		idle := g.ReturnedAt
		if idle.IsZero() {
			idle = g.Since
		}
		if len(out) < over && !now.Before(idle.Add(keep)) {
			out = append(out, g)
		}
	}
	return out
}
