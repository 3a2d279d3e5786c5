//go:build kube

package controller_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/e2e/cluster"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
	"github.com/remuda/remuda/provisioner/kubernetes/controller"
	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
)

// world is a controller and a back end with a client that may do everything.
type world struct {
	*kubernetes.Backend
	t      *testing.T
	c      *cluster.Cluster
	client client.Client
}

func newWorld(t *testing.T, o controller.Options) *world {
	t.Helper()
	c := kubetest.Cluster(t)
	if o.StorageClass == "" {
		o.StorageClass = cluster.DiskClass
	}
	w := &world{Backend: newBackend(t, c, o), t: t, c: c}
	scheme, err := kubernetes.NewScheme()
	if err == nil {
		w.client, err = client.New(c.RESTConfig(), client.Options{Scheme: scheme})
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func redis(t *testing.T) provisioner.Definition {
	t.Helper()
	all, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.Name == "redis" {
			return provisioner.NewDefinition(r, r.Offering.Plans[0], kubetest.Image)
		}
	}
	t.Fatal("no recipe redis")
	return provisioner.Definition{}
}

func (w *world) create(id string) provisioner.Group {
	w.t.Helper()
	g := provisioner.Group{ID: id, Generation: 1, Definition: redis(w.t)}
	o, err := w.Create(w.t.Context(), g)
	if err != nil {
		w.t.Fatal(err)
	}
	g.Endpoints = o.Endpoints
	return g
}

func (w *world) group(id string) *v1alpha1.ContainerGroup {
	w.t.Helper()
	var cg v1alpha1.ContainerGroup
	if err := w.client.Get(context.Background(), client.ObjectKey{Namespace: kubetest.Namespace, Name: id}, &cg); err != nil {
		w.t.Fatal(err)
	}
	return &cg
}

func (w *world) eventually(what string, bound time.Duration, done func() (bool, string)) {
	w.t.Helper()
	var said string
	for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var ok bool
		if ok, said = done(); ok {
			return
		}
	}
	w.t.Fatalf("not within %s: %s: %s", bound, what, said)
}

// patch changes a spec as a user with kubectl would.
func (w *world) patch(id, body string) {
	w.t.Helper()
	cg := &v1alpha1.ContainerGroup{ObjectMeta: metav1.ObjectMeta{Name: id, Namespace: kubetest.Namespace}}
	if err := w.client.Patch(w.t.Context(), cg, client.RawPatch(types.MergePatchType, []byte(body))); err != nil {
		w.t.Fatal(err)
	}
}

// reaches waits until the group is in the phase, by its newest spec.
func (w *world) reaches(id string, want v1alpha1.Phase) {
	w.t.Helper()
	w.eventually("phase "+string(want), time.Minute, func() (bool, string) {
		g := w.group(id)
		return g.Status.Phase == want && g.Status.ObservedGeneration == g.Generation, string(g.Status.Phase) + " " + g.Status.Reason
	})
}

