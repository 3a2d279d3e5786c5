package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/remuda/remuda/store"
)

// changeTime bounds a change: disks may have to be copied.
const changeTime = 5 * time.Minute

// Prospect is the definition that a claimed group would have with a plan of its
// offering, as a fingerprint. With upgrade it is the current one of the plan;
// without, the group keeps its recipe and its image and gets the plan's sizes. The
// store knows it from now on.
func (p *Pool) Prospect(ctx context.Context, groupID, offering, plan string, upgrade bool) (fingerprint string, err error) {
	g, err := p.claimed(ctx, groupID)
	if err != nil {
		return "", err
	}
	current, ok := p.plans[offering+"/"+plan]
	if !ok {
		return "", fmt.Errorf("no plan %q of offering %q", plan, offering)
	}
	d, err := p.definition(ctx, current)
	if err != nil {
		return "", err
	}
	if !upgrade {
		d = resized(g.Definition, d)
	}
	fingerprint = d.Fingerprint()
	body, err := json.Marshal(d)
	if err != nil {
		return "", err
	}
	err = p.o.Store.Update(ctx, func(tx store.Tx) error {
		_, err := tx.Definitions().Get(fingerprint)
		if errors.Is(err, store.ErrNotFound) {
			return tx.Definitions().Put(store.Definition{
				Fingerprint: fingerprint, Offering: d.Offering, Plan: d.Plan, Body: body, CreatedAt: time.Now(),
			})
		}
		return err
	})
	return fingerprint, err
}

// resized is a definition with the sizes and the environment of a plan, and
// otherwise as it was.
func resized(d, plan Definition) Definition {
	d.Plan, d.Members = plan.Plan, plan.Members
	env := maps.Clone(d.Recipe.Environment)
	for name, value := range plan.Environment {
		if plan.Recipe.Environment[name] != value { // the plan's own
			if env == nil {
				env = map[string]string{}
			}
			env[name] = value
		}
	}
	d.Environment = env
	return d
}

// Change brings a claimed group to another definition that the store knows, with
// its data and at its addresses. It may be repeated. *Unfit says why it cannot
// be; then nothing was changed.
func (p *Pool) Change(ctx context.Context, groupID, fingerprint string) error {
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	done, free := p.seizeAs(ctx, groupID, actRepair, cancel)
	defer done()
	if !free {
		return fmt.Errorf("work on group %q does not end", groupID)
	}
	g, err := p.claimed(ctx, groupID)
	if err != nil {
		return err
	}
	if g.Definition, err = p.definition(ctx, fingerprint); err != nil {
		return err
	}
	if err := p.openLane(ctx, fingerprint); err != nil {
		return err
	}
	began := time.Now()
	o, err := p.o.Backend.Change(ctx, g)
	if err == nil && !o.Healthy() {
		err = errors.New("group is not healthy after its change")
	}
	p.o.Metrics.Worked("change", g.Definition.Offering, g.Definition.Plan, time.Since(began), err)
	if err != nil {
		return fmt.Errorf("change group %q: %w", groupID, err)
	}
	err = p.o.Store.Update(context.WithoutCancel(ctx), func(tx store.Tx) error {
		row, err := tx.Groups().Get(groupID)
		if err != nil {
			return err
		}
		if row.State != store.GroupClaimed {
			return fmt.Errorf("group %q is %s and has no tenant", groupID, row.State)
		}
		row.Fingerprint = fingerprint
		return tx.Groups().Put(row)
	})
	if err != nil {
		return err
	}
	if p.o.Cluster != nil && !p.leads() {
		p.tellLook(groupID)
		return nil
	}
	p.mu.Lock()
	t := p.track(groupID, fingerprint)
	old := t.fingerprint
	t.fingerprint = fingerprint
	p.mu.Unlock()
	p.stir(old)
	return nil
}
