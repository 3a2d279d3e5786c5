package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// network is a host of its own beside this one: a network namespace without a
// name and a pair of links. It ends with the test.
type network struct {
	t    testing.TB
	here string // this host's address in it
	app  string // the address of applications
	ns   int    // descriptor
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	n := &network{t: t, ns: -1}
	subnet := fmt.Sprintf("10.%d.%d.", 128+rand.IntN(100), rand.IntN(256))
	n.here, n.app = subnet+"1", subnet+"2"
	n.on(-1, func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		n.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	t.Cleanup(func() { unix.Close(n.ns) })
	name := fmt.Sprintf("app%06x", rand.IntN(1<<24))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.ns)}); err != nil {
		t.Fatalf("make a pair of links: %v", err)
	}
	t.Cleanup(func() {
		if link, err := netlink.LinkByName(name); err == nil {
			_ = netlink.LinkDel(link)
		}
	})
	up := func(name, address string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(address + "/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	}
	if err := up(name, n.here); err != nil {
		t.Fatal(err)
	}
	n.on(n.ns, func() error { return up("eth0", n.app) })
	return n
}

// on runs f on a thread in the namespace, if one is given, and throws it away.
func (n *network) on(ns int, f func() error) {
	n.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread
		if unix.Gettid() == os.Getpid() {
			panic("the first thread cannot be thrown away")
		}
		if ns >= 0 {
			if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
				done <- err
				return
			}
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		n.t.Fatal(err)
	}
}

// listen makes a listener at the applications' address.
func (n *network) listen() net.Listener {
	n.t.Helper()
	var l net.Listener
	n.on(n.ns, func() (err error) {
		l, err = net.Listen("tcp4", n.app+":0")
		return err
	})
	n.t.Cleanup(func() { l.Close() })
	return l
}

// Tests run on other threads than the first, which stands for the process.
func init() { runtime.LockOSThread() }
