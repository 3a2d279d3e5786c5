package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

const (
	resizeBound = 30 * time.Second // for the kubelet to set other limits
	growBound   = 60 * time.Second // for a volume to become larger
	// growInUse is how long it may take while a pod uses it. Then the pod is made anew: some
	// storage makes only volumes larger that nothing uses, and growUnused is how long it gets.
	growInUse, growUnused = 8 * time.Second, 5 * time.Second
)

// errNotYet: the work goes on when the pods have changed.
var errNotYet = errors.New("not yet")

// change brings a tenant's group to the definition of its spec, in the same pods: servers stop
// by their own signal, volumes grow, limits are set, servers start. It can be interrupted and begun again
// anywhere, since what was applied is forgotten first.
func (w *work) change(ctx context.Context) (time.Duration, error) {
	w.phase = v1alpha1.PhaseChanging
	if f := w.memory.failed; f != nil && f.number == w.cg.Generation {
		w.trouble, w.phase = f, v1alpha1.PhaseFailed
		return lookAgain, nil
	}
	if w.memory.record.Applied != "" {
		if unfit := w.fitsIn(); unfit != nil {
			return w.unfit(unfit), nil
		}
		w.memory.record.Applied = ""
		if err := w.remember(ctx); err != nil {
			return 0, err
		}
		err := w.each(func(m *member) error {
			_, err := m.client.Wipe(ctx, agent.WipeRequest{Kindly: true})
			return err
		})
		if err != nil {
			return 0, err
		}
		w.askAgents(ctx)
	}
	err := w.carryOut(ctx)
	var unfit *provisioner.Unfit
	switch {
	case errors.Is(err, errNotYet):
		return soon, nil
	case errors.As(err, &unfit):
		return w.unfit(unfit), nil
	case err != nil && (ctx.Err() != nil || apierrors.IsConflict(err)):
		return 0, err
	case err != nil:
		w.log.Warn("change failed", "error", err)
		if w.shrinks() {
			return w.unfit(&provisioner.Unfit{Message: "With the data that are there the servers do not start within the limits of that plan; all is as it was before."}), nil
		}
		w.fail(v1alpha1.ReasonStart, err.Error(), false)
		return lookAgain, nil
	}
	w.apply()
	if err := w.remember(ctx); err != nil {
		return 0, err
	}
	w.fits = &metav1.Condition{Type: v1alpha1.Fits, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonApplied}
	w.phase, w.memory.failed = v1alpha1.PhaseClaimed, nil
	w.askAgents(ctx)
	return lookAgain, w.openDoors(ctx)
}

// apply notes that the group has become what its definition says.
func (w *work) apply() {
	w.memory.record.Applied = w.def.Fingerprint()
	w.memory.record.Sizes = w.def.Members
	w.memory.record.Image = w.def.Image
}

func (w *work) unfit(u *provisioner.Unfit) time.Duration {
	reason := v1alpha1.ReasonUnfit
	if u.Final {
		reason = v1alpha1.ReasonUnfitFinally
	}
	w.fits = &metav1.Condition{Type: v1alpha1.Fits, Status: metav1.ConditionFalse, Reason: reason, Message: u.Message}
	w.fail(reason, u.Message, false)
	return lookAgain
}

// shrinks says whether a role gets less memory than it had.
func (w *work) shrinks() bool {
	for role, size := range w.def.Members {
		if size.Memory < w.memory.record.Sizes[role].Memory {
			return true
		}
	}
	return false
}

// fitsIn says why the group cannot become what its spec says, as far as that shows beforehand.
func (w *work) fitsIn() *provisioner.Unfit {
	for _, m := range w.members {
		was, ok := w.memory.record.Sizes[m.Role.Name]
		if !ok {
			continue
		}
		switch {
		case m.Size.Disk < was.Disk:
			return &provisioner.Unfit{Final: true, Message: fmt.Sprintf("The disk cannot become smaller than %s: volumes of Kubernetes only grow. Create a new service instance and move the data.", was.Disk)}
		case m.Size.Disk > was.Disk && !w.hasClaim(m.Member) && len(m.Role.Paths) > 0:
			return &provisioner.Unfit{Final: true, Message: "The disk cannot get another size: it belongs to the pod. Create a new service instance and move the data."}
		}
		if u := m.state; u != nil && u.Usage != nil && u.Usage.Memory >= 0 && m.Size.Memory < was.Memory && float64(u.Usage.Memory) > 0.9*float64(m.Size.Memory) {
			return &provisioner.Unfit{Message: fmt.Sprintf("%d MiB of memory are in use, which is too much for a limit of %s. Free some memory and try again.", u.Usage.Memory>>20, m.Size.Memory)}
		}
	}
	return nil
}

// carryOut resizes volumes and pods and starts the servers of halted members.
func (w *work) carryOut(ctx context.Context) error {
	if err := w.resize(ctx); err != nil {
		return err
	}
	if err := w.replaceImage(ctx); err != nil {
		return err
	}
	w.memory.hosts = ""
	if err := w.tellHosts(ctx); err != nil {
		return err
	}
	return w.each(func(m *member) error {
		if m.well(w.cg.Spec.Generation) {
			return nil
		}
		return w.restart(ctx, m)
	})
}

