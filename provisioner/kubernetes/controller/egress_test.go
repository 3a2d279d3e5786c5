package controller

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

// gatewayWork is work at a gateway's group whose pods run.
func gatewayWork(t *testing.T) *work {
	t.Helper()
	all, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	return workOn(t, all[slices.IndexFunc(all, func(r catalog.Recipe) bool { return r.Name == "gateway" })])
}

// workOn is work at a recipe's group whose pods run.
func workOn(t *testing.T, r catalog.Recipe) *work {
	t.Helper()
	d := provisioner.NewDefinition(r, r.Offering.Plans[0], "image")
	spec, err := kubernetes.SpecOf(d, func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	spec.Generation = 3
	w := &work{r: &Reconciler{o: Options{System: "system", EgressDNS: corev1.DNSDefault}}, memory: &memory{}, def: d, list: d.MemberList(),
		cg: &v1alpha1.ContainerGroup{ObjectMeta: metav1.ObjectMeta{Name: "g", Namespace: "groups"}, Spec: spec}}
	for n, m := range w.list {
		pod := &corev1.Pod{Status: corev1.PodStatus{PodIP: fmt.Sprintf("10.0.0.%d", n+1)}}
		w.members = append(w.members, &member{Member: m, pod: pod})
	}
	return w
}

// With the level restricted nobody is root, nothing has a right, and the agent is told so.
func TestRestrictedPod(t *testing.T) {
	w := gatewayWork(t)
	w.memory = &memory{record: record{Level: kubernetes.Restricted}}
	p, err := w.pod(w.list[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
		s := c.SecurityContext
		if !*s.RunAsNonRoot || *s.RunAsUser != oneUser || *s.RunAsGroup != oneUser || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation ||
			!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: security %+v", c.Name, s)
		}
		if n := len(c.Command); !slices.Equal(c.Command[n-2:], []string{"--one-user", "www-data"}) {
			t.Errorf("%s: command %q", c.Name, c.Command)
		}
		for _, m := range c.VolumeMounts {
			if m.Name == "names" && m.ReadOnly == (c.Name == "layout") {
				t.Errorf("%s: %+v", c.Name, m)
			}
		}
	}
	if *p.Spec.SecurityContext.FSGroup != oneUser || *p.Spec.SecurityContext.FSGroupChangePolicy != corev1.FSGroupChangeOnRootMismatch {
		t.Errorf("security %+v", p.Spec.SecurityContext)
	}
	w.memory.record.Level = ""
	if p, err = w.pod(w.list[0]); err != nil || len(p.Spec.Volumes) != 2 || p.Spec.SecurityContext.FSGroup != nil || p.Spec.Containers[0].SecurityContext.RunAsNonRoot != nil ||
		!slices.Equal(p.Spec.Containers[0].SecurityContext.Capabilities.Add, []corev1.Capability{"SETUID", "SETGID", "KILL"}) {
		t.Errorf("baseline: %+v %v", p.Spec, err)
	}
}

// The way out has no right, no disk, nothing that could be written to, and looks names up.
func TestEgressPod(t *testing.T) {
	w := gatewayWork(t)
	m := w.egress()
	p, err := w.pod(m.Member)
	if err != nil {
		t.Fatal(err)
	}
	c := p.Spec.Containers[0]
	if w.hasClaim(m.Member) || len(p.Spec.Volumes)+len(p.Spec.InitContainers)+len(c.VolumeMounts) > 0 {
		t.Errorf("it has volumes: %+v", p.Spec)
	}
	s := c.SecurityContext
	if !*s.RunAsNonRoot || *s.RunAsUser != nobody || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation ||
		!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 || s.SeccompProfile == nil {
		t.Errorf("security %+v", s)
	}
	if !slices.Equal(c.Command, []string{"/remuda/agent", "agent", "--listen", ":7464", "--egress"}) || p.Spec.DNSPolicy != corev1.DNSDefault || len(c.Env) != 3 {
		t.Errorf("%q %s %+v", c.Command, p.Spec.DNSPolicy, c.Env)
	}
	leader, err := w.pod(w.list[0])
	if err != nil {
		t.Fatal(err)
	}
	if leader.Spec.DNSPolicy != corev1.DNSNone || len(leader.Spec.Volumes) != 2 || len(leader.Spec.Containers[0].Env) != 4 {
		t.Errorf("leader %+v", leader.Spec)
	}
}

func TestEgressPolicy(t *testing.T) {
	w := gatewayWork(t)
	p := w.egressPolicy(w.egress())
	if p.Spec.PodSelector.MatchLabels[kubernetes.LabelMember] != "egress-0" || !slices.Equal(p.Spec.PolicyTypes, []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}) {
		t.Errorf("%+v", p.Spec)
	}
	to := p.Spec.Egress[1].To
	for i, except := range []string{"169.254.0.0/16", "fe80::/10"} {
		if !slices.Equal(to[i].IPBlock.Except, []string{except}) {
			t.Errorf("%+v", to[i].IPBlock)
		}
	}
	if e := to[2].NamespaceSelector.MatchExpressions[0]; e.Operator != metav1.LabelSelectorOpNotIn || !slices.Equal(e.Values, []string{"groups", "system"}) {
		t.Errorf("%+v", e)
	}
}

