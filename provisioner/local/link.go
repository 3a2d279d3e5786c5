package local

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The private link of a group is a bridge inside the leader's network
// namespace and a veth pair to each other member. The host has no end of it,
// so nothing outside the group is on it and it ends with its members. Every
// group uses the same addresses: 10.77.0.1 for the leader, then 10.77.0.2 ….
const linkName = "link0"

func linkAddress(index int) net.IP { return net.IPv4(10, 77, byte(index/250), byte(index%250+1)) }

var linkMask = net.CIDRMask(16, 32)

// linkMAC is the same whenever a member is started anew, so that what its peers
// remember of it (ARP) stays true. A bridge would otherwise take the address of
// one of its legs, and change it with them.
func linkMAC(index int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0, 10, 77, byte(index / 250), byte(index%250 + 1)}
}

// connectMembers makes the private link where it is missing: pids are the PID 1 of
// the members, the leader's first. A single member gets none.
func connectMembers(pids []int) error {
	if len(pids) < 2 {
		return nil
	}
	leader, err := netlinkAt(pids[0])
	if err != nil {
		return err
	}
	defer leader.Close()
	bridge, err := ensureBridge(leader)
	if err != nil {
		return fmt.Errorf("private link: %w", err)
	}
	for i, pid := range pids[1:] {
		if err := ensureLeg(leader, bridge, pid, i+1); err != nil {
			return fmt.Errorf("private link of member %d: %w", i+1, err)
		}
	}
	return nil
}

func netlinkAt(pid int) (*netlink.Handle, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, fmt.Errorf("network namespace of process %d: %w", pid, err)
	}
	defer ns.Close()
	return netlink.NewHandleAt(ns, unix.NETLINK_ROUTE) // by default it wants protocols that a kernel may lack
}

func ensureBridge(h *netlink.Handle) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = linkName, linkMAC(0)
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return configure(h, linkName, linkAddress(0))
}

// ensureLeg connects one member unless its end is there already. When a member
// was restarted its old end is gone, and with it the leader's.
func ensureLeg(leader *netlink.Handle, bridge netlink.Link, pid, index int) error {
	member, err := netlinkAt(pid)
	if err != nil {
		return err
	}
	defer member.Close()
	if _, err := member.LinkByName(linkName); err != nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = fmt.Sprintf("leg%d", index)
		if old, err := leader.LinkByName(attrs.Name); err == nil {
			_ = leader.LinkDel(old)
		}
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: linkName,
			PeerHardwareAddr: linkMAC(index), PeerNamespace: netlink.NsPid(pid)}
		if err := leader.LinkAdd(veth); err != nil {
			return fmt.Errorf("make veth: %w", err)
		}
		leg, err := leader.LinkByName(attrs.Name)
		if err != nil {
			return err
		}
		if err := leader.LinkSetMaster(leg, bridge); err != nil {
			return err
		}
		if err := leader.LinkSetUp(leg); err != nil {
			return err
		}
	}
	_, err = configure(member, linkName, linkAddress(index))
	return err
}

func configure(h *netlink.Handle, name string, ip net.IP) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if err != nil {
		return nil, err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: linkMask}}
	if err := h.AddrReplace(link, addr); err != nil {
		return nil, err
	}
	return link, h.LinkSetUp(link)
}

// writeHosts writes a member's /etc/hosts: every member of the group by name.
func writeHosts(dir string, names []string) error {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n")
	for i, name := range names {
		ip := linkAddress(i)
		if len(names) == 1 {
			ip = net.IPv4(127, 0, 0, 1)
		}
		fmt.Fprintf(&b, "%s\t%s\n", ip, name)
	}
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "etc/hosts"), []byte(b.String()), 0o644)
}
