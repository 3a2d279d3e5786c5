package controller

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

// maxReason bounds texts in a status, in bytes.
const maxReason = 1024

func bounded(s string) string {
	if len(s) > maxReason {
		return s[:maxReason] + "…"
	}
	return s
}

// returnPause is how long the status does not say that a group was returned.
const returnPause = 100 * time.Millisecond

// passing says how long a status need not be written that will be another one at once: a group that
// is returned is mostly reset next, which would have to wait for that.
func (w *work) passing(now time.Time) time.Duration {
	if w.phase != v1alpha1.PhaseReturned || w.cg.Status.Phase != v1alpha1.PhaseClaimed || w.open || w.trouble != nil {
		w.memory.returned = time.Time{}
		return 0
	}
	if w.memory.returned.IsZero() {
		w.memory.returned = now
	}
	return max(0, w.memory.returned.Add(returnPause).Sub(now))
}

// writeStatus says how far the group is, when that has changed.
func (w *work) writeStatus(ctx context.Context) error {
	s := w.cg.Status.DeepCopy()
	s.ObservedGeneration, s.Phase, s.Published, s.Reason = w.cg.Generation, w.phase, w.open, ""
	s.Members = nil
	ready := 0
	all := len(w.members) > 0
	for _, m := range w.members {
		ms := w.memberStatus(m)
		if ms.Ready {
			ready++
		}
		s.Members = append(s.Members, ms)
		all = all && m.state != nil && int64(m.state.Generation) == w.cg.Spec.Generation
	}
	all = all && ready == len(w.members)
	s.Ready = fmt.Sprintf("%d/%d", ready, len(w.members))
	serves := all && (w.phase == v1alpha1.PhaseWarm || w.lent())
	if serves {
		s.Generation = w.cg.Spec.Generation
	}
	if len(w.members) > 0 {
		s.Leader = kubernetes.PodName(w.cg.Name, w.members[0].Name)
	}
	if w.service != nil {
		s.Address, s.Endpoints = w.service.Spec.ClusterIP, w.endpoints()
	}
	condition := metav1.Condition{Type: v1alpha1.Ready, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonServing, ObservedGeneration: w.cg.Generation}
	if !serves || w.trouble != nil {
		condition.Status, condition.Reason = metav1.ConditionFalse, v1alpha1.ReasonWaiting
		if w.trouble != nil {
			condition.Reason, condition.Message = w.trouble.reason, bounded(w.trouble.message)
			s.Reason = condition.Message
		}
	}
	meta.SetStatusCondition(&s.Conditions, condition)
	clean := metav1.Condition{Type: v1alpha1.Clean, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReset, ObservedGeneration: w.cg.Generation}
	switch {
	case w.trouble != nil && w.trouble.unclean:
		clean.Status, clean.Reason, clean.Message = metav1.ConditionFalse, v1alpha1.ReasonUnclean, bounded(w.trouble.message)
		meta.SetStatusCondition(&s.Conditions, clean)
	case w.phase == v1alpha1.PhaseWarm && serves:
		meta.SetStatusCondition(&s.Conditions, clean)
	case w.lent():
		meta.RemoveStatusCondition(&s.Conditions, v1alpha1.Clean) // it is in use
	}
	if w.fits != nil {
		w.fits.ObservedGeneration = w.cg.Generation
		meta.SetStatusCondition(&s.Conditions, *w.fits)
	}
	if equality.Semantic.DeepEqual(&w.cg.Status, s) {
		return nil
	}
	before := w.cg.DeepCopy()
	w.cg.Status = *s
	over := w.cg.ResourceVersion
	err := w.r.client.Status().Patch(ctx, w.cg, client.MergeFrom(before))
	if err == nil {
		w.memory.written = written{over: over, status: *s}
	}
	return client.IgnoreNotFound(err)
}

