package provisioner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/remuda/remuda/store"
)

// How long a call of the back end may take.
const (
	createTime = 2 * time.Minute
	resetTime  = time.Minute
	repairTime = 2 * time.Minute
	closeTime  = time.Minute
	cutoffTime = 10 * time.Second
	// patience is how long work counts against the parallel limits. What takes
	// longer hangs more than it works, and must not hold up others.
	patience = 15 * time.Second
)

// start works on a group in a goroutine of its own. Nobody else works on it.
func (p *Pool) start(ctx context.Context, id, fingerprint string, a action) {
	do := map[action]struct {
		work func(context.Context, string) error
		time time.Duration
	}{
		actCreate: {p.create, createTime},
		actReset:  {p.reset, resetTime},
		actRepair: {p.repair, repairTime},
		actClose:  {p.finish, closeTime},
	}[a]
	bounded, cancel := context.WithTimeout(ctx, do.time)
	p.mu.Lock()
	t := p.track(id, fingerprint)
	if t.doing != actNothing { // cannot be: only the loop starts work
		p.mu.Unlock()
		cancel()
		return
	}
	p.engage(id, t, a, cancel)
	p.mu.Unlock()
	p.jobs.Go(func() {
		defer cancel()
		begun := time.Now()
		err := do.work(bounded, id)
		p.end(ctx, id, a, time.Since(begun), err)
	})
}

// engage marks that the group is worked on. p.mu is held.
func (p *Pool) engage(id string, t *track, a action, cancel context.CancelFunc) {
	t.doing, t.started, t.cancel, t.done = a, time.Now(), cancel, make(chan struct{})
	if t.want == a {
		t.want = actNothing
	}
	p.active[id] = t
}

// end remembers how work ended, and orders what follows from it.
func (p *Pool) end(ctx context.Context, id string, a action, took time.Duration, err error) {
	p.mu.Lock()
	t := p.tracks[id]
	p.disengage(id, t)
	fingerprint := t.fingerprint
	l := p.lanes[fingerprint]
	stopped := err != nil && ctx.Err() != nil
	switch {
	case stopped:
	case a == actCreate && l != nil:
		l.note(took, err)
	case a == actReset && l != nil && err == nil:
		l.refill.add(took)
	case err == nil:
		t.failures, t.notBefore = 0, time.Time{}
	case a == actRepair, a == actClose:
		t.failures++
		t.notBefore = time.Now().Add(backoff(t.failures))
	}
	if a == actClose {
		if err == nil {
			delete(p.tracks, id)
		} else if t.want != actClose {
			t.want = actClose
			p.queues[actClose] = append(p.queues[actClose], id)
		}
	}
	p.mu.Unlock()
	if !stopped {
		p.report(id, a, l, took, err)
	}
	p.stir(fingerprint)
}

// disengage marks that nobody works on the group. p.mu is held.
func (p *Pool) disengage(id string, t *track) {
	close(t.done)
	p.clock++
	t.doing, t.ended = actNothing, p.clock
	delete(p.active, id)
}

// note remembers how a create ended. The pool's mu is held.
func (l *lane) note(took time.Duration, err error) {
	if err == nil {
		l.failures, l.trouble = 0, ""
		l.refill.add(took)
		return
	}
	l.failures++
	l.retryAt = time.Now().Add(backoff(l.failures))
	l.trouble = fmt.Sprintf("Creating a group of %s/%s has failed %d times in a row, last at %s: %v.",
		l.definition.Offering, l.definition.Plan, l.failures, time.Now().UTC().Format(time.RFC3339), err)
}

func (p *Pool) report(id string, a action, l *lane, took time.Duration, err error) {
	var d Definition
	if l != nil {
		d = l.definition
	}
	p.o.Metrics.Worked(string(a), d.Offering, d.Plan, took, err)
	log := p.o.Logger.With("group", id, "work", string(a), "offering", d.Offering, "plan", d.Plan, "took", took)
	if err != nil {
		log.Warn("work on group failed", "error", err)
		return
	}
	log.Info("work on group done")
}

// create, reset, repair and finish work on a group that is in the state for it
// already. What they find in another state they leave alone.

func (p *Pool) create(ctx context.Context, id string) error {
	return p.serve(ctx, id, store.GroupCreating, p.o.Backend.Create)
}

