package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
	"github.com/remuda/remuda/provisioner/orders"
)

// agentBound is how long an agent may take for its doors before the controller is left to see to it.
const agentBound = 5 * time.Second

// leader is the client of the leader's agent.
func (b *Backend) leader(cg *v1alpha1.ContainerGroup) (*agent.Client, error) {
	for _, m := range cg.Status.Members {
		if m.Pod == cg.Status.Leader && m.Address != "" {
			return b.agents.Client(cg.Name, m.Address), nil
		}
	}
	return nil, fmt.Errorf("%w: group %q has no leader just now", provisioner.ErrUnavailable, cg.Name)
}

// passing marks what an agent's death or silence comes to: its member is brought back, and then
// the same works. What a program itself says against it stays as it is.
func passing(err error) error {
	said, answered := errors.AsType[*agent.Error](err)
	_, dialled := errors.AsType[net.Error](err)
	if dialled || errors.Is(err, orders.ErrInterrupted) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || answered && said.Status == http.StatusConflict {
		return fmt.Errorf("%w: %w", provisioner.ErrUnavailable, err)
	}
	return err
}

// doors are the clients of the agents that let a tenant in: the group's way out, if it has one,
// and then the leader.
func (b *Backend) doors(cg *v1alpha1.ContainerGroup) ([]*agent.Client, error) {
	leader, err := b.leader(cg)
	if err != nil {
		return nil, err
	}
	role, err := egressRole(cg)
	if role == "" || err != nil {
		return []*agent.Client{leader}, err
	}
	for _, m := range cg.Status.Members {
		if m.Role == role && m.Address != "" {
			return []*agent.Client{b.agents.Client(cg.Name, m.Address), leader}, nil
		}
	}
	return nil, fmt.Errorf("group %q has no way out just now", cg.Name)
}

// openDoors lets the tenant in at once, where the controller has prepared everything.
func (b *Backend) openDoors(ctx context.Context, cg *v1alpha1.ContainerGroup, number int64) error {
	ctx, cancel := context.WithTimeout(ctx, agentBound)
	defer cancel()
	list, err := b.doors(cg)
	for _, c := range list {
		if err == nil {
			err = c.OpenDoors(ctx, agent.OpenRequest{Order: number})
		}
	}
	return err
}

// closeDoors cuts off at once, the leader first, and says whether nobody opens others. It is so when the
// tenant's doors were closed now, or before by a controller that had seen this spec; not when those of a
// pod were closed that was just made anew.
func (b *Backend) closeDoors(ctx context.Context, cg *v1alpha1.ContainerGroup, number int64) (certain bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, agentBound)
	defer cancel()
	list, err := b.doors(cg)
	certain = true
	for _, c := range slices.Backward(list) {
		if err == nil {
			var r agent.CloseResult
			r, err = c.CloseDoors(ctx, agent.CloseRequest{Order: number})
			certain = certain && (r.WasOpen || r.Wiped >= number)
		}
	}
	return certain && err == nil, err
}

