package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/remuda/remuda/store"
)

// reconcile compares the store with the back end when the pool starts: adopts,
// and orders what is to be done. It waits for the cutting off of those who gave
// their groups back, but for no other work.
func (p *Pool) reconcile(ctx context.Context) error {
	if err := p.saveDefinitions(ctx); err != nil {
		return err
	}
	seen, err := p.firstList(ctx)
	if err != nil {
		return err
	}
	rows, waiting, err := p.rows(ctx)
	if err != nil {
		return err
	}
	for _, f := range waiting {
		if err := p.openLane(ctx, f); err != nil {
			return err
		}
	}
	var cut sync.WaitGroup
	defer cut.Wait()
	known := map[string]bool{}
	for _, row := range rows {
		known[row.ID] = true
		if err := p.openLane(ctx, row.Fingerprint); err != nil {
			p.o.Logger.Error("definition of group is lost", "group", row.ID, "error", err)
		}
		o, there := seen[row.ID]
		if err := p.adopt(ctx, row, sightOf(o, there), &cut); err != nil {
			return err
		}
	}
	for id := range seen {
		if !known[id] {
			p.o.Logger.Warn("group of the back end is unknown and will be closed", "group", id)
			p.enqueue(id, "", actClose)
		}
	}
	return nil
}

// adopt takes over one group.
func (p *Pool) adopt(ctx context.Context, row store.Group, s sight, cut *sync.WaitGroup) error {
	p.mu.Lock()
	p.track(row.ID, row.Fingerprint)
	l := p.lanes[row.Fingerprint]
	p.mu.Unlock()
	switch a := onStart(row, s, l != nil && l.current); a {
	case actRepair:
		p.enqueue(row.ID, row.Fingerprint, actRepair)
	case actReset, actClose:
		if row.State == store.GroupResetting && s.there {
			cut.Go(func() {
				if err := p.cutOff(ctx, row.ID); err != nil && ctx.Err() == nil {
					p.o.Logger.Error("cannot cut off former tenant", "group", row.ID, "error", err)
				}
			})
			return nil
		}
		return p.condemn(ctx, row.ID, "found "+string(row.State)+" at start", row.State)
	}
	return nil
}

func (p *Pool) saveDefinitions(ctx context.Context) error {
	return p.o.Store.Update(ctx, func(tx store.Tx) error {
		for _, d := range p.o.Definitions {
			f := d.Fingerprint()
			if _, err := tx.Definitions().Get(f); err == nil {
				continue
			} else if !errors.Is(err, store.ErrNotFound) {
				return err
			}
			body, err := json.Marshal(d)
			if err != nil {
				return fmt.Errorf("save definition: %w", err)
			}
			if err := tx.Definitions().Put(store.Definition{Fingerprint: f, Offering: d.Offering, Plan: d.Plan, Body: body, CreatedAt: time.Now()}); err != nil {
				return err
			}
		}
		return nil
	})
}

// firstList waits for the back end as long as it is not there.
func (p *Pool) firstList(ctx context.Context) (map[string]Observation, error) {
	for failures := 1; ; failures++ {
		seen, err := p.list(ctx)
		if err == nil {
			return seen, nil
		}
		p.o.Logger.Error("back end does not answer", "error", err)
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(backoff(failures)):
		}
	}
}

// rows returns all groups, and the definitions that instances wait for.
func (p *Pool) rows(ctx context.Context) (groups []store.Group, waiting []string, err error) {
	err = p.o.Store.View(ctx, func(tx store.Tx) (err error) {
		if groups, err = tx.Groups().List(); err != nil {
			return err
		}
		creating, err := tx.Instances().InState(store.InstanceCreating)
		waiting = nil
		for _, i := range creating {
			waiting = append(waiting, i.Fingerprint)
		}
		return err
	})
	return groups, waiting, err
}

// openLane makes a lane for a definition that is not current any more, but has
// groups or is waited for.
func (p *Pool) openLane(ctx context.Context, fingerprint string) error {
	d, err := p.definition(ctx, fingerprint)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lanes[fingerprint] == nil {
		p.lanes[fingerprint] = &lane{fingerprint: fingerprint, definition: d, limits: p.limitsOf(d)}
	}
	return nil
}
