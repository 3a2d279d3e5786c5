package provisioner

import (
	"context"
	"time"
)

const (
	repairs = 8 // at the same time
	closes  = 4
)

// track is what the pool remembers of a group besides the store.
type track struct {
	fingerprint string
	want        action // queued
	doing       action
	started     time.Time
	cancel      context.CancelFunc // of doing
	done        chan struct{}      // closed when doing has ended
	ended       uint64             // p.clock when work on it last ended
	failures    int                // of repair or close, in a row
	notBefore   time.Time
}

// track returns the group's track, made when it is not there. p.mu is held.
func (p *Pool) track(id, fingerprint string) *track {
	t := p.tracks[id]
	if t == nil {
		t = &track{fingerprint: fingerprint}
		p.tracks[id] = t
	}
	return t
}

// enqueue orders work on a group, or has the leader do so. Closing it replaces whatever was ordered.
func (p *Pool) enqueue(id, fingerprint string, a action) {
	p.mu.Lock()
	if p.leading == nil && p.o.Cluster != nil {
		p.mu.Unlock()
		p.tellLook(id)
		return
	}
	t := p.track(id, fingerprint)
	if t.want != a && t.want != actClose {
		if a != actRepair { // that is ordered again every second
			t.failures, t.notBefore = 0, time.Time{}
		}
		t.want = a
		p.queues[a] = append(p.queues[a], id)
	}
	p.mu.Unlock()
	p.stir(fingerprint)
}

// engaged says whether work on the group is ordered or under way.
func (p *Pool) engaged(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tracks[id]
	return t != nil && (t.want != actNothing || t.doing != actNothing)
}

// passing counts the definition's groups that are worked on, or will be.
func (p *Pool) passing(fingerprint string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.tracks {
		if t.fingerprint == fingerprint && (t.want != actNothing && t.want != actRepair || t.doing != actNothing && t.doing != actRepair) {
			n++
		}
	}
	return n
}

// running counts work under way: that which has not lost its slot yet (young),
// and that for the same definition.
func (p *Pool) running(a action, fingerprint string) (young, same int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runningLocked(a, fingerprint)
}

func (p *Pool) runningLocked(a action, fingerprint string) (young, same int) {
	for _, t := range p.active {
		if t.doing != a {
			continue
		}
		if time.Since(t.started) < patience {
			young++
		}
		if t.fingerprint == fingerprint {
			same++
		}
	}
	return young, same
}

// repairing says whether tenants' groups wait for their repair: those go before
// anything new.
func (p *Pool) repairing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range p.queues[actRepair] {
		if t := p.tracks[id]; t != nil && t.want == actRepair && !time.Now().Before(t.notBefore) {
			return true
		}
	}
	young, _ := p.runningLocked(actRepair, "")
	return young > 0
}

// dispatch begins queued work as far as the limits allow.
func (p *Pool) dispatch(ctx context.Context) {
	for _, kind := range []struct {
		action action
		limit  int
	}{{actRepair, repairs}, {actClose, closes}, {actReset, p.o.Resets}} {
		for _, id := range p.due(kind.action, kind.limit) {
			p.start(ctx, id, "", kind.action)
		}
	}
}

// due takes from a queue what may begin now.
func (p *Pool) due(a action, limit int) (ids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	young, _ := p.runningLocked(a, "")
	same := map[string]int{}
	for _, t := range p.active {
		if t.doing == a {
			same[t.fingerprint]++
		}
	}
	now := time.Now()
	var rest []string
	for _, id := range p.queues[a] {
		t := p.tracks[id]
		if t == nil || t.want != a {
			continue // replaced
		}
		if t.doing != actNothing || now.Before(t.notBefore) || young >= limit || same[t.fingerprint] >= limit {
			rest = append(rest, id)
			continue
		}
		young++
		same[t.fingerprint]++
		ids = append(ids, id)
	}
	p.queues[a] = rest
	return ids
}
