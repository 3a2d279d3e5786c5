package kubernetes

import (
	"fmt"

	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

// Labels of everything that belongs to groups.
const (
	LabelGroup       = "remuda.dev/group"       // id of the group
	LabelMember      = "remuda.dev/member"      // name of the member
	LabelBroker      = "remuda.dev/broker"      // of groups that a broker made: whose they are
	LabelFingerprint = "remuda.dev/fingerprint" // first 63 digits of the definition's
	LabelGeneration  = "remuda.dev/generation"  // of a service
)

// Finalizer keeps a group's resource until its pods are gone.
const Finalizer = "remuda.dev/close"

// Names of the secrets in the namespace of the controller.
const (
	AuthoritySecret = "remuda-agent-ca"     // keys of the authority; the controller's alone
	OrdersSecret    = "remuda-agent-orders" // what brokers show to agents
)

// PodName is that of a member.
func PodName(group, member string) string { return "cg-" + group + "-" + member }

// ServiceName is that of a group's address in one generation.
func ServiceName(group string, generation int64) string {
	return fmt.Sprintf("cg-%s-%d", group, generation)
}

// SecretName is that of what the agents of a group are told.
func SecretName(group string) string { return "cg-" + group }

// IsLent says whether the group is, or was, a tenant's in this generation.
func IsLent(s v1alpha1.ContainerGroupSpec) bool { return s.Lent != 0 && s.Lent == s.Generation }
