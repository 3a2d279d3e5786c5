package provisioner

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"sort"
	"time"

	"github.com/remuda/remuda/store"
)

const (
	surplusEvery = 5 * time.Second
	sweepEvery   = 10 * time.Second
	// forgottenAfter is when a group in a passing state that nobody works on
	// counts as forgotten. Longer than any work takes.
	forgottenAfter = 5 * time.Minute
)

// step looks at the lanes (those that something happened to, or all), gives
// warm groups to whoever waits, and begins what there is to do.
func (p *Pool) step(ctx context.Context, all bool) {
	p.mu.Lock()
	var lanes []*lane
	for f, l := range p.lanes {
		if all || p.dirty[f] {
			lanes = append(lanes, l)
		}
	}
	p.dirty = map[string]bool{}
	if p.sweepNow {
		p.sweepNow = false
		for _, l := range lanes {
			l.sweepAt = time.Time{}
		}
	}
	p.mu.Unlock()
	for _, l := range lanes {
		if err := p.look(ctx, l); err != nil && ctx.Err() == nil {
			p.o.Logger.Error("cannot look after pool", "definition", l.fingerprint, "error", err)
		}
	}
	p.dispatch(ctx)
	p.refill(ctx)
}

func (p *Pool) target(l *lane, now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return l.target(now)
}

// look reads how a lane stands, assigns, and closes surplus.
func (p *Pool) look(ctx context.Context, l *lane) error {
	if err := p.read(ctx, l); err != nil {
		return err
	}
	for l.waiting > 0 && l.counts[store.GroupWarm] > 0 {
		id, err := p.assign(ctx, l.fingerprint)
		if err != nil {
			return err
		}
		if err := p.read(ctx, l); err != nil {
			return err
		}
		if id == "" {
			break
		}
		p.assigned(id)
	}
	now := time.Now()
	if l.waiting == 0 && l.counts[store.GroupWarm] > p.target(l, now) && !now.Before(l.surplusAt) {
		l.surplusAt = now.Add(surplusEvery)
		if err := p.closeSurplus(ctx, l); err != nil {
			return err
		}
	}
	if !now.Before(l.sweepAt) {
		l.sweepAt = now.Add(sweepEvery)
		return p.sweep(ctx, l)
	}
	return nil
}

// read refreshes what the lane knows of the store.
func (p *Pool) read(ctx context.Context, l *lane) error {
	return p.o.Store.View(ctx, func(tx store.Tx) error {
		counts, err := tx.Groups().Count(l.fingerprint)
		if err != nil {
			return err
		}
		waiting, err := tx.Instances().CountWaiting(l.fingerprint)
		if err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		l.counts, l.waiting = counts, waiting
		return nil
	})
}

// assign gives the group that has been warm longest to the instance that has
// waited longest. It returns the instance's id, or "" when there is none of either.
func (p *Pool) assign(ctx context.Context, fingerprint string) (id string, err error) {
	err = p.o.Store.Update(ctx, func(tx store.Tx) error {
		id = ""
		waiting, err := tx.Instances().Waiting(fingerprint, 1)
		if err != nil || len(waiting) == 0 {
			return err
		}
		inst := waiting[0]
		g, err := tx.Groups().ClaimWarm(fingerprint, inst.ID, time.Now())
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		id, inst.GroupID = inst.ID, g.ID
		return tx.Instances().Put(inst)
	})
	return id, err
}

// settle makes a group that now serves warm, or gives it to the instance that
// has waited longest, whose id it returns.
func settle(tx store.Tx, g store.Group, now time.Time) (instanceID string, err error) {
	g.State, g.Since, g.Reason = store.GroupWarm, now, ""
	waiting, err := tx.Instances().Waiting(g.Fingerprint, 1)
	if err != nil {
		return "", err
	}
	if len(waiting) > 0 {
		inst := waiting[0]
		inst.GroupID = g.ID
		g.State, g.InstanceID, instanceID = store.GroupClaimed, inst.ID, inst.ID
		if err := tx.Instances().Put(inst); err != nil {
			return "", err
		}
	}
	return instanceID, tx.Groups().Put(g)
}

func (p *Pool) closeSurplus(ctx context.Context, l *lane) error {
	var groups []store.Group
	err := p.o.Store.View(ctx, func(tx store.Tx) (err error) {
		groups, err = tx.Groups().Of(l.fingerprint)
		return err
	})
	if err != nil {
		return err
	}
	keep := l.limits.Keep
	if !l.current {
		keep = 0
	}
	now := time.Now()
	for _, g := range surplus(groups, p.target(l, now), keep, now) {
		if err := p.condemn(ctx, g.ID, "surplus", store.GroupWarm); err != nil {
			return err
		}
	}
	return nil
}