func (p *Pool) reset(ctx context.Context, id string) error {
	return p.serve(ctx, id, store.GroupResetting, p.o.Backend.Reset)
}

// serve brings a group to where it serves, and then to whoever waits. When that
// fails, the group is closed.
func (p *Pool) serve(ctx context.Context, id string, from store.GroupState, call func(context.Context, Group) (Observation, error)) error {
	g, row, err := p.group(ctx, id)
	if err != nil || row.State != from {
		return err
	}
	g.Endpoints = nil
	o, err := call(ctx, g)
	if err == nil && !o.Healthy() {
		err = errors.New("group is not healthy")
	}
	persist := context.WithoutCancel(ctx) // the outcome of a finished call is kept
	if err != nil {
		if !errors.Is(ctx.Err(), context.Canceled) { // not because the pool ends
			if e := p.condemn(persist, id, err.Error(), from); e != nil {
				err = errors.Join(err, e)
			}
		}
		return err
	}
	var waiter string
	err = p.o.Store.Update(persist, func(tx store.Tx) error {
		waiter = ""
		now, err := tx.Groups().Get(id)
		if err != nil || now.State != from {
			return err
		}
		now.Endpoints = o.Endpoints
		waiter, err = settle(tx, now, time.Now())
		return err
	})
	if err != nil {
		// As far as the store knows it is half-made; so it must not stay.
		p.enqueue(id, row.Fingerprint, actClose)
		return fmt.Errorf("store that group serves: %w", err)
	}
	p.assigned(waiter)
	return nil
}

func (p *Pool) repair(ctx context.Context, id string) error {
	g, row, err := p.group(ctx, id)
	if err != nil || row.State != store.GroupClaimed {
		return err
	}
	if p.o.Cluster != nil {
		lease, err := p.o.Cluster.TryLock(ctx, groupLock(id))
		if err != nil || lease == nil {
			return err // another pool works on it; if it is not well then, it is ordered again
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer held(lease, cancel)()
	}
	o, err := p.o.Backend.Repair(ctx, g)
	if err == nil && !o.Healthy() {
		err = errors.New("group is not healthy after its repair")
	}
	return err
}

// finish closes a group in state closing, and one that the store does not know.
func (p *Pool) finish(ctx context.Context, id string) error {
	err := p.o.Store.Update(ctx, func(tx store.Tx) error {
		g, err := tx.Groups().Get(id)
		if errors.Is(err, store.ErrNotFound) || err == nil && g.State == store.GroupClosing {
			return nil
		}
		if err != nil {
			return err
		}
		if g.State == store.GroupWarm || g.State == store.GroupClaimed {
			return errKept
		}
		g.State, g.Since = store.GroupClosing, time.Now()
		return tx.Groups().Put(g)
	})
	if errors.Is(err, errKept) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.o.Backend.Close(ctx, id); err != nil {
		return err
	}
	return p.forget(context.WithoutCancel(ctx), id)
}

var errKept = errors.New("group is in use")

// forget deletes the row of a group that is gone.
func (p *Pool) forget(ctx context.Context, id string) error {
	return p.o.Store.Update(ctx, func(tx store.Tx) error {
		g, err := tx.Groups().Get(id)
		if errors.Is(err, store.ErrNotFound) || err == nil && g.State != store.GroupClosing {
			return nil
		}
		if err != nil {
			return err
		}
		return tx.Groups().Delete(id)
	})
}

// condemn moves a group from one of the states to closing, and orders the rest.
// A group in another state is left alone.
func (p *Pool) condemn(ctx context.Context, id, reason string, from ...store.GroupState) error {
	var fingerprint string
	err := p.o.Store.Update(ctx, func(tx store.Tx) error {
		fingerprint = ""
		g, err := tx.Groups().Get(id)
		if errors.Is(err, store.ErrNotFound) || err == nil && !slices.Contains(from, g.State) {
			return nil
		}
		if err != nil {
			return err
		}
		fingerprint = g.Fingerprint
		if g.State != store.GroupClosing {
			g.State, g.Since, g.Reason, g.InstanceID = store.GroupClosing, time.Now(), reason, ""
		}
		return tx.Groups().Put(g)
	})
	if err != nil {
		return fmt.Errorf("close group %q: %w", id, err)
	}
	if fingerprint != "" {
		p.enqueue(id, fingerprint, actClose)
	}
	return nil
}
