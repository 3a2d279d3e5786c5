//go:build kube

// Package kube tests the manifests on a real Kubernetes, applied as the README says.
package kube

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/remuda/remuda/e2e/cluster"
	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
)

func TestMain(m *testing.M) { os.Exit(kubetest.Main(m)) }

// TestDev is one installation, from the first command of the README to the last.
func TestDev(t *testing.T) {
	c := kubetest.Cluster(t)
	if err := c.ImportImage(t.Context(), kubetest.File("broker.tar")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost/remuda-members", "localhost/remuda"} { // as the README names them
		if err := c.TagImage(t.Context(), name+":test", name+":dev"); err != nil {
			t.Fatal(err)
		}
	}
	kubectl(t, c, "annotate", "storageclass", cluster.DiskClass, "storageclass.kubernetes.io/is-default-class=true")
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "manifests"), os.DirFS(filepath.Join(kubetest.Root(t), "manifests"))); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "manifests/overlays/dev/secrets")); err != nil { // a developer's
		t.Fatal(err)
	}
	steps := blocks(t, "sh cluster")
	if len(steps) != 3 {
		t.Fatalf("the README has %d blocks to try, not 3", len(steps))
	}
	defer func() {
		if t.Failed() {
			t.Log(dump(c))
		}
	}()
	sh(t, c, dir, steps[0])
	said := sh(t, c, dir, steps[1])
	for what, want := range map[string]string{"catalog": `"name":"mysql"`, "groups": `mysql +small`, "pools": `syslog +medium`} {
		if !regexp.MustCompile(want).MatchString(said) {
			t.Errorf("%s: no %q in\n%s", what, want, said)
		}
	}
	for _, part := range []struct {
		name string
		run  func(*testing.T, *cluster.Cluster)
	}{
		{"levels", testLevels}, {"rights", testRights}, {"specs", testSpecs}, {"changes", testChanges}, {"production", testProduction}, {"examples", testExamples}, {"refusals", testRefusals},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, c) })
	}
	sh(t, c, dir, steps[2])
	for _, name := range []string{kubetest.System, kubetest.Namespace} {
		if _, err := c.Client().CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{}); err == nil {
			t.Errorf("namespace %s is still there", name)
		}
	}
	if volumes, err := c.Client().CoreV1().PersistentVolumes().List(t.Context(), metav1.ListOptions{}); err == nil {
		for i := range volumes.Items {
			if v := &volumes.Items[i]; v.DeletionTimestamp.IsZero() && v.Status.Phase == "Bound" {
				t.Errorf("volume %s of %s is still there", v.Name, v.Spec.ClaimRef.Name)
			}
		}
	}
}

// testProduction: the API server would take the other overlay and the examples, without a warning.
func testProduction(t *testing.T, c *cluster.Cluster) {
	manifests := filepath.Join(kubetest.Root(t), "manifests")
	for _, args := range [][]string{
		{"-k", manifests + "/overlays/production"}, {"-f", manifests + "/components/people/roles.yaml"}, {"-f", manifests + "/examples/ingress.yaml"},
		{"-f", manifests + "/examples/volume.yaml"},
	} {
		out := kubectl(t, c, append([]string{"apply", "--dry-run=server", "--validate=strict"}, args...)...)
		if strings.Contains(out, "Warning") {
			t.Errorf("%v: %s", args, out)
		}
	}
}

// blocks returns the code blocks of the README with that label.
func blocks(t *testing.T, label string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(kubetest.Root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile("(?ms)^```"+label+"\n(.*?)^```$").FindAllStringSubmatch(string(b), -1) {
		out = append(out, m[1])
	}
	return out
}

// sh runs a block of commands in a folder, as a user of the cluster would.
func sh(t *testing.T, c *cluster.Cluster, dir, script string) string {
	t.Helper()
	programs, err := cluster.Programs(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "PATH="+programs+":"+os.Getenv("PATH"))
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\nof\n%s", err, out, script)
	}
	return string(out)
}

func kubectl(t *testing.T, c *cluster.Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// dump is what helps to understand a failure.
func dump(c *cluster.Cluster) string {
	var b strings.Builder
	for _, args := range [][]string{
		{"-n", kubetest.System, "get", "pods,pvc", "-o", "wide"}, {"-n", kubetest.System, "get", "events"},
		{"-n", kubetest.System, "logs", "deployment/remuda-broker", "--tail=20"},
		{"-n", kubetest.System, "logs", "deployment/remuda-controller", "--tail=20"},
		{"-n", kubetest.Namespace, "get", "containergroups,pods", "-o", "wide"},
	} {
		out, err := c.Kubectl(args...)
		fmt.Fprintf(&b, "kubectl %s\n%s\n", strings.Join(args, " "), out)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}
