//go:build kube

package controller_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/remuda/remuda/e2e/cluster"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/backendtest"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/controller"
	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
)

func TestMain(m *testing.M) {
	kubernetes.UseLogger(slog.New(slog.NewTextHandler(logWriter{}, nil))) // before the cluster's own clients look for it
	os.Exit(kubetest.Main(m))
}

// TestConformance is the suite that every back end passes, on real pods.
func TestConformance(t *testing.T) { backendtest.Run(t, newTarget) }

func newTarget(t *testing.T) backendtest.Target {
	c := kubetest.Cluster(t)
	class := cluster.DiskClass
	if strings.HasSuffix(t.Name(), "/Change") {
		class = cluster.MemoryClass // grows under a running pod
	}
	b := newBackend(t, c, controller.Options{StorageClass: class})
	return backendtest.Target{
		Backend: b, Image: kubetest.Image,
		Kill:    func(t testing.TB, m provisioner.MemberObservation) { killPod(t, c, kubetest.Namespace, m.ID) },
		Outside: func(t testing.TB, group, text string) []string { return outside(t, c, group, text) },
		Lacks: map[string]string{
			backendtest.Walls:       "a pod reaches the ports of its own node, and has a default route; TestPolicies tries what NetworkPolicies can do",
			backendtest.NoExec:      "volumes of pods cannot be mounted noexec",
			backendtest.SealedRoot:  "a server that is root in a pod may write to /dev and /etc/hosts; a reset makes them as they were",
			backendtest.DiskShrinks: "volumes of Kubernetes only grow",
		},
	}
}

// newBackend runs a controller and a back end until the test ends.
func newBackend(t *testing.T, c *cluster.Cluster, o controller.Options) *kubernetes.Backend {
	t.Helper()
	namespaces(t, c)
	kubetest.CustomResource(t, c)
	o = withDefaults(t, c, o)
	b, err := kubernetes.New(kubernetes.Options{Config: o.Config, Namespace: o.Namespace, System: kubetest.System, Broker: "test", Logger: o.Logger})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	stop := runController(t, o)
	t.Cleanup(func() {
		closeAll(t, b)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		stop()
	})
	return b
}

func withDefaults(t *testing.T, c *cluster.Cluster, o controller.Options) controller.Options {
	o.Logger = slog.New(slog.NewTextHandler(logWriter{}, nil))
	o.Config, o.Namespace, o.System, o.PullPolicy = c.RESTConfig(), cmp.Or(o.Namespace, kubetest.Namespace), kubetest.System, corev1.PullNever
	o.Config.QPS, o.Config.Burst = 200, 400
	return o
}

// runController runs one until stop is called, which may be done twice.
func runController(t *testing.T, o controller.Options) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- controller.Run(ctx, o) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func closeAll(t *testing.T, b *kubernetes.Backend) {
	all, err := b.List(context.Background())
	if err != nil {
		t.Error(err)
	}
	for _, o := range all {
		if err := b.Close(context.Background(), o.ID); err != nil {
			t.Error(err)
		}
	}
}

func namespaces(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for name, level := range map[string]string{kubetest.Namespace: "baseline", restrictedNamespace: "restricted", kubetest.System: "restricted"} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": level}}}
		if _, err := c.Client().CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil && !strings.Contains(err.Error(), "already exists") {
			t.Fatal(err)
		}
	}
}

// killPod ends PID 1 of the pod's container by force.
func killPod(t testing.TB, c *cluster.Cluster, namespace, name string) {
	t.Helper()
	pod, err := c.Client().CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range pod.Status.ContainerStatuses {
		kubetest.KillContainer(t, s.ContainerID)
	}
}

type logWriter struct{}

func (logWriter) Write(b []byte) (int, error) {
	if os.Getenv("REMUDA_TEST_LOG") != "" {
		os.Stderr.Write(b)
	}
	return len(b), nil
}

// outside searches what the node keeps of a group's pods: their logs, and their folders with
// all volumes.
func outside(t testing.TB, c *cluster.Cluster, group, text string) (where []string) {
	t.Helper()
	pods, err := c.Client().CoreV1().Pods(kubetest.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: kubernetes.LabelGroup + "=" + group})
	if err != nil {
		t.Fatal(err)
	}
	root := fmt.Sprintf("/proc/%d/root", c.InitPID())
	for _, p := range pods.Items {
		dirs, _ := filepath.Glob(root + c.Dir() + "/pod-logs/*" + string(p.UID))
		if len(dirs) == 0 {
			t.Fatalf("the pod %s has no logs", p.Name)
		}
		for _, dir := range append(dirs, root+c.Dir()+"/kubelet/pods/"+string(p.UID)) {
			out, err := exec.Command("grep", "-rlaF", "--devices=skip", "--", text, dir).Output()
			if exit, is := errors.AsType[*exec.ExitError](err); err != nil && !(is && exit.ExitCode() == 1) {
				t.Logf("search %s: %v", dir, err)
			}
			for line := range strings.Lines(string(out)) {
				where = append(where, strings.TrimSpace(line))
			}
		}
	}
	return where
}

// What searches for a tenant's bytes finds them on the disk, in memory and in the log while they are there.
func TestOutsideSees(t *testing.T) {
	w := newWorld(t, controller.Options{})
	w.create("seen")
	pod := kubernetes.PodName("seen", "server-0")
	for place, script := range map[string]string{"/tmp": "echo mark-of-disk >/tmp/x", "/dev/shm": "echo mark-of-memory >/dev/shm/x", "log": "echo mark-of-log >/proc/1/fd/2"} {
		mark := map[string]string{"/tmp": "mark-of-disk", "/dev/shm": "mark-of-memory", "log": "mark-of-log"}[place]
		if found := outside(t, w.c, "seen", mark); len(found) > 0 {
			t.Errorf("%s: found before it was written: %q", place, found)
		}
		if _, err := w.c.Kubectl("-n", kubetest.Namespace, "exec", pod, "--", "/bin/sh", "-c", script); err != nil {
			if place == "log" { // nobody but the agent writes there
				continue
			}
			t.Fatal(err)
		}
		if found := outside(t, w.c, "seen", mark); len(found) == 0 {
			t.Errorf("%s: not found", place)
		}
	}
}
