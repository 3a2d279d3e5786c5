package controller

import (
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

// Where the doors of a leader are: out of the way of servers, which may be at the published number, and
// in one generation elsewhere than in the next, so that the address of a former tenant, which some node may
// still know when the next one comes, leads nowhere. Every group has addresses of its own.
const (
	firstDoorPort = 20000
	firstRowPort  = 30000
	doorShift     = 1000
)

// doorPort is where the pod's first door of an endpoint is in a generation.
func doorPort(i int, published v1alpha1.Endpoint, generation int64) int32 {
	shift := int32(generation%2) * doorShift
	if published.Count > 0 {
		return published.Port + shift
	}
	return firstDoorPort + int32(i) + shift
}

// newService is the group's address in a generation. Nothing listens behind it before the group is
// lent.
func (w *work) newService(generation int64) *corev1.Service {
	s := &corev1.Service{ObjectMeta: w.meta(kubernetes.ServiceName(w.cg.Name, generation), "")}
	s.Labels[kubernetes.LabelGeneration] = strconv.FormatInt(generation, 10)
	s.Spec.Selector = map[string]string{kubernetes.LabelGroup: w.cg.Name, kubernetes.LabelMember: w.list[0].Name}
	s.Spec.PublishNotReadyAddresses = true
	for i, e := range portsOf(w.def.Recipe.Endpoints) {
		for n := range max(e.Count, 1) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprintf("p%d", e.Port+n), Port: e.Port + n,
				TargetPort: intstr.FromInt32(doorPort(i, e, generation) + n), Protocol: corev1.ProtocolTCP})
		}
	}
	return s
}

// findService finds the service of this generation.
func (w *work) findService(ctx context.Context) error {
	if len(w.def.Recipe.Endpoints) == 0 {
		return nil
	}
	var s corev1.Service
	err := w.r.client.Get(ctx, client.ObjectKey{Namespace: w.cg.Namespace, Name: kubernetes.ServiceName(w.cg.Name, w.cg.Spec.Generation)}, &s)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil && s.DeletionTimestamp.IsZero() {
		w.service = &s
	}
	return err
}

// ensureService makes it when it is not there. Where brokers know its address, it keeps that
// also when somebody has deleted it.
func (w *work) ensureService(ctx context.Context) error {
	if w.service != nil || len(w.def.Recipe.Endpoints) == 0 {
		return nil
	}
	s := w.newService(w.cg.Spec.Generation)
	if w.lent() || w.memory.proven == w.cg.Spec.Generation {
		s.Spec.ClusterIP = w.cg.Status.Address
	}
	if err := w.r.client.Create(ctx, s); err != nil {
		return err
	}
	w.service = s
	return nil
}

// tendServices removes the addresses of former generations, and makes that of the next one: nodes
// may learn of an address only once a second, and the next tenant shall not wait for that.
func (w *work) tendServices(ctx context.Context) error {
	if len(w.def.Recipe.Endpoints) == 0 {
		return nil
	}
	var list corev1.ServiceList
	err := w.r.client.List(ctx, &list, client.InNamespace(w.cg.Namespace), client.MatchingLabels{kubernetes.LabelGroup: w.cg.Name})
	if err != nil {
		return err
	}
	next := w.cg.Spec.Generation + 1
	for i := range list.Items {
		switch s := &list.Items[i]; {
		case !isOwner(w.cg, s) || !s.DeletionTimestamp.IsZero(), s.Name == kubernetes.ServiceName(w.cg.Name, w.cg.Spec.Generation):
		case s.Name == kubernetes.ServiceName(w.cg.Name, next):
			w.memory.ahead = next
		default:
			if err := client.IgnoreNotFound(w.r.client.Delete(ctx, s)); err != nil {
				return err
			}
		}
	}
	if w.memory.ahead == next { // perhaps only the watch does not know it yet
		return nil
	}
	err = w.r.client.Create(ctx, w.newService(next))
	if refused(err) { // a quota; there may be room when it must be made
		w.log.Warn("the service of the next generation cannot be made ahead", "error", err)
		err = nil
	}
	if client.IgnoreAlreadyExists(err) != nil {
		return err
	}
	w.memory.ahead = next
	return nil
}