func (w *work) memberStatus(m *member) v1alpha1.MemberStatus {
	s := v1alpha1.MemberStatus{Name: m.Name, Role: m.Role.Name, Pod: kubernetes.PodName(w.cg.Name, m.Name),
		Disk:   *resource.NewQuantity(int64(m.Size.Disk), resource.BinarySI),
		Memory: *resource.NewQuantity(int64(m.Size.Memory), resource.BinarySI),
		CPU:    *resource.NewMilliQuantity(int64(m.Size.CPU*1000+0.5), resource.DecimalSI)}
	s.Ready = m.well(w.cg.Spec.Generation)
	if !s.Ready {
		s.Reason = bounded(m.reason)
	}
	if m.pod == nil {
		return s
	}
	var usage *agent.Usage
	if m.state != nil {
		usage = m.state.Usage
	}
	s.Load = w.memory.loadOf(m.Name, usage, time.Now())
	s.PodUID, s.Node, s.Address = string(m.pod.UID), m.pod.Spec.NodeName, m.pod.Status.PodIP
	for _, c := range m.pod.Status.ContainerStatuses {
		if c.Name == agentContainer {
			s.ContainerID = c.ContainerID
			if c.State.Running != nil {
				s.StartedAt = &c.State.Running.StartedAt
			}
		}
	}
	return s
}

// close removes everything of a group, and lets its resource go when the pods are gone.
func (r *Reconciler) close(ctx context.Context, cg *v1alpha1.ContainerGroup) (ctrl.Result, error) {
	if !hasFinalizer(cg) {
		return ctrl.Result{}, nil
	}
	mine := client.MatchingLabels{kubernetes.LabelGroup: cg.Name}
	in := client.InNamespace(cg.Namespace)
	var services corev1.ServiceList
	if err := r.client.List(ctx, &services, in, mine); err != nil {
		return ctrl.Result{}, err
	}
	for i := range services.Items {
		if isOwner(cg, &services.Items[i]) && services.Items[i].DeletionTimestamp.IsZero() {
			if err := client.IgnoreNotFound(r.client.Delete(ctx, &services.Items[i])); err != nil {
				return ctrl.Result{}, err
			}
		}
	}
	var pods corev1.PodList
	if err := r.client.List(ctx, &pods, in, mine); err != nil {
		return ctrl.Result{}, err
	}
	left := false
	for i := range pods.Items {
		p := &pods.Items[i]
		if !isOwner(cg, p) {
			continue
		}
		left = true
		// Nobody needs a kind end: the data go too. A pod that is being deleted kindly is ended now.
		if p.DeletionTimestamp.IsZero() || p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds > 1 {
			if err := client.IgnoreNotFound(r.client.Delete(ctx, p, client.GracePeriodSeconds(1))); err != nil {
				return ctrl.Result{}, err
			}
		} else if p.DeletionTimestamp.Add(overdue).Before(time.Now()) {
			if err := client.IgnoreNotFound(r.client.Delete(ctx, p, client.GracePeriodSeconds(0))); err != nil {
				return ctrl.Result{}, err
			}
		}
	}
	if cg.Status.Phase != v1alpha1.PhaseClosing {
		before := cg.DeepCopy()
		cg.Status.Phase, cg.Status.Published = v1alpha1.PhaseClosing, false
		if err := client.IgnoreNotFound(r.client.Status().Patch(ctx, cg, client.MergeFrom(before))); err != nil {
			return ctrl.Result{}, err
		}
	}
	if left {
		return ctrl.Result{RequeueAfter: overdue}, nil
	}
	var claims corev1.PersistentVolumeClaimList
	if err := r.client.List(ctx, &claims, in, mine); err != nil {
		return ctrl.Result{}, err
	}
	for i := range claims.Items {
		if !isOwner(cg, &claims.Items[i]) {
			continue
		}
		left = true
		if claims.Items[i].DeletionTimestamp.IsZero() {
			if err := client.IgnoreNotFound(r.client.Delete(ctx, &claims.Items[i])); err != nil {
				return ctrl.Result{}, err
			}
		}
	}
	if left {
		return ctrl.Result{RequeueAfter: overdue}, nil
	}
	secret := corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: kubernetes.SecretName(cg.Name), Namespace: cg.Namespace}}
	if err := client.IgnoreNotFound(r.client.Delete(ctx, &secret)); err != nil {
		return ctrl.Result{}, err
	}
	before := cg.DeepCopy()
	controllerutil.RemoveFinalizer(cg, kubernetes.Finalizer)
	if err := client.IgnoreNotFound(r.client.Patch(ctx, cg, client.MergeFrom(before))); err != nil {
		return ctrl.Result{}, err
	}
	r.forget(cg)
	return ctrl.Result{}, nil
}