// sweep finds groups in a passing state that nobody works on, because their
// owner died between its transaction and its work.
func (p *Pool) sweep(ctx context.Context, l *lane) error {
	if l.counts[store.GroupCreating]+l.counts[store.GroupResetting]+l.counts[store.GroupClosing] <= p.passing(l.fingerprint) {
		return nil
	}
	var groups []store.Group
	err := p.o.Store.View(ctx, func(tx store.Tx) (err error) {
		groups, err = tx.Groups().Of(l.fingerprint)
		return err
	})
	if err != nil {
		return err
	}
	forgotten := forgottenAfter
	if p.o.Cluster != nil {
		forgotten = forgottenByOthers
	}
	for _, g := range groups {
		if time.Since(g.Since) < forgotten || p.engaged(g.ID) {
			continue
		}
		switch g.State {
		case store.GroupResetting:
			p.jobs.Go(func() { _ = p.Release(ctx, g.ID) })
		case store.GroupCreating, store.GroupClosing:
			if err := p.condemn(ctx, g.ID, "forgotten", g.State); err != nil {
				return err
			}
		}
	}
	return nil
}

// refill begins to create what is missing, in turn for all definitions, those
// without trouble first, until the limit is reached.
func (p *Pool) refill(ctx context.Context) {
	p.mu.Lock()
	lanes := make([]*lane, 0, len(p.lanes))
	for _, l := range p.lanes {
		lanes = append(lanes, l)
	}
	p.mu.Unlock()
	for begun := true; begun; {
		begun = false
		sort.Slice(lanes, func(i, j int) bool {
			a, b := p.rank(lanes[i]), p.rank(lanes[j])
			return a < b || a == b && lanes[i].fingerprint < lanes[j].fingerprint
		})
		for _, l := range lanes {
			if ctx.Err() == nil && p.wants(l) && p.begin(ctx, l) {
				begun = true
			}
		}
	}
}

// rank orders lanes: fewest creates under way first, failing ones last.
func (p *Pool) rank(l *lane) int {
	_, same := p.running(actCreate, l.fingerprint)
	p.mu.Lock()
	defer p.mu.Unlock()
	return same + 1000*min(l.failures, 1)
}

// wants says whether a create of the lane may begin now.
func (p *Pool) wants(l *lane) bool {
	now := time.Now()
	p.mu.Lock()
	need := missing(l.limits, l.target(now), l.counts, l.waiting) > 0 && !now.Before(l.retryAt)
	failing := l.failures > 0
	p.mu.Unlock()
	if !need || p.repairing() {
		return false
	}
	young, same := p.running(actCreate, l.fingerprint)
	if failing && same > 0 {
		return false // one attempt at a time
	}
	return young < p.o.Creates && same < p.o.Creates
}

// begin stores that a group will be created, if it still is needed, and begins.
func (p *Pool) begin(ctx context.Context, l *lane) bool {
	g := store.Group{ID: newGroupID(), Fingerprint: l.fingerprint, State: store.GroupCreating, Generation: 1}
	var needed bool
	err := p.o.Store.Update(ctx, func(tx store.Tx) error {
		counts, err := tx.Groups().Count(l.fingerprint)
		if err != nil {
			return err
		}
		waiting, err := tx.Instances().CountWaiting(l.fingerprint)
		if err != nil {
			return err
		}
		now := time.Now()
		p.mu.Lock()
		l.counts, l.waiting = counts, waiting
		needed = missing(l.limits, l.target(now), counts, waiting) > 0
		p.mu.Unlock()
		if !needed {
			return nil
		}
		g.CreatedAt, g.Since = now, now
		return tx.Groups().Put(g)
	})
	if err != nil {
		p.o.Logger.Error("cannot begin to create group", "definition", l.fingerprint, "error", err)
		return false
	}
	if !needed {
		return false
	}
	p.mu.Lock()
	if l.counts != nil {
		l.counts[store.GroupCreating]++
	}
	p.mu.Unlock()
	p.start(ctx, g.ID, g.Fingerprint, actCreate)
	return true
}

func newGroupID() string {
	b := make([]byte, 8)
	rand.Read(b) // never fails
	return "g" + hex.EncodeToString(b)
}
