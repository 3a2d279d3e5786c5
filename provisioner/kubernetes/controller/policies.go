package controller

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes"
)

// ensurePolicies keeps groups apart: members reach each other, the controller and the brokers reach
// the agents, everybody reaches the published ports of the leader, and nothing leads out.
func (w *work) ensurePolicies(ctx context.Context) error {
	group := metav1.LabelSelector{MatchLabels: map[string]string{kubernetes.LabelGroup: w.cg.Name}}
	agentPort := intstr.FromInt32(agent.Port)
	members := &networkingv1.NetworkPolicy{ObjectMeta: w.meta("cg-"+w.cg.Name, "")}
	members.Spec = networkingv1.NetworkPolicySpec{
		PodSelector: group, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		Ingress: []networkingv1.NetworkPolicyIngressRule{
			{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &group}}},
			{Ports: []networkingv1.NetworkPolicyPort{{Port: &agentPort}}, From: []networkingv1.NetworkPolicyPeer{{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": w.r.o.System}},
				PodSelector:       &metav1.LabelSelector{MatchLabels: w.r.callers()}}}},
		},
		Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{PodSelector: &group}}}},
	}
	wanted := []*networkingv1.NetworkPolicy{members}
	if len(w.def.Recipe.Endpoints) > 0 {
		leader := &networkingv1.NetworkPolicy{ObjectMeta: w.meta("cg-"+w.cg.Name+"-published", "")}
		leader.Spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{kubernetes.LabelGroup: w.cg.Name, kubernetes.LabelMember: w.list[0].Name}}
		leader.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		var ports []networkingv1.NetworkPolicyPort
		for i, e := range portsOf(w.def.Recipe.Endpoints) {
			for generation := range int64(2) {
				first := intstr.FromInt32(doorPort(i, e, generation))
				p := networkingv1.NetworkPolicyPort{Port: &first}
				if e.Count > 1 {
					p.EndPort = ptr.To(first.IntVal + e.Count - 1)
				}
				ports = append(ports, p)
			}
		}
		leader.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{Ports: ports}}
		wanted = append(wanted, leader)
	}
	if m := w.egress(); m != nil {
		wanted = append(wanted, w.egressPolicy(m))
	}
	for _, p := range wanted {
		var there networkingv1.NetworkPolicy
		err := w.r.client.Get(ctx, client.ObjectKeyFromObject(p), &there)
		if apierrors.IsNotFound(err) {
			err = w.r.client.Create(ctx, p)
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

// egressPolicy lets the way out look names up and go everywhere but to other groups, to the controller
// and to what belongs to a node alone. Where the cluster takes address blocks for pods too, pods of other groups
// are closed by their own policies but for published ports; all else is the agent's matter (egressRules).
func (w *work) egressPolicy(m *member) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: w.meta("cg-"+w.cg.Name+"-egress", "")}
	p.Spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{kubernetes.LabelGroup: w.cg.Name, kubernetes.LabelMember: m.Name}}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
	dns := intstr.FromInt32(53)
	p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{
		{Ports: []networkingv1.NetworkPolicyPort{{Port: &dns, Protocol: ptr.To(corev1.ProtocolUDP)}, {Port: &dns, Protocol: ptr.To(corev1.ProtocolTCP)}}},
		{To: []networkingv1.NetworkPolicyPeer{
			{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"169.254.0.0/16"}}},
			{IPBlock: &networkingv1.IPBlock{CIDR: "::/0", Except: []string{"fe80::/10"}}},
			{NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: "kubernetes.io/metadata.name", Operator: metav1.LabelSelectorOpNotIn, Values: []string{w.cg.Namespace, w.r.o.System}}}}},
		}},
	}
	return p
}

func (r *Reconciler) callers() map[string]string {
	if len(r.o.Callers) > 0 {
		return r.o.Callers
	}
	return map[string]string{"app.kubernetes.io/name": "remuda"}
}
