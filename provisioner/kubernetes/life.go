package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

// imagePatience is how long a missing image, a full cluster or a missing volume may be a passing trouble.
const imagePatience = 20 * time.Second

// Create implements provisioner.Backend.
func (b *Backend) Create(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	var none provisioner.Observation
	if err := b.Close(ctx, g.ID); err != nil { // half there from before
		return none, err
	}
	spec, err := SpecOf(g.Definition, b.ephemeral(g.Definition))
	if err != nil {
		return none, err
	}
	spec.Generation, spec.CPULimit = int64(g.Generation), b.o.CPULimit
	cg := &v1alpha1.ContainerGroup{
		ObjectMeta: metav1.ObjectMeta{Name: g.ID, Namespace: b.o.Namespace, Finalizers: []string{Finalizer},
			Labels: map[string]string{LabelBroker: b.o.Broker, LabelFingerprint: g.Definition.Fingerprint()[:63]}},
		Spec: spec,
	}
	if err := b.client.Create(ctx, cg); err != nil {
		return none, unavailable(fmt.Sprintf("create group %q", g.ID), err)
	}
	return b.settled(ctx, g.ID, cg.Generation)
}

// ephemeral says of which roles data end with their pods.
func (b *Backend) ephemeral(d provisioner.Definition) func(role string) bool {
	all := slices.Contains(b.o.Ephemeral, d.Offering) || slices.Contains(b.o.Ephemeral, d.Offering+"/"+d.Plan) || slices.Contains(b.o.Ephemeral, "*")
	return func(string) bool { return all }
}

// settled waits until the controller has done what the spec of that number asks for.
func (b *Backend) settled(ctx context.Context, id string, number int64) (provisioner.Observation, error) {
	var since time.Time
	cg, err := b.await(ctx, id, func(cg *v1alpha1.ContainerGroup) (bool, error) {
		if cg == nil {
			return false, nil // the watch has not brought it yet
		}
		if !cg.DeletionTimestamp.IsZero() {
			return true, fmt.Errorf("group %q is being deleted: %w", id, provisioner.ErrNoGroup)
		}
		if cg.Generation < number || cg.Status.ObservedGeneration < number {
			return false, nil
		}
		switch cg.Status.Phase {
		case v1alpha1.PhaseWarm, v1alpha1.PhaseReturned:
			return true, nil
		case v1alpha1.PhaseClaimed:
			return meta.IsStatusConditionTrue(cg.Status.Conditions, v1alpha1.Ready), nil
		case v1alpha1.PhaseFailed:
			return true, failure(cg)
		}
		if c := meta.FindStatusCondition(cg.Status.Conditions, v1alpha1.Ready); c != nil && c.Status == metav1.ConditionFalse &&
			slices.Contains([]string{v1alpha1.ReasonImage, v1alpha1.ReasonUnschedulable, v1alpha1.ReasonVolume, v1alpha1.ReasonRefusedByServer, v1alpha1.ReasonRecipe}, c.Reason) {
			if since.IsZero() {
				since = time.Now()
				time.AfterFunc(imagePatience, func() { b.notify(id) })
			}
			if time.Since(since) >= imagePatience || c.Reason == v1alpha1.ReasonRecipe {
				return true, failure(cg)
			}
		} else {
			since = time.Time{}
		}
		return false, nil
	})
	if err != nil {
		return provisioner.Observation{}, err
	}
	return observation(cg), nil
}

// failure says why a group is not as it should be.
func failure(cg *v1alpha1.ContainerGroup) error {
	err := fmt.Errorf("group %q: %s", cg.Name, cg.Status.Reason)
	if c := meta.FindStatusCondition(cg.Status.Conditions, v1alpha1.Clean); c != nil && c.Status == metav1.ConditionFalse {
		return fmt.Errorf("%w: %w", provisioner.ErrUnclean, err)
	}
	return err
}

// patch changes the spec of a group and returns the number of the new spec.
func (b *Backend) patch(ctx context.Context, id string, spec map[string]any) (int64, error) {
	change := map[string]any{"spec": spec}
	var known v1alpha1.ContainerGroup
	if err := b.cache.Get(ctx, client.ObjectKey{Namespace: b.o.Namespace, Name: id}, &known); err == nil && forgetsManagers(&known) {
		change["metadata"] = map[string]any{"managedFields": []any{struct{}{}}} // this resets them
	}
	body, err := json.Marshal(change)
	if err != nil {
		return 0, err
	}
	cg := v1alpha1.ContainerGroup{ObjectMeta: metav1.ObjectMeta{Name: id, Namespace: b.o.Namespace}}
	if err := b.client.Patch(ctx, &cg, client.RawPatch(types.MergePatchType, body)); err != nil {
		return 0, unavailable(fmt.Sprintf("change group %q", id), err)
	}
	if !cg.DeletionTimestamp.IsZero() {
		return 0, fmt.Errorf("group %q is being deleted: %w", id, provisioner.ErrNoGroup)
	}
	return cg.Generation, nil
}

// forgetsManagers says whether to end that the API server keeps who wrote which field: nobody looks, and it
// is a quarter of every write. Where somebody applies fields on the server's side it goes on.
func forgetsManagers(cg *v1alpha1.ContainerGroup) bool {
	return len(cg.ManagedFields) > 0 && !slices.ContainsFunc(cg.ManagedFields, func(f metav1.ManagedFieldsEntry) bool {
		return f.Operation == metav1.ManagedFieldsOperationApply
	})
}

// Reset implements provisioner.Backend. Where Cutoff has begun it, it only waits.
func (b *Backend) Reset(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	var none provisioner.Observation
	cg, err := b.get(ctx, g.ID)
	if err != nil {
		return none, err
	}
	spec := map[string]any{"generation": g.Generation, "published": false}
	if cg.Spec.Generation == int64(g.Generation) {
		if IsLent(cg.Spec) {
			return none, fmt.Errorf("%w: group %q was lent in generation %d", provisioner.ErrUnclean, g.ID, g.Generation)
		}
		if cg.Status.Phase != v1alpha1.PhaseFailed || cg.Status.ObservedGeneration < cg.Generation {
			return b.settled(ctx, g.ID, cg.Generation)
		}
		spec["attempt"] = cg.Spec.Attempt + 1
	}
	number, err := b.patch(ctx, g.ID, spec)
	if err != nil {
		return none, err
	}
	return b.settled(ctx, g.ID, number)
}

// Repair implements provisioner.Backend.
func (b *Backend) Repair(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	var none provisioner.Observation
	cg, err := b.get(ctx, g.ID)
	if err != nil {
		return none, err
	}
	number, err := b.patch(ctx, g.ID, map[string]any{"lent": g.Generation, "published": true, "attempt": cg.Spec.Attempt + 1})
	if err != nil {
		return none, err
	}
	return b.settled(ctx, g.ID, number)
}

// Close implements provisioner.Backend.
func (b *Backend) Close(ctx context.Context, id string) error {
	cg := v1alpha1.ContainerGroup{ObjectMeta: metav1.ObjectMeta{Name: id, Namespace: b.o.Namespace}}
	err := unavailable(fmt.Sprintf("close group %q", id), b.client.Delete(ctx, &cg))
	if errors.Is(err, provisioner.ErrNoGroup) {
		// The watch may still show it; who lists then must not see it any more.
		_, err = b.await(ctx, id, func(cg *v1alpha1.ContainerGroup) (bool, error) { return cg == nil, nil })
		return err
	}
	if err != nil {
		return err
	}
	_, err = b.await(ctx, id, func(now *v1alpha1.ContainerGroup) (bool, error) { return now == nil, nil })
	return err
}
