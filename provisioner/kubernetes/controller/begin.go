package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/orders"
	"github.com/remuda/remuda/store"
)

const (
	agentBound = 15 * time.Second // for a new agent to answer
	wipeBound  = 60 * time.Second
)

// serverError is of the API server, or of a spec that is not its newest, and says nothing about the group.
type serverError struct{ error }

func (e serverError) Unwrap() error { return e.error }

func ofServer(err error) error {
	if err == nil {
		return nil
	}
	return serverError{err}
}

func isUnclean(err error) bool { return errors.Is(err, provisioner.ErrUnclean) }

// begin wipes all members and starts the generation of the spec in them, and asks how they are then.
// After the first time they must come to look as they did then.
func (w *work) begin(ctx context.Context) error {
	err := w.each(func(m *member) error {
		if m.state == nil {
			state, err := w.awaitAgent(ctx, m)
			if err != nil {
				return err
			}
			m.state = &state
		}
		if w.memory.record.Begun && m.state.Generation == 0 {
			return fmt.Errorf("%w: its container is another one than it was", provisioner.ErrUnclean)
		}
		return w.makeEmpty(ctx, m)
	})
	if err != nil {
		return err
	}
	if w.memory.record.Begun && w.memory.record.Applied != w.def.Fingerprint() {
		if err := w.resize(ctx); err != nil {
			return ofServer(err)
		}
		w.apply()
		if err := w.remember(ctx); err != nil {
			return ofServer(err)
		}
	}
	if !w.memory.record.Begun {
		if err := w.makePristine(ctx); err != nil {
			return err
		}
	}
	w.memory.hosts = ""
	if err := w.tellHosts(ctx); err != nil {
		return err
	}
	if err := w.each(func(m *member) error { return w.startMember(ctx, m) }); err != nil {
		return err
	}
	if err := w.join(ctx); err != nil {
		return err
	}
	if !w.memory.record.Begun {
		defer w.askAgents(ctx)
		return w.takeBaselines(ctx)
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() { w.askAgents(ctx) })
	return w.each(func(m *member) error {
		base, ok := w.memory.record.Baseline[m.Name]
		if !ok {
			return fmt.Errorf("%w: there is no baseline", provisioner.ErrUnclean)
		}
		return orders.CompareBaseline(ctx, m.client, m.Name, &base)
	})
}

// awaitAgent returns when the agent of a running container answers.
func (w *work) awaitAgent(ctx context.Context, m *member) (agent.State, error) {
	ctx, cancel := context.WithTimeout(ctx, agentBound)
	defer cancel()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		state, err := m.client.State(ctx)
		if err == nil {
			return state, nil
		}
		select {
		case <-ctx.Done():
			return state, fmt.Errorf("its agent does not answer: %w", err)
		case <-time.After(pause):
		}
	}
}

// makeEmpty ends everything in a member and empties its disks.
func (w *work) makeEmpty(ctx context.Context, m *member) error {
	bounded, cancel := context.WithTimeout(ctx, wipeBound)
	defer cancel()
	if _, err := m.client.Wipe(bounded, agent.WipeRequest{Order: w.cg.Generation}); err != nil {
		if isOverruled(err) {
			return ofServer(err) // the newer spec brings another go
		}
		return fmt.Errorf("%w: wipe: %w", provisioner.ErrUnclean, err)
	}
	p, ok := w.memory.record.Pristine[m.Name]
	if !ok {
		return nil
	}
	if err := m.client.FillPristine(ctx, p); err != nil {
		return fmt.Errorf("%w: pristine data: %w", provisioner.ErrUnclean, err)
	}
	return nil
}

// makePristine lets the roles' template programs make what every generation begins with, and
// begins with it for the first time.
func (w *work) makePristine(ctx context.Context) error {
	kept, err := ofEach(w, func(m *member) (p agent.Pristine, err error) {
		if m.Role.Template == nil {
			return p, nil
		}
		program, err := w.orders(m).Template()
		if err != nil {
			return p, err
		}
		if err := m.client.Start(ctx, agent.StartRequest{Generation: 1, User: m.Role.User, Environment: w.def.Environment, TimeoutSeconds: 10}); err != nil {
			return p, fmt.Errorf("start agent: %w", err)
		}
		if _, err := orders.Run(ctx, m.client, program); err != nil {
			return p, fmt.Errorf("the recipe's template program: %w", err)
		}
		if _, err := m.client.Wipe(ctx, agent.WipeRequest{Kindly: true}); err != nil {
			return p, err
		}
		if p, err = m.client.KeepPristine(ctx); err != nil {
			return p, err
		}
		if _, err := m.client.Wipe(ctx, agent.WipeRequest{}); err != nil {
			return p, err
		}
		return p, m.client.FillPristine(ctx, p)
	})
	if err != nil {
		return err
	}
	maps.DeleteFunc(kept, func(_ string, p agent.Pristine) bool { return p.Digest == "" }) // those without a template
	w.memory.record.Pristine = kept
	return nil
}

