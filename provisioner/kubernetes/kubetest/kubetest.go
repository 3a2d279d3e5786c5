// Package kubetest is what tests with a real Kubernetes share: the cluster of this process, with
// the image of the members in it, and the controller.
package kubetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remuda/remuda/e2e/cluster"
	"github.com/remuda/remuda/provisioner/backendtest"
)

// Image is the name of the members' image in the cluster.
const Image = "localhost/remuda-members:test"

// Namespaces of the tests' groups and of the controller.
const (
	Namespace = "remuda-groups"
	System    = "remuda"
)

const prepared = "REMUDA_TEST_IMAGES" // folder with the archives, for the process in its own network

// Main runs a package's tests with a cluster. Use it as os.Exit(kubetest.Main(m)). Everything that needs
// the network is made before the tests enter a network namespace of their own.
func Main(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "a cluster needs root; run the tests as root")
		return 1
	}
	if os.Getenv(prepared) == "" {
		dir, err := os.MkdirTemp("", "remuda-kubetest-")
		if err == nil {
			defer os.RemoveAll(dir)
			err = prepare(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "prepare the tests:", err)
			return 1
		}
		os.Setenv(prepared, dir)
		return backendtest.Main(m)
	}
	code := backendtest.Main(m)
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the cluster:", err)
		return 1
	}
	return code
}

// prepare makes the programs of the cluster and the images.
func prepare(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	if _, err := cluster.Programs(ctx, os.Stderr); err != nil {
		return err
	}
	bin := filepath.Join(dir, "remuda")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir, "github.com/remuda/remuda/cmd/remuda", "github.com/remuda/remuda/cmd/remuda-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build remuda: %w\n%s", err, out)
	}
	for name, args := range map[string][]string{
		"members.tar": {"--name", Image},
		"broker.tar":  {"--broker", "--name", "localhost/remuda:test"},
	} {
		cmd := exec.CommandContext(ctx, bin, append([]string{"image", "build", "--tar", filepath.Join(dir, name)}, args...)...)
		cmd.Stderr = os.Stderr
		if out, err := cmd.Output(); err != nil {
			return fmt.Errorf("make image %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// Binary is the built product.
func Binary() string { return filepath.Join(os.Getenv(prepared), "remuda") }

// File is the archive of an image: members.tar or broker.tar.
func File(name string) string { return filepath.Join(os.Getenv(prepared), name) }

var (
	mu      sync.Mutex
	running *cluster.Cluster
)

// Cluster is the one of this process, started on first use, with the custom resource, the
// namespaces and the image of the members.
func Cluster(t testing.TB) *cluster.Cluster {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	if running != nil {
		return running
	}
	ctx := context.Background()
	c, err := cluster.Start(ctx, cluster.Options{Log: os.Stderr, InPlace: true})
	if err != nil {
		t.Fatal(err)
	}
	running = c
	if err := c.ImportImage(ctx, File("members.tar")); err != nil {
		t.Fatal(err)
	}
	return c
}

// CustomResource installs the resource definition.
func CustomResource(t testing.TB, c *cluster.Cluster) {
	t.Helper()
	Apply(t, c, "-f", filepath.Join(Root(t), "manifests/base/crd"))
	if _, err := c.Kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/containergroups.remuda.dev"); err != nil {
		t.Fatal(err)
	}
}

// Apply gives manifests to the API server.
func Apply(t testing.TB, c *cluster.Cluster, args ...string) {
	t.Helper()
	if _, err := c.Kubectl(append([]string{"apply"}, args...)...); err != nil {
		t.Fatal(err)
	}
}

// Root is the root folder of the project.
func Root(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func stop() error {
	for _, f := range slices.Backward(atEnd) {
		f()
	}
	mu.Lock()
	defer mu.Unlock()
	if running == nil {
		return nil
	}
	err := running.Stop()
	running = nil
	return errors.Join(err)
}

var atEnd []func()

// AtEnd has f called when the tests have ended, before the cluster stops; the last one first.
func AtEnd(f func()) {
	mu.Lock()
	defer mu.Unlock()
	atEnd = append(atEnd, f)
}