// A status that somebody has edited, and objects that somebody has deleted, come back as they were.
func TestHeals(t *testing.T) {
	w := newWorld(t, controller.Options{})
	g := w.create("healed")
	if err := w.Publish(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	was := w.group("healed")
	edited := was.DeepCopy()
	edited.Status.Phase, edited.Status.Generation, edited.Status.Leader, edited.Status.Endpoints = v1alpha1.PhaseWarm, 7, "nobody", nil
	edited.Status.Conditions = nil
	if err := w.client.Status().Patch(t.Context(), edited, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
	w.eventually("the status is as it was", 10*time.Second, func() (bool, string) {
		s := w.group("healed").Status
		return s.Phase == v1alpha1.PhaseClaimed && s.Generation == 1 && s.Leader == was.Status.Leader && len(s.Endpoints) == 1 && len(s.Conditions) > 0, fmt.Sprintf("%+v", s)
	})
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: kubernetes.ServiceName("healed", 1), Namespace: kubetest.Namespace}}
	if err := w.client.Delete(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	w.eventually("the service is back at its address", 10*time.Second, func() (bool, string) {
		err := w.client.Get(t.Context(), client.ObjectKeyFromObject(service), service)
		return err == nil && service.Spec.ClusterIP == was.Status.Address, fmt.Sprint(err, service.Spec.ClusterIP)
	})
	if _, err := w.c.Kubectl("-n", kubetest.Namespace, "delete", "networkpolicies", "--all"); err != nil {
		t.Fatal(err)
	}
	w.eventually("the policies are back", 10*time.Second, func() (bool, string) {
		out, err := w.c.Kubectl("-n", kubetest.Namespace, "get", "networkpolicies", "-o", "name")
		return err == nil && strings.Count(out, "cg-healed") == 2, out
	})
}

// A group is closed when its resource is deleted, whoever does it, without any broker.
func TestDeletedByHand(t *testing.T) {
	w := newWorld(t, controller.Options{})
	w.create("deleted")
	if _, err := w.c.Kubectl("-n", kubetest.Namespace, "delete", "cg", "deleted", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	out, err := w.c.Kubectl("-n", kubetest.Namespace, "get", "pods,services,persistentvolumeclaims,secrets,networkpolicies", "-l", kubernetes.LabelGroup+"=deleted", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "networkpolic") { // they go with their owner, a moment later
			t.Errorf("left: %s", line)
		}
	}
}

// A missing image is told in a condition, in the error of Create, and nothing else is disturbed.
func TestMissingImage(t *testing.T) {
	w := newWorld(t, controller.Options{})
	d := redis(t)
	d.Image = "localhost/not-there:1"
	_, err := w.Create(t.Context(), provisioner.Group{ID: "missing", Generation: 1, Definition: d})
	if err == nil || !strings.Contains(err.Error(), "not-there") {
		t.Errorf("create says %v", err)
	}
	cg := w.group("missing")
	found := false
	for _, c := range cg.Status.Conditions {
		found = found || c.Type == v1alpha1.Ready && c.Status == metav1.ConditionFalse && c.Reason == v1alpha1.ReasonImage && strings.Contains(c.Message, "not-there")
	}
	if !found {
		t.Errorf("conditions are %+v", cg.Status.Conditions)
	}
	w.create("beside")
}

// Nobody gives orders to an agent without the authority's word: no certificate, one of another
// authority, that of an agent, and that of the right one to the wrong group.
func TestOrdersNeedAuthority(t *testing.T) {
	w := newWorld(t, controller.Options{})
	w.create("first")
	w.create("second")
	address := func(id string) string { return w.group(id).Status.Members[0].Address }
	var orders, own corev1.Secret
	for name, s := range map[client.ObjectKey]*corev1.Secret{{Namespace: kubetest.System, Name: kubernetes.OrdersSecret}: &orders, {Namespace: kubetest.Namespace, Name: kubernetes.SecretName("first")}: &own} {
		if err := w.client.Get(t.Context(), name, s); err != nil {
			t.Fatal(err)
		}
	}
	stranger, err := kubernetes.NewAuthority(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := stranger.Orders(time.Hour, orders.Data[kubernetes.KeyAuthorities])
	if err != nil {
		t.Fatal(err)
	}
	ask := func(config *tls.Config, id string) error {
		c := agent.NewClientTLS(net.JoinHostPort(address(id), strconv.Itoa(agent.Port)), func() (*tls.Config, error) { return config, nil })
		defer c.CloseIdle()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := c.State(ctx)
		return err
	}
	config := func(i agent.Identity, group string) *tls.Config {
		c, err := kubernetes.OrdersConfig(i, group)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	good := kubernetes.IdentityOf(&orders)
	if err := ask(config(good, "first"), "first"); err != nil {
		t.Errorf("with the right certificate: %v", err)
	}
	none := config(good, "first")
	none.Certificates = nil
	for name, try := range map[string]struct {
		config *tls.Config
		to     string
	}{
		"no certificate":            {none, "first"},
		"one of a stranger":         {config(forged, "first"), "first"},
		"an agent's own":            {config(kubernetes.IdentityOf(&own), "second"), "second"},
		"an agent's own, at itself": {config(kubernetes.IdentityOf(&own), "first"), "first"},
		"the wrong group":           {config(good, "first"), "second"},
	} {
		if err := ask(try.config, try.to); err == nil {
			t.Errorf("%s is obeyed", name)
		}
	}
}

// Certificates and their authority are renewed while groups live, and orders go on.
func TestRotation(t *testing.T) {
	forget := func() { // what lives longer, and then what does not
		for _, name := range []string{kubernetes.AuthoritySecret, kubernetes.OrdersSecret} {
			if _, err := kubetest.Cluster(t).Kubectl("-n", kubetest.System, "delete", "secret", name, "--ignore-not-found"); err != nil {
				t.Fatal(err)
			}
		}
	}
	forget()
	t.Cleanup(forget)
	w := newWorld(t, controller.Options{CertificateLife: 6 * time.Second, AuthorityLife: 20 * time.Second})
	g := w.create("rotating")
	container := func() string {
		out, err := w.c.Kubectl("-n", kubetest.Namespace, "get", "pod", kubernetes.PodName("rotating", "server-0"), "-o",
			"jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID}")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := container()
	authorities := map[string]bool{}
	shown := map[string]bool{}
	for end := time.Now().Add(32 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Second) {
		var s corev1.Secret
		if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: kubetest.System, Name: kubernetes.AuthoritySecret}, &s); err != nil {
			t.Fatal(err)
		}
		for key, text := range s.Data {
			if block, _ := pem.Decode(text); strings.HasSuffix(key, ".crt") && block != nil {
				authorities[string(block.Bytes)] = true
			}
		}
		conn, err := tls.Dial("tcp", net.JoinHostPort(w.group("rotating").Status.Members[0].Address, strconv.Itoa(agent.Port)), &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			shown[string(conn.ConnectionState().PeerCertificates[0].Raw)] = true
			conn.Close()
		}
		if err := w.Publish(t.Context(), g); err != nil {
			t.Fatalf("publish: %v", err)
		}
		if err := w.Cutoff(t.Context(), g.ID, g.Generation+1); err != nil {
			t.Fatalf("cutoff: %v", err)
		}
		g.Generation++
		if _, err := w.Reset(t.Context(), g); err != nil {
			t.Fatalf("reset: %v", err)
		}
	}
	if len(authorities) < 2 || len(shown) < 3 {
		t.Errorf("seen %d authorities and %d certificates of the agent", len(authorities), len(shown))
	}
	if after := container(); after != before {
		t.Errorf("the container was %s and is %s", before, after)
	}
}

// The pod of a group without a CPU limit has none, keeps none in other sizes, and is still never restarted.
func TestNoCPULimit(t *testing.T) {
	w := newWorld(t, controller.Options{})
	spec, err := kubernetes.SpecOf(redis(t), func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	spec.Generation, spec.CPULimit = 1, v1alpha1.CPULimitNone
	cg := &v1alpha1.ContainerGroup{ObjectMeta: metav1.ObjectMeta{Name: "bursts", Namespace: kubetest.Namespace}, Spec: spec}
	if err := w.client.Create(t.Context(), cg); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = w.c.Kubectl("-n", kubetest.Namespace, "delete", "cg", "bursts", "--timeout=60s") }()
	phase := func(want v1alpha1.Phase) { t.Helper(); w.reaches("bursts", want) }
	container := ""
	sized := func(cpu, memory string) {
		t.Helper()
		var pod corev1.Pod
		if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: kubetest.Namespace, Name: kubernetes.PodName("bursts", "server-0")}, &pod); err != nil {
			t.Fatal(err)
		}
		r, status := pod.Spec.Containers[0].Resources, pod.Status.ContainerStatuses[0]
		if len(r.Limits) != 1 || r.Limits.Memory().String() != memory || r.Requests.Cpu().String() != cpu {
			t.Errorf("resources %+v, want %s of CPU asked for and %s of memory as the only limit", r, cpu, memory)
		}
		if container = cmp.Or(container, status.ContainerID); status.ContainerID != container || status.RestartCount != 0 {
			t.Errorf("container %s, restarted %d times; it was %s", status.ContainerID, status.RestartCount, container)
		}
	}
	phase(v1alpha1.PhaseWarm)
	was := spec.Members[0]
	sized(resource.NewMilliQuantity(was.CPU.MilliValue()/10, resource.DecimalSI).String(), was.Memory.String())
	w.patch("bursts", `{"spec":{"lent":1,"published":true}}`)
	phase(v1alpha1.PhaseClaimed)
	w.patch("bursts", fmt.Sprintf(`{"spec":{"attempt":1,"members":[{"role":"server","count":1,"cpu":"2","memory":"512Mi","disk":%q,"ephemeral":true}]}}`, was.Disk.String()))
	phase(v1alpha1.PhaseClaimed)
	sized("200m", "512Mi")
	w.patch("bursts", `{"spec":{"published":false,"generation":2}}`)
	phase(v1alpha1.PhaseWarm)
	sized("200m", "512Mi")
	limited := &v1alpha1.ContainerGroup{ObjectMeta: cg.ObjectMeta}
	err = w.client.Patch(t.Context(), limited, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"cpuLimit":"Plan"}}`)))
	if err == nil || !strings.Contains(err.Error(), "cpuLimit cannot change") {
		t.Errorf("another rule for the CPU limit: %v", err)
	}
}

// Who wrote which field of a broker's group is not kept, which makes writes shorter, until somebody applies fields.
func TestManagers(t *testing.T) {
	w := newWorld(t, controller.Options{})
	g := w.create("managers")
	if len(w.group(g.ID).ManagedFields) == 0 {
		t.Error("the API server keeps no managers of its own accord, so this proves nothing")
	}
	life := func() {
		t.Helper()
		err := w.Publish(t.Context(), g)
		g.Generation++
		err = cmp.Or(err, w.Cutoff(t.Context(), g.ID, g.Generation))
		if err == nil {
			_, err = w.Reset(t.Context(), g)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	life()
	life()
	if left := w.group(g.ID).ManagedFields; len(left) > 0 {
		t.Errorf("after two lives the managers are %v", left)
	}
	applied := []byte(`{"apiVersion":"remuda.dev/v1alpha1","kind":"ContainerGroup","metadata":{"name":"managers","labels":{"team":"a"}}}`)
	if err := w.client.Patch(t.Context(), w.group(g.ID), client.RawPatch(types.ApplyPatchType, applied), client.FieldOwner("people"), client.ForceOwnership); err != nil {
		t.Fatal(err)
	}
	life()
	if !slices.ContainsFunc(w.group(g.ID).ManagedFields, func(f metav1.ManagedFieldsEntry) bool { return f.Manager == "people" }) {
		t.Errorf("somebody applied a label, but the managers are %v", w.group(g.ID).ManagedFields)
	}
}

// A group that was made by hand names its recipe alone; the controller knows it.
func TestMadeByHand(t *testing.T) {
	all, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, controller.Options{Recipes: all})
	d := redis(t)
	spec, err := kubernetes.SpecOf(d, func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	spec.Recipe.Content, spec.Generation = "", 1
	cg := &v1alpha1.ContainerGroup{ObjectMeta: metav1.ObjectMeta{Name: "byhand", Namespace: kubetest.Namespace}, Spec: spec}
	if err := w.client.Create(t.Context(), cg); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = w.c.Kubectl("-n", kubetest.Namespace, "delete", "cg", "byhand", "--timeout=60s") }()
	phase := func(want v1alpha1.Phase) { t.Helper(); w.reaches("byhand", want) }
	phase(v1alpha1.PhaseWarm)
	w.patch("byhand", `{"spec":{"lent":1,"published":true}}`)
	phase(v1alpha1.PhaseClaimed)
	c, err := net.DialTimeout("tcp", net.JoinHostPort(w.group("byhand").Status.Address, "6379"), 5*time.Second)
	if err != nil {
		t.Fatalf("the published address: %v", err)
	}
	c.Close()
	w.patch("byhand", `{"spec":{"published":false}}`)
	phase(v1alpha1.PhaseReturned)
	w.patch("byhand", `{"spec":{"generation":2}}`)
	phase(v1alpha1.PhaseWarm)
	unknown := cg.DeepCopy()
	unknown.ObjectMeta = metav1.ObjectMeta{Name: "unknown", Namespace: kubetest.Namespace}
	unknown.Spec.Recipe.Version = "0.0.1"
	if err := w.client.Create(t.Context(), unknown); err != nil {
		t.Fatal(err)
	}
	w.eventually("the unknown recipe is told", 10*time.Second, func() (bool, string) {
		g := w.group("unknown")
		return g.Status.Phase == v1alpha1.PhaseFailed && strings.Contains(g.Status.Reason, "0.0.1"), g.Status.Reason
	})
	if _, err := w.c.Kubectl("-n", kubetest.Namespace, "delete", "cg", "unknown", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
}

// The controller is restarted at any time: warm groups stay warm, lent ones are not touched, and what
// was under way is finished.
func TestControllerRestarts(t *testing.T) {
	c := kubetest.Cluster(t)
	kubetest.CustomResource(t, c)
	namespaces(t, c)
	o := withDefaults(t, c, controller.Options{StorageClass: cluster.DiskClass, Elect: true})
	stop := runController(t, o)
	defer stop()
	b := newBackend(t, c, controller.Options{StorageClass: cluster.DiskClass, Elect: true}) // with one in reserve
	g := provisioner.Group{ID: "restart", Generation: 1, Definition: redis(t)}
	made, err := b.Create(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(made.Endpoints[0].Host, strconv.Itoa(made.Endpoints[0].Port)), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stop()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if err := b.Cutoff(t.Context(), g.ID, 2); err != nil { // by the agent alone
		t.Fatal(err)
	}
	g.Generation = 2
	if _, err := b.Reset(t.Context(), g); err != nil { // by the one in reserve, with nothing remembered
		t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the tenant's connection after the cut-off: %v", err)
	}
}
