//go:build kube

package kube

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/remuda/remuda/e2e/cluster"
	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
)

const (
	brokerUser     = "system:serviceaccount:remuda:remuda-broker"
	controllerUser = "system:serviceaccount:remuda:remuda-controller"
)

// testRights asks the API server what the two accounts may do: everything in the
// table, and nothing beside it.
func testRights(t *testing.T, c *cluster.Cluster) {
	const groups, system = "remuda-groups", "remuda"
	allowed := map[string][]right{
		brokerUser: {
			{groups, "remuda.dev/containergroups", "", "get list watch create patch delete"},
			{system, "secrets", "remuda-agent-orders", "get"},
		},
		controllerUser: {
			{groups, "remuda.dev/containergroups", "", "get list watch patch"},
			{groups, "remuda.dev/containergroups/status", "", "patch"},
			{groups, "pods", "", "get list watch create patch delete"},
			{groups, "pods/resize", "", "patch"},
			{groups, "services", "", "get list watch create delete"},
			{groups, "persistentvolumeclaims", "", "get list watch create patch delete"},
			{groups, "networking.k8s.io/networkpolicies", "", "get list watch create"},
			{groups, "secrets", "", "get create update delete"},
			{system, "secrets", "", "create"},
			{system, "secrets", "remuda-agent-ca", "get create update"},
			{system, "secrets", "remuda-agent-orders", "get create update"},
			{system, "coordination.k8s.io/leases", "", "create"},
			{system, "coordination.k8s.io/leases", "remuda-controller", "get create update"},
			{system, "events", "", "create patch"},
		},
	}
	things := map[string][]string{ // and names of them that matter
		"remuda.dev/containergroups": {""}, "remuda.dev/containergroups/status": {""}, "remuda.dev/containergroups/finalizers": {""},
		"pods": {""}, "pods/resize": {""}, "pods/exec": {""}, "pods/attach": {""}, "pods/portforward": {""}, "pods/log": {""},
		"pods/ephemeralcontainers": {""}, "pods/eviction": {""}, "pods/binding": {""},
		"services": {""}, "endpoints": {""}, "persistentvolumeclaims": {""}, "configmaps": {""},
		"secrets":         {"", "remuda-agent-ca", "remuda-agent-orders", "remuda-platform", "remuda-seal"},
		"serviceaccounts": {""}, "serviceaccounts/token": {"", "remuda-controller"}, "events": {""},
		"coordination.k8s.io/leases": {"", "remuda-controller"}, "networking.k8s.io/networkpolicies": {""},
		"apps/deployments": {""}, "apps/daemonsets": {""}, "batch/jobs": {""},
		"rbac.authorization.k8s.io/roles": {""}, "rbac.authorization.k8s.io/rolebindings": {""},
	}
	wide := []string{"nodes", "nodes/proxy", "namespaces", "persistentvolumes", "users", "groups", "rbac.authorization.k8s.io/clusterroles",
		"rbac.authorization.k8s.io/clusterrolebindings", "apiextensions.k8s.io/customresourcedefinitions", "storage.k8s.io/storageclasses",
		"admissionregistration.k8s.io/validatingwebhookconfigurations", "certificates.k8s.io/certificatesigningrequests"}
	verbs := strings.Fields("get list watch create update patch delete deletecollection escalate bind impersonate use")
	config := c.RESTConfig()
	config.QPS = -1 // there are thousands of questions
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for user, list := range allowed {
		for _, namespace := range []string{groups, system, "kube-system", "default"} {
			for thing, names := range things {
				for _, name := range names {
					want := permitted(list, namespace, thing, name)
					for _, verb := range verbs {
						asked++
						if got := may(t, client, user, verb, namespace, thing, name); got != want[verb] {
							t.Errorf("%s may %s %s %q in %s: %v, want %v", user, verb, thing, name, namespace, got, want[verb])
						}
					}
				}
			}
		}
		for _, thing := range wide {
			for _, verb := range verbs {
				asked++
				if may(t, client, user, verb, "", thing, "") {
					t.Errorf("%s may %s %s in the cluster", user, verb, thing)
				}
			}
		}
	}
	t.Logf("%d questions", asked)
	for _, user := range []string{brokerUser, controllerUser} { // as people ask
		if out, err := c.Kubectl("auth", "can-i", "create", "pods", "-n", "kube-system", "--as="+user); err == nil || !strings.Contains(out+err.Error(), "no") {
			t.Errorf("can-i: %s %v", out, err)
		}
	}
}

