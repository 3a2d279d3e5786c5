package provisioner

import (
	"testing"
	"time"

	"github.com/remuda/remuda/store"
)

func TestTarget(t *testing.T) {
	wide := Limits{Floor: 1, Ceiling: 20}
	for _, c := range []struct {
		name   string
		limits Limits
		rate   float64 // per second
		refill time.Duration
		want   int
	}{
		{"idle", wide, 0, time.Second, 1},
		{"nearly idle", wide, 0.01, time.Second, 1},
		{"one a second, quick refill", wide, 1, 100 * time.Millisecond, 1},
		{"one a second", wide, 1, time.Second, 3},
		{"four a second", wide, 4, time.Second, 9},
		{"slow refill", wide, 1, 4 * time.Second, 9},
		{"beyond the ceiling", wide, 100, time.Second, 20},
		{"floor holds", Limits{Floor: 5, Ceiling: 20}, 1, time.Second, 5},
		{"always cold", Limits{Floor: 0, Ceiling: 20}, 100, time.Second, 0},
		{"no refill time", wide, 5, 0, 1},
	} {
		if got := target(c.limits, c.rate, c.refill); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func TestRate(t *testing.T) {
	var r rate
	now := time.Unix(0, 0)
	if got := r.perSecond(now); got != 0 {
		t.Errorf("at first: %g", got)
	}
	for range 600 { // ten minutes of one per second
		now = now.Add(time.Second)
		r.add(now)
	}
	if got := r.perSecond(now); got < 0.95 || got > 1.05 {
		t.Errorf("steady: %g per second, want 1", got)
	}
	if got := r.perSecond(now.Add(5 * time.Minute)); got > 0.01 {
		t.Errorf("five minutes later: %g", got)
	}
}

func TestMean(t *testing.T) {
	var m mean
	if m.get() != assumedRefill {
		t.Errorf("unmeasured: %s", m.get())
	}
	m.add(100 * time.Millisecond)
	m.add(200 * time.Millisecond)
	if m.get() != 120*time.Millisecond {
		t.Errorf("got %s", m.get())
	}
}

func TestBackoff(t *testing.T) {
	for failures, want := range []time.Duration{0, 1, 2, 4, 8, 16, 32, 60, 60} {
		if got := backoff(failures); got != want*time.Second {
			t.Errorf("after %d failures: %s, want %ds", failures, got, want)
		}
	}
	if backoff(1000) != time.Minute {
		t.Error("grows without end")
	}
}

func TestMissing(t *testing.T) {
	counts := func(warm, creating, resetting, claimed, closing int) map[store.GroupState]int {
		return map[store.GroupState]int{store.GroupWarm: warm, store.GroupCreating: creating,
			store.GroupResetting: resetting, store.GroupClaimed: claimed, store.GroupClosing: closing}
	}
	l := Limits{Floor: 1, Ceiling: 10}
	for _, c := range []struct {
		name            string
		counts          map[store.GroupState]int
		target, waiting int
		want            int
	}{
		{"empty", nil, 3, 0, 3},
		{"full", counts(3, 0, 0, 0, 0), 3, 0, 0},
		{"on the way", counts(1, 1, 1, 0, 0), 3, 0, 0},
		{"more than enough", counts(5, 0, 0, 0, 0), 3, 0, 0},
		{"waiting", counts(0, 1, 0, 0, 0), 1, 2, 2},
		{"ceiling", counts(0, 0, 0, 9, 0), 3, 4, 1},
		{"closing ones count against the ceiling", counts(0, 0, 0, 9, 1), 3, 4, 0},
		{"over the ceiling", counts(0, 0, 0, 15, 0), 3, 4, 0},
	} {
		if got := missing(l, c.target, c.counts, c.waiting); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func TestSurplus(t *testing.T) {
	now := time.Unix(1000, 0)
	g := func(id string, s store.GroupState, since, returned int64) store.Group {
		out := store.Group{ID: id, State: s, Since: time.Unix(since, 0)}
		if returned > 0 {
			out.ReturnedAt = time.Unix(returned, 0)
		}
		return out
	}
	groups := []store.Group{ // oldest first
		g("a", store.GroupWarm, 900, 890), g("b", store.GroupClaimed, 1, 0), g("c", store.GroupWarm, 999, 0),
		g("d", store.GroupWarm, 950, 0), g("e", store.GroupWarm, 940, 930),
	}
	for _, c := range []struct {
		name   string
		target int
		keep   time.Duration
		want   string
	}{
		{"all idle long enough, none wanted", 0, 0, "acde"},
		{"oldest first, target stays", 2, 0, "ac"},
		{"kept for a while", 0, 60 * time.Second, "ae"},
		{"at target", 4, 0, ""},
		{"nobody idle for long", 0, time.Hour, ""},
		{"target counts those that are kept too", 3, 60 * time.Second, "a"},
	} {
		got := ""
		for _, g := range surplus(groups, c.target, c.keep, now) {
			got += g.ID
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestOnStart(t *testing.T) {
	well, unwell, gone := sight{true, true, 2}, sight{true, false, 2}, sight{}
	older := sight{true, true, 1}
	for _, c := range []struct {
		state   store.GroupState
		s       sight
		current bool
		want    action
	}{
		{store.GroupWarm, well, true, actNothing},
		{store.GroupWarm, well, false, actClose},
		{store.GroupWarm, unwell, true, actClose},
		{store.GroupWarm, gone, true, actClose},
		{store.GroupWarm, older, true, actClose},
		{store.GroupClaimed, well, true, actNothing},
		{store.GroupClaimed, well, false, actNothing},
		{store.GroupClaimed, older, true, actNothing},
		{store.GroupClaimed, unwell, true, actRepair},
		{store.GroupClaimed, unwell, false, actRepair},
		{store.GroupClaimed, gone, true, actRepair},
		{store.GroupCreating, well, true, actClose},
		{store.GroupCreating, gone, true, actClose},
		{store.GroupResetting, well, true, actReset},
		{store.GroupResetting, older, true, actReset},
		{store.GroupResetting, unwell, true, actReset},
		{store.GroupResetting, gone, true, actClose},
		{store.GroupResetting, well, false, actClose},
		{store.GroupClosing, well, true, actClose},
		{store.GroupClosing, gone, false, actClose},
	} {
		g := store.Group{State: c.state, Generation: 2}
		if got := onStart(g, c.s, c.current); got != c.want {
			t.Errorf("%s, %+v, current %v: got %q, want %q", c.state, c.s, c.current, got, c.want)
		}
	}
}
