package backendtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner/image"
)

const isolated = "REMUDA_TEST_ISOLATED"

// Main runs a package's tests in a network namespace of their own when they run
// as root, so that servers of a test meet nothing of the host. Use it as
// os.Exit(backendtest.Main(m)).
func Main(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	if os.Getenv(isolated) != "" {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "loopback of the test's network namespace:", err)
			return 1
		}
		defer RemoveBinary()
		return m.Run()
	}
	if err := makeImage(); err != nil { // needs the package archive, out of reach for the tests
		fmt.Fprintln(os.Stderr, "image of the tests:", err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "start tests in a network namespace:", err)
		}
		return 1
	}
	return 0
}

func makeImage() error {
	recipes, err := catalog.Builtin()
	if err != nil {
		return err
	}
	_, err = image.Ensure(context.Background(), image.OptionsFor(ImageDir(), recipes, os.Stderr))
	return err
}

// NeedRoot skips a test that makes containers when it cannot.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root; run the tests as root to run this one")
	}
}

// ImageDir is the image folder of tests: the product's own, because what is in
// it is named by its content and costs a minute to make.
func ImageDir() string {
	if dir := os.Getenv("REMUDA_IMAGE_DIR"); dir != "" {
		return dir
	}
	return "/var/cache/remuda"
}

// Image makes sure of the image that serves the recipes, and returns its hash.
func Image(t testing.TB, recipes ...catalog.Recipe) string {
	t.Helper()
	img, err := image.Ensure(t.Context(), image.OptionsFor(ImageDir(), recipes, os.Stderr))
	if err != nil {
		t.Fatal(err)
	}
	return img.Hash
}

var built string // the folder that Binary has made

var buildOnce = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "remuda-test-")
	if err != nil {
		return "", err
	}
	built = dir
	bin := filepath.Join(dir, "remuda")
	cmd := exec.Command("go", "build", "-o", dir, "github.com/remuda/remuda/cmd/remuda", "github.com/remuda/remuda/cmd/remuda-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		return "", fmt.Errorf("build remuda: %w\n%s", err, out)
	}
	return bin, nil
})

// Binary builds the product once for a test process and returns its path.
func Binary(t testing.TB) string {
	t.Helper()
	bin, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// Agent is the program that members start, of the same build.
func Agent(t testing.TB) string {
	t.Helper()
	return filepath.Join(filepath.Dir(Binary(t)), "remuda-agent")
}

// Kill ends a process of a member by its number on this host. 0 would be all of the test's own.
func Kill(t testing.TB, member string, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("%s does not run", member)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %s: %v", member, err)
	}
}

// RemoveBinary removes what Binary has made; Main does so at its end.
func RemoveBinary() {
	if built != "" {
		os.RemoveAll(built)
	}
}