// right allows verbs on things in a namespace: on all of them, or on the one with the name.
type right struct{ namespace, thing, name, verbs string }

func permitted(list []right, namespace, thing, name string) map[string]bool {
	out := map[string]bool{}
	for _, r := range list {
		if r.namespace == namespace && r.thing == thing && (r.name == "" || r.name == name) {
			for _, v := range strings.Fields(r.verbs) {
				out[v] = true
			}
		}
	}
	return out
}

func may(t *testing.T, client kubernetes.Interface, user, verb, namespace, thing, name string) bool {
	t.Helper()
	a := &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: verb, Name: name}
	parts := strings.SplitN(thing, "/", 2)
	if strings.Contains(parts[0], ".") || parts[0] == "apps" || parts[0] == "batch" {
		a.Group, parts = parts[0], strings.SplitN(parts[1], "/", 2)
	}
	a.Resource = parts[0]
	if len(parts) > 1 {
		a.Subresource = parts[1]
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user, Groups: []string{"system:serviceaccounts", "system:serviceaccounts:remuda", "system:authenticated"}, ResourceAttributes: a}}
	answer, err := client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Allowed
}

// testRefusals: what broker and controller have done up to now, they were allowed to do.
func testRefusals(t *testing.T, c *cluster.Cluster) {
	f, err := os.Open(c.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := map[string]int{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct {
			Verb       string
			RequestURI string
			User       struct{ Username string }
			Code       struct{ Code int } `json:"responseStatus"`
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.User.Username != brokerUser && e.User.Username != controllerUser {
			continue
		}
		seen[e.User.Username]++
		if e.Code.Code == 401 || e.Code.Code == 403 {
			t.Errorf("%s was not allowed to %s %s", e.User.Username, e.Verb, e.RequestURI)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if seen[brokerUser] == 0 || seen[controllerUser] == 0 {
		t.Errorf("the audit log knows nothing of them: %v", seen)
	}
}

// testLevels: both namespaces enforce their level of Pod Security, and what is ours was admitted.
func testLevels(t *testing.T, c *cluster.Cluster) {
	for name, level := range map[string]string{kubetest.System: "restricted", kubetest.Namespace: "baseline"} {
		ns, err := c.Client().CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, mode := range []string{"enforce", "warn", "audit"} {
			if got := ns.Labels["pod-security.kubernetes.io/"+mode]; got != level {
				t.Errorf("namespace %s: %s is %q", name, mode, got)
			}
		}
	}
	pods, err := c.Client().CoreV1().Pods(kubetest.System).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=remuda"})
	if err != nil || len(pods.Items) != 2 {
		t.Fatalf("%d pods of broker and controller: %v", len(pods.Items), err)
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		if p.Status.Phase != corev1.PodRunning || p.Status.ContainerStatuses[0].RestartCount > 0 {
			t.Errorf("%s is %s after %d restarts", p.Name, p.Status.Phase, p.Status.ContainerStatuses[0].RestartCount)
		}
	}
	root, privileged := &corev1.SecurityContext{}, &corev1.SecurityContext{Privileged: new(true)}
	for _, bad := range []struct {
		namespace string
		security  *corev1.SecurityContext
		want      string
	}{
		{kubetest.System, root, "restricted"}, {kubetest.Namespace, privileged, "baseline"},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "bad", Image: "localhost/none", SecurityContext: bad.security}}}}
		_, err := c.Client().CoreV1().Pods(bad.namespace).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil || !strings.Contains(err.Error(), "violates PodSecurity \""+bad.want) {
			t.Errorf("in %s: %v", bad.namespace, err)
		}
	}
}
