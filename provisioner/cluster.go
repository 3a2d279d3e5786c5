package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/remuda/remuda/store"
)

// Of pools that share a store one leads: it alone creates, resets, repairs and
// closes groups. The others serve tenants, and tell the leader what they did. Which
// one leads is decided by a lock, and when the leader ends, the next one begins
// like a pool after a restart.

const (
	leaderLock = "pool"
	statusNote = "pool" // what the leader knows and the store does not
	// statusEvery is how often that is looked at for news.
	statusEvery = 2 * time.Second
	// tellEvery is how long hits are collected before the leader is told.
	tellEvery = 20 * time.Millisecond
	// forgottenByOthers is forgottenAfter where others may have died before they
	// told what they did.
	forgottenByOthers = 9 * time.Second
)

func groupLock(id string) string { return "group/" + id }

// runShared runs a pool among others.
func (p *Pool) runShared(ctx context.Context) error {
	if err := p.saveDefinitions(ctx); err != nil {
		return err
	}
	defer p.o.Cluster.Listen(p.hear)()
	telling := make(chan struct{})
	go func() {
		defer close(telling)
		p.tellDemands(ctx)
	}()
	defer func() { <-telling }()
	for ctx.Err() == nil {
		if err := p.leadNext(ctx); err != nil && ctx.Err() == nil {
			p.o.Logger.Error("cannot lead the pool", "error", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// leadNext waits for its turn to lead, and leads.
func (p *Pool) leadNext(ctx context.Context) error {
	lease, err := p.o.Cluster.TryLock(ctx, leaderLock)
	if err == nil && lease == nil {
		p.open() // there is a leader
		lease, err = p.o.Cluster.Lock(ctx, leaderLock, false)
	}
	if err != nil {
		return err
	}
	defer lease.Release()
	led, done := lease.Context(ctx)
	defer done()
	p.o.Logger.Info("this broker leads the pool")
	err = p.lead(led)
	if errors.Is(context.Cause(led), store.ErrLost) {
		p.o.Logger.Warn("another broker leads the pool from now on")
	}
	return err
}

// begin and end of the time in which this pool leads. What it remembered of
// groups is of no use any more.
func (p *Pool) beginToLead(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, t := range p.tracks {
		if t.doing == actNothing {
			delete(p.tracks, id)
		} else {
			t.want = actNothing
		}
	}
	p.queues, p.dirty = map[action][]string{}, map[string]bool{}
	p.leading = ctx
}

func (p *Pool) endToLead() {
	p.mu.Lock()
	p.leading = nil
	p.mu.Unlock()
	p.jobs.Wait()
}

func (p *Pool) leads() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leading != nil
}

// asLeader does something in the background, if this pool leads.
func (p *Pool) asLeader(do func(context.Context)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx := p.leading; ctx != nil {
		p.jobs.Go(func() { do(ctx) })
	}
}

// tellLook tells the leader that a group's row has changed.
func (p *Pool) tellLook(id string) { p.o.Cluster.Tell("look " + id) }

// tellDemands tells the leader of instances that were asked for here.
func (p *Pool) tellDemands(ctx context.Context) {
	for {
		select {
		case <-p.asked:
		case <-ctx.Done():
			return
		}
		p.mu.Lock()
		all := p.demands
		p.demands = map[string]int{}
		p.mu.Unlock()
		for fingerprint, n := range all {
			p.o.Cluster.Tell("demand " + fingerprint + " " + strconv.Itoa(n))
		}
		select {
		case <-time.After(tellEvery):
		case <-ctx.Done():
			return
		}
	}
}

// hear is told what other pools did; "" when some of that was missed.
func (p *Pool) hear(message string) {
	words := strings.Fields(message)
	switch {
	case len(words) == 0:
		p.mu.Lock()
		for _, l := range p.lanes {
			p.dirty[l.fingerprint] = true
		}
		p.sweepNow = true
		p.mu.Unlock()
		p.rouse()
	case words[0] == "look" && len(words) == 2:
		p.asLeader(func(ctx context.Context) {
			if err := p.lookAt(ctx, words[1]); err != nil && ctx.Err() == nil {
				p.o.Logger.Error("cannot look at group", "group", words[1], "error", err)
			}
		})
	case words[0] == "demand" && len(words) == 3:
		n, _ := strconv.Atoi(words[2])
		p.asLeader(func(ctx context.Context) {
			// A newer broker may have other definitions than the one that leads.
			if err := p.openLane(ctx, words[1]); err != nil {
				p.o.Logger.Error("unknown definition is asked for", "definition", words[1], "error", err)
				return
			}
			p.arrived(words[1], min(n, 10000))
			p.stir(words[1])
		})
	}
}

// lookAt orders what follows from the row of a group that another pool changed.
// Its tenant is cut off already.
func (p *Pool) lookAt(ctx context.Context, id string) error {
	_, row, err := p.group(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.openLane(ctx, row.Fingerprint); err != nil {
		return err
	}
	p.mu.Lock()
	p.track(id, row.Fingerprint).fingerprint = row.Fingerprint
	current := p.lanes[row.Fingerprint].current
	p.mu.Unlock()
	switch {
	case row.State == store.GroupClosing:
		p.enqueue(id, row.Fingerprint, actClose)
	case row.State == store.GroupResetting && current:
		p.enqueue(id, row.Fingerprint, actReset)
	case row.State == store.GroupResetting:
		return p.condemn(ctx, id, "of an old definition", store.GroupResetting)
	}
	return nil
}

// lockGroup keeps other pools from working on a group; cancel is called when one
// of them must.
func (p *Pool) lockGroup(ctx context.Context, id string, cancel context.CancelFunc) (unlock func(), err error) {
	if p.o.Cluster == nil {
		return func() {}, nil
	}
	ctx, stop := context.WithTimeout(ctx, cutoffTime)
	defer stop()
	lease, err := p.o.Cluster.Lock(ctx, groupLock(id), true)
	if err != nil {
		return nil, fmt.Errorf("lock group %q: %w", id, err)
	}
	return held(lease, cancel), nil
}

// held calls cancel when the lock is lost, until it is unlocked.
func held(lease store.Lease, cancel context.CancelFunc) (unlock func()) {
	ctx, done := lease.Context(context.Background())
	stop := context.AfterFunc(ctx, cancel)
	return func() {
		stop()
		done()
		lease.Release()
	}
}

// waitGone waits until the leader has closed a group.
func (p *Pool) waitGone(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	for {
		_, _, err := p.group(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of group %q: %w", id, ctx.Err())
		}
	}
}

// status is what the leader tells all others of a definition.
type status struct {
	Target  int    `json:"target"`
	Trouble string `json:"trouble,omitempty"`
}

// tellStatus keeps the others informed.
func (p *Pool) tellStatus(ctx context.Context) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for last := ""; ; {
		all := map[string]status{}
		p.mu.Lock()
		for f, l := range p.lanes {
			all[f] = status{Target: l.target(time.Now()), Trouble: l.trouble}
		}
		p.mu.Unlock()
		if text, err := json.Marshal(all); err == nil && string(text) != last {
			if p.o.Cluster.SetNote(ctx, statusNote, string(text)) == nil {
				last = string(text)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// leaderStatus is what the leader told; nil where this pool knows better.
func (p *Pool) leaderStatus(ctx context.Context) map[string]status {
	if p.o.Cluster == nil || p.leads() {
		return nil
	}
	text, err := p.o.Cluster.Note(ctx, statusNote)
	all := map[string]status{}
	if err != nil || json.Unmarshal([]byte(text), &all) != nil {
		return nil
	}
	return all
}
