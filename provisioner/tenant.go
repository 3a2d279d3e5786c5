package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/store"
)

// definition returns a definition, current or not.
func (p *Pool) definition(ctx context.Context, fingerprint string) (Definition, error) {
	p.mu.Lock()
	d, ok := p.definitions[fingerprint]
	p.mu.Unlock()
	if ok {
		return d, nil
	}
	var saved store.Definition
	err := p.o.Store.View(ctx, func(tx store.Tx) (err error) {
		saved, err = tx.Definitions().Get(fingerprint)
		return err
	})
	if err == nil {
		err = json.Unmarshal(saved.Body, &d)
	}
	if err != nil {
		return d, fmt.Errorf("load definition %q: %w", fingerprint, err)
	}
	p.mu.Lock()
	p.definitions[fingerprint] = d
	p.mu.Unlock()
	return d, nil
}

// group loads a group as back ends want it, and its row.
func (p *Pool) group(ctx context.Context, id string) (Group, store.Group, error) {
	var row store.Group
	err := p.o.Store.View(ctx, func(tx store.Tx) (err error) {
		row, err = tx.Groups().Get(id)
		return err
	})
	if err != nil {
		return Group{}, row, fmt.Errorf("load group %q: %w", id, err)
	}
	d, err := p.definition(ctx, row.Fingerprint)
	return Group{ID: row.ID, Generation: row.Generation, Definition: d, Endpoints: row.Endpoints}, row, err
}

func (p *Pool) claimed(ctx context.Context, id string) (Group, error) {
	g, row, err := p.group(ctx, id)
	if err == nil && row.State != store.GroupClaimed {
		err = fmt.Errorf("group %q is %s and has no tenant", id, row.State)
	}
	return g, err
}

// Publish opens the endpoints of a claimed group.
func (p *Pool) Publish(ctx context.Context, groupID string) error {
	g, err := p.claimed(ctx, groupID)
	if err != nil {
		return err
	}
	return p.o.Backend.Publish(ctx, g)
}

// Program runs one of the recipe's programs in a claimed group with
// catalog.HookValues; host and ports are added. It returns the program's output.
// Nothing happens where the recipe has no such program.
func (p *Pool) Program(ctx context.Context, groupID, which string, values map[string]any) (map[string]string, error) {
	g, err := p.claimed(ctx, groupID)
	if err != nil {
		return nil, err
	}
	program, err := g.Definition.Recipe.Program(which)
	if err != nil || program == nil {
		return nil, err
	}
	return p.o.Backend.Program(ctx, g, which, located(values, g.Endpoints))
}

// Access renders what a binding gets with catalog.CredentialValues; host and
// ports are added.
func (p *Pool) Access(ctx context.Context, groupID string, values map[string]any) (catalog.Access, error) {
	g, err := p.claimed(ctx, groupID)
	if err != nil {
		return catalog.Access{}, err
	}
	return g.Definition.Recipe.RenderAccess(located(values, g.Endpoints))
}

// located adds where the group is published.
func located(values map[string]any, endpoints []store.Endpoint) map[string]any {
	out := maps.Clone(values)
	if out == nil {
		out = map[string]any{}
	}
	ports := map[string]int{}
	for _, e := range endpoints {
		ports[e.Name] = e.Port
	}
	out["ports"], out["host"] = ports, ""
	if len(endpoints) > 0 {
		out["host"] = endpoints[0].Host
	}
	return out
}

// Release cuts the former tenant of a resetting group off, and returns nil when
// nothing of it gets in any more; the reset goes on behind. It also finishes
// when ctx ends. After an error it may be repeated.
func (p *Pool) Release(ctx context.Context, groupID string) error {
	return p.cutOff(context.WithoutCancel(ctx), groupID)
}

// cutOff ends what the former tenant still has, by closing the group if nothing
// else helps, and orders what comes next.
func (p *Pool) cutOff(ctx context.Context, id string) error {
	done, free := p.seize(ctx, id)
	defer done()
	_, row, err := p.group(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil // closed already
	}
	if err != nil {
		return err
	}
	if row.State != store.GroupResetting && row.State != store.GroupClosing {
		return nil // clean, and perhaps another's already
	}
	if !free {
		return p.closeNow(ctx, row, false, fmt.Errorf("work on group %q does not end", row.ID))
	}
	p.mu.Lock()
	p.track(id, row.Fingerprint).fingerprint = row.Fingerprint
	l := p.lanes[row.Fingerprint]
	p.mu.Unlock()
	next := 0
	if row.State == store.GroupResetting && l != nil && l.current {
		next = row.Generation
	}
	bounded, cancel := context.WithTimeout(ctx, cutoffTime)
	err = p.o.Backend.Cutoff(bounded, id, next)
	cancel()
	if err != nil {
		return p.closeNow(ctx, row, true, err)
	}
	if next > 0 {
		p.enqueue(id, row.Fingerprint, actReset)
		return nil
	}
	return p.condemn(ctx, id, "of an old definition", store.GroupResetting, store.GroupClosing)
}

// closeNow closes a group whose tenant could not be cut off.
func (p *Pool) closeNow(ctx context.Context, row store.Group, free bool, cause error) error {
	p.o.Logger.Error("cannot cut off tenant, closing its group", "group", row.ID, "error", cause)
	if err := p.condemn(ctx, row.ID, "cutoff failed: "+cause.Error(), store.GroupResetting, store.GroupClosing); err != nil {
		return errors.Join(cause, err)
	}
	if !free {
		return cause // it is closed as soon as the other work has ended
	}
	if p.o.Cluster != nil && !p.leads() {
		return p.waitGone(ctx, row.ID)
	}
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	if err := p.finish(ctx, row.ID); err != nil {
		return fmt.Errorf("close group %q: %w", row.ID, errors.Join(err, cause))
	}
	return nil // the ordered close finds nothing to do, and forgets the group
}

// seize stops work on the group and keeps the pool from beginning any until
// done is called. free is false when the work did not end in time.
func (p *Pool) seize(ctx context.Context, id string) (done func(), free bool) {
	return p.seizeAs(ctx, id, actCutoff, func() {})
}

// seizeAs is seize for work of that kind, which cancel ends.
func (p *Pool) seizeAs(ctx context.Context, id string, a action, cancel context.CancelFunc) (done func(), free bool) {
	letGo, free := p.seizeHere(id, a, cancel)
	if !free {
		return letGo, false
	}
	unlock, err := p.lockGroup(ctx, id, cancel)
	if err != nil {
		p.o.Logger.Error("cannot keep other brokers from a group", "group", id, "error", err)
		return letGo, false
	}
	return func() { unlock(); letGo() }, true
}

// seizeHere is seizeAs within this pool.
func (p *Pool) seizeHere(id string, a action, cancel context.CancelFunc) (done func(), free bool) {
	limit := time.NewTimer(cutoffTime)
	defer limit.Stop()
	for {
		p.mu.Lock()
		t := p.track(id, "")
		if t.doing == actNothing {
			p.engage(id, t, a, cancel)
			p.mu.Unlock()
			return func() {
				p.mu.Lock()
				p.disengage(id, t)
				fingerprint := t.fingerprint
				if p.o.Cluster != nil && p.leading == nil {
					delete(p.tracks, id) // the leader's is the one that counts
				}
				p.mu.Unlock()
				p.stir(fingerprint)
			}, true
		}
		ended := t.done
		if t.doing == actRepair {
			t.cancel()
		}
		p.mu.Unlock()
		select {
		case <-ended:
		case <-limit.C:
			return func() {}, false
		}
	}
}
