//go:build kube

package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

const isolated = "REMUDA_TEST_ISOLATED"

// TestMain runs the tests in a network namespace of their own, which knows no
// way to the module proxy: what must be built is built before.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		if os.Geteuid() != 0 {
			fmt.Fprintln(os.Stderr, "a cluster needs root: nothing is tested")
			return 0
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
			return m.Run()
		}
		if _, err := Programs(context.Background(), os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
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
	}())
}