// takeBaselines remembers how the members look when they are new.
func (w *work) takeBaselines(ctx context.Context) error {
	seen, err := ofEach(w, func(m *member) (agent.Baseline, error) { return orders.SettledBaseline(ctx, m.client) })
	if err != nil {
		return err
	}
	w.memory.record.Baseline = seen
	w.memory.record.Begun = true
	w.apply()
	return ofServer(w.remember(ctx))
}

// startMember starts the generation's servers in a member that is idle. Doors are bound
// anew where the agent does not have them.
func (w *work) startMember(ctx context.Context, m *member) error {
	var endpoints []store.Endpoint
	for _, e := range w.endpoints() {
		endpoints = append(endpoints, store.Endpoint{Name: e.Name, Host: e.Host, Port: int(e.Port), Count: int(e.Count)})
	}
	if m.Leader && len(endpoints) > 0 {
		if err := w.bindDoors(ctx, m); err != nil {
			return err
		}
	}
	req, err := w.orders(m).Start(int(w.cg.Spec.Generation), endpoints)
	if err != nil {
		return err
	}
	if err := m.client.Start(ctx, req); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	return nil
}

func (w *work) bindDoors(ctx context.Context, m *member) error {
	address, err := netip.ParseAddr(m.pod.Status.PodIP)
	if err != nil {
		return fmt.Errorf("address of %s: %w", m.pod.Name, err)
	}
	var doors []agent.Door
	published := portsOf(w.def.Recipe.Endpoints)
	for i, e := range w.def.Recipe.Endpoints {
		first := int(doorPort(i, published[i], w.cg.Spec.Generation))
		for n, d := range orders.Doors(e, int(published[i].Port)) {
			d.Port = first + n
			doors = append(doors, d)
		}
	}
	if m.state == nil || sameDoors(m.state.Doors, doors) {
		state, err := m.client.State(ctx) // anew: another container has none
		if err != nil {
			return err
		}
		if sameDoors(state.Doors, doors) {
			return nil
		}
	}
	if err := m.client.BindDoors(ctx, agent.DoorsRequest{Address: address, Doors: doors}); err != nil {
		return fmt.Errorf("bind doors: %w", err)
	}
	return nil
}

func sameDoors(have []agent.DoorState, want []agent.Door) bool {
	have = slices.DeleteFunc(slices.Clone(have), func(d agent.DoorState) bool { return d.Target == 0 }) // of the way out
	if len(have) != len(want) {
		return false
	}
	for i := range have {
		if have[i].Name != want[i].Name || have[i].Port != want[i].Port || have[i].Target != want[i].Target {
			return false
		}
	}
	return true
}

// tellHosts tells all members the addresses of all, when that is news.
func (w *work) tellHosts(ctx context.Context) error {
	h, err := w.hosts()
	if err != nil {
		return err
	}
	if news := describe(h); news != w.memory.hosts {
		if err := w.each(func(m *member) error { return setHosts(ctx, m, h) }); err != nil {
			return err
		}
		w.memory.hosts = news
	}
	return nil
}

func setHosts(ctx context.Context, m *member, h agent.HostsRequest) error {
	if orders.IsEgress(m.Member) {
		return nil // it reaches nobody of the group
	}
	return m.client.SetHosts(ctx, h)
}

// tellIdentity gives the agents the certificate that is in the group's secret.
func (w *work) tellIdentity(ctx context.Context) {
	w.memory.untold = false
	i := kubernetes.IdentityOf(w.memory.secret)
	_ = w.each(func(m *member) error {
		if m.client == nil {
			return nil // a new container reads the secret
		}
		if err := m.client.SetIdentity(ctx, i); err != nil {
			w.log.Warn("agent does not take its new certificate", "member", m.Name, "error", err)
		}
		return nil
	})
	for _, m := range w.members {
		w.memory.untold = w.memory.untold || m.client != nil && m.state == nil
	}
}
