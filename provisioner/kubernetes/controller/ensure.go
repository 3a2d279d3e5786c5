package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
	"github.com/remuda/remuda/provisioner/orders"
)

// overdue is how long after its time a pod that is being deleted is deleted by force: its
// node does not answer.
const overdue = 15 * time.Second

// ensurePods makes the pods that are missing and may be made, and says whether all run.
func (w *work) ensurePods(ctx context.Context) (bool, error) {
	all := true
	for _, m := range w.members {
		runs, err := w.ensurePod(ctx, m)
		if err != nil {
			return false, err
		}
		all = all && runs
	}
	return all, nil
}

func (w *work) ensurePod(ctx context.Context, m *member) (runs bool, err error) {
	name := kubernetes.PodName(w.cg.Name, m.Name)
	var pod corev1.Pod
	err = w.r.client.Get(ctx, client.ObjectKey{Namespace: w.cg.Namespace, Name: name}, &pod)
	if client.IgnoreNotFound(err) != nil {
		return false, err
	}
	if err == nil && !isOwner(w.cg, &pod) {
		w.note(v1alpha1.ReasonWaiting, fmt.Sprintf("a pod %s of somebody else is in the way", name))
		return false, nil
	}
	if err != nil {
		return false, w.makePod(ctx, m, name)
	}
	m.pod = &pod
	switch {
	case !pod.DeletionTimestamp.IsZero():
		m.reason = "its pod is being deleted"
		if time.Since(pod.DeletionTimestamp.Time) > overdue {
			return false, client.IgnoreNotFound(w.r.client.Delete(ctx, &pod, client.GracePeriodSeconds(0)))
		}
		w.lose(m)
		return false, nil
	case pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded:
		m.reason = fmt.Sprintf("its pod has ended: %s %s", pod.Status.Reason, pod.Status.Message)
		if w.memory.record.Begun && !w.lent() {
			w.lose(m)
			return false, nil
		}
		return false, client.IgnoreNotFound(w.r.client.Delete(ctx, &pod, client.GracePeriodSeconds(0)))
	}
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == agentContainer && s.State.Running != nil && pod.Status.PodIP != "" {
			m.client = w.r.agents.Client(w.cg.Name, pod.Status.PodIP)
			return true, nil
		}
	}
	reason, message := waiting(&pod)
	if w.lent() && (w.hasClaim(m.Member) || orders.IsEgress(m.Member)) && backsOff(&pod) {
		// A new pod begins at once, and the data, if any, are on the volume.
		m.reason = message
		return false, client.IgnoreNotFound(w.r.client.Delete(ctx, &pod, client.GracePeriodSeconds(0)))
	}
	m.reason = message
	w.note(reason, fmt.Sprintf("%s: %s", name, message))
	if reason == v1alpha1.ReasonWaiting {
		if why := w.volumeTrouble(ctx, m); why != "" {
			w.note(v1alpha1.ReasonVolume, fmt.Sprintf("%s: %s", name, why))
		}
		w.lose(m)
	}
	return false, nil
}

// lose gives up a warm group that has lost a member. Those of tenants are brought back.
func (w *work) lose(m *member) {
	if w.memory.record.Begun && !w.lent() {
		w.fail(v1alpha1.ReasonMember, fmt.Sprintf("%s: %s", kubernetes.PodName(w.cg.Name, m.Name), m.reason), false)
	}
}

// makePod makes a pod that is not there, unless it had what cannot be made again.
func (w *work) makePod(ctx context.Context, m *member, name string) error {
	m.reason = "it has no pod"
	if w.memory.record.Begun {
		if !w.lent() {
			w.lose(m)
			return nil
		}
		if !w.hasClaim(m.Member) && len(m.Role.Paths) > 0 {
			m.reason = "its pod is gone, and its data with it"
			w.memory.failed = &trouble{number: w.cg.Generation, reason: v1alpha1.ReasonData, message: name + ": " + m.reason}
			w.trouble, w.phase = w.memory.failed, v1alpha1.PhaseFailed
			return nil
		}
	}
	if w.hasClaim(m.Member) {
		var there corev1.PersistentVolumeClaim
		err := w.r.client.Get(ctx, client.ObjectKey{Namespace: w.cg.Namespace, Name: name}, &there)
		if apierrors.IsNotFound(err) && w.memory.record.Begun {
			m.reason = "its volume claim is gone, and its data with it"
			w.memory.failed = &trouble{number: w.cg.Generation, reason: v1alpha1.ReasonData, message: name + ": " + m.reason}
			w.trouble, w.phase = w.memory.failed, v1alpha1.PhaseFailed
			return nil
		}
		if apierrors.IsNotFound(err) {
			err = w.r.client.Create(ctx, w.claim(m.Member))
		}
		if err != nil {
			return err
		}
		if there.Name != "" && (!isOwner(w.cg, &there) || !there.DeletionTimestamp.IsZero()) {
			w.note(v1alpha1.ReasonVolume, fmt.Sprintf("a volume claim %s of somebody else is in the way", name))
			return nil
		}
		if waitsForPod(&there) && time.Now().Before(w.memory.growUntil) {
			m.reason = "its volume is growing"
			w.note(v1alpha1.ReasonVolume, name+": "+m.reason)
			w.again = soon
			return nil
		}
	}
	pod, err := w.pod(m.Member)
	if err != nil {
		return err
	}
	if err := w.r.client.Create(ctx, pod); err != nil {
		return err
	}
	m.reason = "its pod is being made"
	w.note(v1alpha1.ReasonWaiting, name+": "+m.reason)
	return nil
}

// backsOff says whether the kubelet waits before it starts a container that has ended often.
func backsOff(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff"
	})
}

// waiting says what a pod waits for.
func waiting(pod *corev1.Pod) (reason, message string) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return v1alpha1.ReasonUnschedulable, c.Message
		}
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		switch {
		case s.State.Waiting != nil && slices.Contains([]string{"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError", "RegistryUnavailable"}, s.State.Waiting.Reason):
			return v1alpha1.ReasonImage, s.State.Waiting.Reason + ": " + s.State.Waiting.Message
		case s.State.Waiting != nil && s.State.Waiting.Reason != "PodInitializing":
			return v1alpha1.ReasonWaiting, "its container waits: " + s.State.Waiting.Reason + " " + s.State.Waiting.Message
		case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
			return v1alpha1.ReasonWaiting, fmt.Sprintf("its container %s has ended with %d %s", s.Name, s.State.Terminated.ExitCode, s.State.Terminated.Reason)
		}
	}
	return v1alpha1.ReasonWaiting, "its pod is starting"
}

// volumeTrouble says why a member's claim is not bound, as far as that shows.
func (w *work) volumeTrouble(ctx context.Context, m *member) string {
	if !w.hasClaim(m.Member) {
		return ""
	}
	var c corev1.PersistentVolumeClaim
	if err := w.r.client.Get(ctx, client.ObjectKey{Namespace: w.cg.Namespace, Name: kubernetes.PodName(w.cg.Name, m.Name)}, &c); err != nil {
		return ""
	}
	if c.Status.Phase == corev1.ClaimPending && time.Since(c.CreationTimestamp.Time) > 5*time.Second {
		return "its volume claim is not bound; is there a storage class that serves it?"
	}
	return ""
}