// isOpen says whether the doors are open for this spec: by the controller, or from here as long as the
// controller has said nothing of it.
func (b *Backend) isOpen(cg *v1alpha1.ContainerGroup) bool {
	if cg.Status.ObservedGeneration == cg.Generation {
		return cg.Status.Published
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened[cg.Name] == cg.Generation
}

// Publish implements provisioner.Tenancy. What is wanted is written down first; then the
// doors are opened at once, without waiting for the controller, which would do the same.
func (b *Backend) Publish(ctx context.Context, g provisioner.Group) error {
	cg, err := b.get(ctx, g.ID)
	if err != nil {
		return err
	}
	if !cg.DeletionTimestamp.IsZero() {
		return fmt.Errorf("group %q is being deleted: %w", g.ID, provisioner.ErrNoGroup)
	}
	if cg.Spec.Published && cg.Spec.Lent == int64(g.Generation) && b.isOpen(cg) {
		return nil
	}
	number, err := b.patch(ctx, g.ID, map[string]any{"lent": g.Generation, "published": true})
	if err != nil {
		return err
	}
	if cg.Status.Generation == int64(g.Generation) {
		err := b.openDoors(ctx, cg, number)
		if err == nil {
			b.mu.Lock()
			b.opened[g.ID] = number
			b.mu.Unlock()
			return nil
		}
		b.o.Logger.Warn("cannot open the doors, leaving it to the controller", "group", g.ID, "error", err)
	}
	_, err = b.await(ctx, g.ID, func(cg *v1alpha1.ContainerGroup) (bool, error) {
		switch {
		case cg == nil:
			return true, fmt.Errorf("group %q: %w", g.ID, provisioner.ErrNoGroup)
		case cg.Status.ObservedGeneration >= number && cg.Status.Phase == v1alpha1.PhaseFailed:
			return true, failure(cg)
		}
		return cg.Status.ObservedGeneration >= number && cg.Status.Published, nil
	})
	return err
}

// Cutoff implements provisioner.Tenancy. The controller begins with the next generation while the
// doors are being closed: its wipe closes them, too.
func (b *Backend) Cutoff(ctx context.Context, id string, next int) error {
	cg, err := b.get(ctx, id)
	if err != nil {
		return err
	}
	spec := map[string]any{"published": false}
	if int64(next) > cg.Spec.Generation {
		spec["generation"] = next
	}
	number, err := b.patch(ctx, id, spec)
	if err != nil {
		return err
	}
	certain, err := b.closeDoors(ctx, cg, number)
	if certain { // these agents refuse the orders of former specs, whoever gives them
		_, err := b.await(ctx, id, func(cg *v1alpha1.ContainerGroup) (bool, error) { return cg == nil || cg.Generation >= number, nil })
		return err
	}
	if err != nil {
		b.o.Logger.Warn("cannot close the doors, leaving it to the controller", "group", id, "error", err)
	}
	// Only the controller knows that it opens no others, of a pod that was just made anew.
	_, err = b.await(ctx, id, func(cg *v1alpha1.ContainerGroup) (bool, error) {
		return cg == nil || cg.Status.ObservedGeneration >= number && !cg.Status.Published, nil
	})
	return err
}

// Program implements provisioner.Tenancy.
func (b *Backend) Program(ctx context.Context, g provisioner.Group, which string, values map[string]any) (map[string]string, error) {
	cg, err := b.get(ctx, g.ID)
	if err != nil {
		return nil, err
	}
	d, err := DefinitionOf(cg.Spec, nil)
	if err != nil {
		return nil, fmt.Errorf("group %q: %w", g.ID, err)
	}
	if cg.Status.Generation != int64(g.Generation) {
		return nil, fmt.Errorf("%w: group %q serves generation %d, not %d", provisioner.ErrUnavailable, g.ID, cg.Status.Generation, g.Generation)
	}
	c, err := b.leader(cg)
	if err != nil {
		return nil, err
	}
	list := d.MemberList()
	output, err := orders.RunHook(ctx, c, orders.Member{Member: list[0], Definition: d, Siblings: list}, which, values)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cg.Status.Leader, passing(err))
	}
	return output, nil
}

// Change implements provisioner.Tenancy. The controller resizes the pods where they are.
func (b *Backend) Change(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	var none provisioner.Observation
	cg, err := b.get(ctx, g.ID)
	if err != nil {
		return none, err
	}
	spec, err := SpecOf(g.Definition, b.ephemeral(g.Definition))
	if err != nil {
		return none, err
	}
	before := cg.Spec
	number, err := b.patch(ctx, g.ID, map[string]any{
		"recipe": spec.Recipe, "plan": spec.Plan, "image": spec.Image, "members": spec.Members, "environment": replaced(before.Environment, spec.Environment),
		"lent": g.Generation, "published": true, "attempt": before.Attempt + 1,
	})
	if err != nil {
		var unfit *provisioner.Unfit
		if cannot := unchangeable(err); cannot != nil && errors.As(cannot, &unfit) {
			return none, cannot
		}
		return none, err
	}
	o, err := b.settled(ctx, g.ID, number)
	if err == nil {
		return o, nil
	}
	// It is as it was, or the controller makes it so when it is asked for that.
	now, getErr := b.get(ctx, g.ID)
	var unfit error
	if getErr == nil {
		unfit = unfitness(now, number)
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	number, undoErr := b.patch(back, g.ID, map[string]any{
		"recipe": before.Recipe, "plan": before.Plan, "image": before.Image, "members": before.Members, "environment": replaced(spec.Environment, before.Environment), "attempt": before.Attempt + 2,
	})
	if undoErr == nil {
		_, undoErr = b.settled(back, g.ID, number)
	}
	if unfit != nil && undoErr == nil {
		return none, unfit
	}
	return none, errors.Join(err, undoErr)
}

// replaced is a merge patch that makes one map into the other.
func replaced(from, to map[string]string) map[string]any {
	out := map[string]any{}
	for k := range from {
		out[k] = nil
	}
	for k, v := range to {
		out[k] = v
	}
	return out
}

// unfitness is the tenant's answer when the controller says that a change cannot be.
func unfitness(cg *v1alpha1.ContainerGroup, number int64) error {
	c := meta.FindStatusCondition(cg.Status.Conditions, v1alpha1.Fits)
	if c == nil || c.Status != metav1.ConditionFalse || c.ObservedGeneration < number {
		return nil
	}
	switch c.Reason {
	case v1alpha1.ReasonUnfit:
		return &provisioner.Unfit{Message: c.Message}
	case v1alpha1.ReasonUnfitFinally:
		return &provisioner.Unfit{Message: c.Message, Final: true}
	}
	return nil
}

// unchangeable is the tenant's answer when the API server refuses a change.
func unchangeable(err error) error {
	if !apierrors.IsInvalid(err) {
		return nil
	}
	return &provisioner.Unfit{Message: "The service instance cannot become like that: its members or its addresses would be other ones. Create a new service instance and move the data.", Final: true}
}
