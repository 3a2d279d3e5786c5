package provisioner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/remuda/remuda/store"
)

const (
	monitorEvery = time.Second
	listTime     = 30 * time.Second
)

// monitor looks at the back end every second. A slow List holds up nothing but
// the next look.
func (p *Pool) monitor(ctx context.Context) {
	tick := time.NewTicker(monitorEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := p.inspect(ctx); err != nil && ctx.Err() == nil {
			p.o.Logger.Error("cannot inspect groups", "error", err)
		}
	}
}

// inspect compares what the back end shows with what there should be. Only
// groups that are not well cost a look into the store.
func (p *Pool) inspect(ctx context.Context) error {
	p.mu.Lock()
	before := p.clock
	known := make([]string, 0, len(p.tracks))
	for id := range p.tracks {
		known = append(known, id)
	}
	p.mu.Unlock()
	seen, err := p.list(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range known {
		o, there := seen[id]
		if s := sightOf(o, there); !s.healthy || !p.isCurrent(id) {
			errs = append(errs, p.examine(ctx, id, s, before))
		}
	}
	for id := range seen {
		p.mu.Lock()
		t := p.tracks[id]
		p.mu.Unlock()
		if t == nil {
			errs = append(errs, p.meet(ctx, id))
		}
	}
	return errors.Join(errs...)
}

func (p *Pool) list(ctx context.Context) (map[string]Observation, error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	all, err := p.o.Backend.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	seen := make(map[string]Observation, len(all))
	for _, o := range all {
		seen[o.ID] = o
	}
	p.mu.Lock()
	p.seen = seen
	p.mu.Unlock()
	return seen, nil
}

func (p *Pool) isCurrent(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tracks[id]
	if t == nil {
		return true
	}
	l := p.lanes[t.fingerprint]
	return l != nil && l.current
}

// settled says whether nobody works on the group, nor has since the clock
// showed before.
func (p *Pool) settled(id string, before uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tracks[id].settled(before)
}

func (t *track) settled(before uint64) bool {
	return t != nil && t.want == actNothing && t.doing == actNothing && t.ended <= before
}

// examine decides about a group that does not look well.
func (p *Pool) examine(ctx context.Context, id string, s sight, before uint64) error {
	if !p.settled(id, before) {
		return nil // what was seen says nothing of what is now
	}
	_, row, err := p.group(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		if s.there {
			p.enqueue(id, "", actClose)
		} else {
			p.drop(id, before)
		}
		return nil
	}
	if err != nil {
		return err
	}
	switch watch(row, s, p.isCurrent(id)) {
	case actRepair:
		p.enqueue(id, row.Fingerprint, actRepair)
	case actClose:
		return p.condemn(ctx, id, "not healthy, or of an old definition", store.GroupWarm)
	}
	return nil
}

// drop forgets a track of which nothing is left.
func (p *Pool) drop(id string, before uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tracks[id].settled(before) {
		delete(p.tracks, id)
	}
}

// meet gets to know a group of the back end that this pool has not made: another
// pool on the same store has, or nobody remembers it.
func (p *Pool) meet(ctx context.Context, id string) error {
	_, row, err := p.group(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		p.enqueue(id, "", actClose)
		return nil
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.track(id, row.Fingerprint)
	p.mu.Unlock()
	return nil
}