// A way is of two pods and one generation, and both ends must know of it.
func TestJoined(t *testing.T) {
	told := func(name string) *agent.State {
		return &agent.State{Doors: []agent.DoorState{{Name: "gateway", Target: 8080}, {Name: "egress", Origin: name}}}
	}
	for what, test := range map[string]struct {
		leader, egress *agent.State
		want           bool
	}{
		"the same":               {told("3 10.0.0.1 10.0.0.2 A"), told("3 10.0.0.1 10.0.0.2 A"), true},
		"another one":            {told("3 10.0.0.1 10.0.0.2 A"), told("3 10.0.0.1 10.0.0.2 B"), false},
		"of another generation":  {told("2 10.0.0.1 10.0.0.2 A"), told("2 10.0.0.1 10.0.0.2 A"), false},
		"of another egress":      {told("3 10.0.0.1 10.0.0.9 A"), told("3 10.0.0.1 10.0.0.9 A"), false},
		"of another leader":      {told("3 10.0.0.11 10.0.0.2 A"), told("3 10.0.0.11 10.0.0.2 A"), false},
		"of a new egress":        {told("3 10.0.0.1 10.0.0.2 A"), &agent.State{}, false},
		"of a new leader":        {&agent.State{Doors: told("").Doors[:1]}, told("3 10.0.0.1 10.0.0.2 A"), false},
		"of nobody that answers": {nil, nil, false},
	} {
		w := gatewayWork(t)
		w.members[0].state, w.egress().state = test.leader, test.egress
		if got := w.joined(w.egress()); got != test.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func TestAPIServers(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	for host, want := range map[string][]agent.OwnPorts{
		"https://10.1.1.1:6443":        {{Address: netip.MustParseAddr("10.1.1.1"), First: 6443, Last: 6443}},
		"https://[fd00::1]":            {{Address: netip.MustParseAddr("fd00::1"), First: 443, Last: 443}},
		"https://api.example.com:6443": nil,
		"":                             nil,
	} {
		want = append([]agent.OwnPorts{{Address: netip.MustParseAddr("10.96.0.1"), First: 443, Last: 443}}, want...)
		if got := apiServers(host); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", host, got, want)
		}
	}
}

func TestPrefixes(t *testing.T) {
	got := prefixes([]string{"10.0.0.2", "None", "", "fd00::1", "10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1"})
	if fmt.Sprint(got) != "[10.0.0.1/32 10.0.0.2/32 fd00::1/128]" {
		t.Errorf("%v", got)
	}
}
