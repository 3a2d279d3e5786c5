//go:build kube

package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remuda/remuda/e2e/cluster"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
	"github.com/remuda/remuda/store/postgres/postgrestest"
)

// With this build tag the package's tests of a broker on Kubernetes run, and need a cluster.
func TestMain(m *testing.M) { os.Exit(kubetest.Main(m)) }

// installation is remuda in a cluster, as the production overlay makes it: two brokers on one
// PostgreSQL, two controllers.
type installation struct {
	*host    // speaks to the brokers' Service
	cluster  *cluster.Cluster
	postgres *postgrestest.Server
	way      *postgrestest.Proxy // from the brokers to PostgreSQL
	client   client.Client
}

// installed is the installation of this process: all tests share it.
var installed *installation

// install installs the production overlay with settings of the test.
func install(t testing.TB) *installation {
	t.Helper()
	if installed != nil {
		installed.t = t
		return installed
	}
	c := kubetest.Cluster(t)
	if err := c.ImportImage(t.Context(), kubetest.File("broker.tar")); err != nil {
		t.Fatal(err)
	}
	pg, err := postgrestest.New("")
	if err != nil {
		t.Fatal(err)
	}
	kubetest.AtEnd(pg.Close)
	database, err := pg.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := net.JoinHostPort(cluster.NodeAddress, "5432")
	way, err := postgrestest.NewProxyAt(at, pg.Port)
	if err != nil {
		t.Fatal(err)
	}
	kubetest.AtEnd(way.Close)
	i := &installation{cluster: c, postgres: pg, way: way, host: &host{t: t, password: "test-password"}}
	scheme, err := kubernetes.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	if i.client, err = client.New(c.RESTConfig(), client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	i.apply(strings.Replace(pg.URL(database), fmt.Sprintf("127.0.0.1:%d", pg.Port), at, 1))
	installed = i
	return i
}

// settings of the brokers and controllers under test.
const clusterSettings = `
listen: ":8080"
backend: kubernetes
state_dir: /var/lib/remuda/state
password_file: /etc/remuda/platform/password
seal_key_file: /etc/remuda/seal/seal.key
kubernetes:
  image: ` + kubetest.Image + `
  storage_class: ` + cluster.DiskClass + `
  image_pull_policy: Never
pools:
  default: {floor: 0, ceiling: 4}
  mysql/small: {floor: 1}
  redis/small: {floor: 2, ceiling: 12, keep: 10m}
`

// apply does what the README tells for production.
func (i *installation) apply(databaseURL string) {
	i.t.Helper()
	dir := i.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(kubetest.Root(i.t), "manifests"))); err != nil {
		i.t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlays/production")
	i.write(filepath.Join(overlay, "remuda.yaml"), clusterSettings)
	k, err := os.ReadFile(filepath.Join(overlay, "kustomization.yaml"))
	if err != nil {
		i.t.Fatal(err)
	}
	text := strings.NewReplacer("newName: registry.example.com/remuda/broker", "newName: localhost/remuda", `newTag: 1.0.0`, "newTag: test").Replace(string(k))
	i.write(filepath.Join(overlay, "kustomization.yaml"), text)
	key := base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
	for name, value := range map[string]string{"password": i.password, "seal.key": "k1:" + key, "url": databaseURL} {
		i.write(filepath.Join(dir, name), value)
	}
	for _, args := range [][]string{
		{"apply", "-f", filepath.Join(dir, "base/namespaces.yaml")},
		{"-n", "remuda", "create", "secret", "generic", "remuda-platform", "--from-literal=username=remuda", "--from-file=password=" + filepath.Join(dir, "password")},
		{"-n", "remuda", "create", "secret", "generic", "remuda-seal", "--from-file=seal.key=" + filepath.Join(dir, "seal.key")},
		{"-n", "remuda", "create", "secret", "generic", "remuda-database", "--from-file=url=" + filepath.Join(dir, "url")},
		{"apply", "-k", overlay},
		{"-n", "remuda", "wait", "--for=condition=Available", "--timeout=3m", "deployment/remuda-controller", "deployment/remuda-broker"},
	} {
		i.kubectl(args...)
	}
	i.listen = strings.TrimSpace(i.kubectl("-n", "remuda", "get", "service", "remuda-broker", "-o", "jsonpath={.spec.clusterIP}")) + ":80"
}

func (i *installation) write(file, text string) {
	i.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		i.t.Fatal(err)
	}
}

func (i *installation) kubectl(args ...string) string {
	i.t.Helper()
	out, err := i.cluster.Kubectl(args...)
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

// explain shows what helps to understand a failure.
func (i *installation) explain(t *testing.T) {
	if !t.Failed() {
		return
	}
	for _, args := range [][]string{
		{"-n", "remuda", "get", "pods", "-o", "wide"}, {"-n", "remuda-groups", "get", "containergroups,pods", "-o", "wide"},
		{"-n", "remuda", "logs", "-l", "app.kubernetes.io/component=broker", "--tail=5000"},
		{"-n", "remuda", "logs", "-l", "app.kubernetes.io/component=controller", "--tail=5000"},
	} {
		out, _ := i.cluster.Kubectl(args...)
		if args[2] == "logs" { // what went wrong
			var kept []string
			for line := range strings.Lines(out) {
				if !strings.Contains(line, `"level":"info"`) {
					kept = append(kept, line)
				}
			}
			out = strings.Join(kept[max(0, len(kept)-40):], "")
		}
		t.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
	}
}

// brokers are the pods of the brokers that are ready.
func (i *installation) brokers() []corev1.Pod {
	i.t.Helper()
	var out []corev1.Pod
	list, err := i.cluster.Client().CoreV1().Pods("remuda").List(context.Background(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=broker"})
	if err != nil {
		i.t.Fatal(err)
	}
	for _, p := range list.Items {
		if p.DeletionTimestamp.IsZero() && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].Ready {
			out = append(out, p)
		}
	}
	return out
}

// at is the same installation by one broker's own address.
func (i *installation) at(pod corev1.Pod) *host {
	return &host{t: i.t, password: i.password, listen: pod.Status.PodIP + ":8080"}
}

// resource of a group, from the API server.
func (i *installation) resource(id string) *v1alpha1.ContainerGroup {
	i.t.Helper()
	var cg v1alpha1.ContainerGroup
	if err := i.client.Get(context.Background(), client.ObjectKey{Namespace: kubetest.Namespace, Name: id}, &cg); err != nil {
		i.t.Fatal(err)
	}
	return &cg
}

// resources are all groups.
func (i *installation) resources() []v1alpha1.ContainerGroup {
	i.t.Helper()
	var list v1alpha1.ContainerGroupList
	if err := i.client.List(context.Background(), &list, client.InNamespace(kubetest.Namespace)); err != nil {
		i.t.Fatal(err)
	}
	return list.Items
}

// containers says of each pod of a group what a restart would change.
func (i *installation) containers(id string) string {
	i.t.Helper()
	return i.kubectl("-n", kubetest.Namespace, "get", "pods", "-l", kubernetes.LabelGroup+"="+id, "--sort-by=.metadata.name", "-o",
		`jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].state.running.startedAt}{"\n"}{end}`)
}