// resize gives volumes and pods the sizes of the definition.
func (w *work) resize(ctx context.Context) error {
	return w.each(func(m *member) error {
		if err := w.growClaim(ctx, m); err != nil {
			return err
		}
		return w.resizePod(ctx, m)
	})
}

func (w *work) growClaim(ctx context.Context, m *member) error {
	if !w.hasClaim(m.Member) {
		return nil
	}
	var c corev1.PersistentVolumeClaim
	key := client.ObjectKey{Namespace: w.cg.Namespace, Name: m.pod.Name}
	if err := w.r.client.Get(ctx, key, &c); err != nil {
		return err
	}
	want := w.claim(m.Member).Spec.Resources.Requests[corev1.ResourceStorage]
	have := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if have.Cmp(want) < 0 {
		before := c.DeepCopy()
		c.Spec.Resources.Requests[corev1.ResourceStorage] = want
		if err := w.r.client.Patch(ctx, &c, client.MergeFrom(before)); apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
			w.log.Info("the storage class cannot make the volume larger", "error", err)
			return &provisioner.Unfit{Final: true, Message: "The disk cannot get another size: its storage class does not let volumes grow. Create a new service instance and move the data."}
		} else if err != nil {
			return err
		}
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, growBound)
	defer cancel()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if has := c.Status.Capacity[corev1.ResourceStorage]; has.Cmp(want) >= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the volume of %s does not grow: %w", m.pod.Name, ctx.Err())
		case <-time.After(pause):
		}
		if time.Since(began) > growInUse && waitsForPod(&c) {
			w.log.Info("the volume does not grow while it is used, the pod is made anew", "pod", m.pod.Name)
			w.memory.growUntil = time.Now().Add(growUnused)
			if err := client.IgnoreNotFound(w.r.client.Delete(ctx, m.pod)); err != nil {
				return err
			}
			return errNotYet
		}
		if err := w.r.client.Get(ctx, key, &c); err != nil {
			return err
		}
	}
}

// waitsForPod says whether the volume is larger and only its file system is not.
func waitsForPod(c *corev1.PersistentVolumeClaim) bool {
	return slices.ContainsFunc(c.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return c.Type == corev1.PersistentVolumeClaimFileSystemResizePending && c.Status == corev1.ConditionTrue
	})
}

// resizePod sets the limits of a running container.
func (w *work) resizePod(ctx context.Context, m *member) error {
	want := w.resources(m.Size)
	pod := m.pod.DeepCopy()
	if !equality.Semantic.DeepEqual(pod.Spec.Containers[0].Resources, want) {
		before := pod.DeepCopy()
		pod.Spec.Containers[0].Resources = want
		if err := w.r.client.SubResource("resize").Patch(ctx, pod, client.StrategicMergeFrom(before)); apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
			w.log.Info("the pod cannot be resized", "error", err)
			return &provisioner.Unfit{Message: "There is no room for that plan where the service instance runs. Try again later, or create a new service instance and move the data."}
		} else if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, resizeBound)
	defer cancel()
	key := client.ObjectKeyFromObject(pod)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		if resized(pod, want) {
			return nil
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodResizePending && c.Status == corev1.ConditionTrue {
				return &provisioner.Unfit{Message: "There is no room for that plan where the service instance runs. Try again later, or create a new service instance and move the data."}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not get other limits: %w", pod.Name, ctx.Err())
		case <-time.After(pause):
		}
		if err := w.r.client.Get(ctx, key, pod); err != nil {
			return err
		}
	}
}

// resized says whether the container has the limits.
func resized(pod *corev1.Pod, want corev1.ResourceRequirements) bool {
	if !equality.Semantic.DeepEqual(pod.Spec.Containers[0].Resources, want) {
		return false
	}
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == agentContainer && s.Resources != nil {
			return equality.Semantic.DeepEqual(s.Resources.Limits, want.Limits)
		}
	}
	return false
}

// replaceImage lets the containers restart from another image, where they are.
func (w *work) replaceImage(ctx context.Context) error {
	waits := false
	for _, m := range w.members {
		if m.pod.Spec.Containers[0].Image == w.cg.Spec.Image {
			// The agent of the new container has begun nothing yet.
			waits = waits || w.memory.record.Image != w.cg.Spec.Image && (m.state == nil || m.state.Generation != 0) && !m.well(w.cg.Spec.Generation)
			continue
		}
		before := m.pod.DeepCopy()
		m.pod.Spec.Containers[0].Image = w.cg.Spec.Image
		if err := w.r.client.Patch(ctx, m.pod, client.StrategicMergeFrom(before)); err != nil {
			return err
		}
		waits = true
	}
	if waits {
		w.memory.record.Baseline = nil // nothing can be compared with the new containers later
		return errNotYet
	}
	return nil
}
