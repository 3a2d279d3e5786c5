package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const forwarding = "/proc/sys/net/ipv4/ip_forward"

// setUpNetwork gives the node its address, a way to Services, and the right to
// forward. What it returns undoes this, and removes what kube-proxy and the
// network plugins have made, if the namespace goes on.
func (c *Cluster) setUpNetwork() (func() error, error) {
	ns, err := netns.GetFromPid(c.InitPID())
	if err != nil {
		return nil, err
	}
	handle, err := netlink.NewHandleAt(ns)
	if err != nil {
		ns.Close()
		return nil, err
	}
	release := func() error { handle.Close(); return ns.Close() }
	lo, err := handle.LinkByName("lo")
	if err != nil {
		return release, err
	}
	if err := handle.LinkSetUp(lo); err != nil {
		return release, err
	}
	address, err := netlink.ParseAddr(NodeAddress + "/32")
	if err != nil {
		return release, err
	}
	if err := handle.AddrAdd(lo, address); err != nil {
		return release, fmt.Errorf("add the node's address: %w", err)
	}
	// Services have no route but need one before their rules are looked at.
	_, services, err := net.ParseCIDR(ServiceCIDR)
	if err != nil {
		return release, err
	}
	route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: services, Src: address.IP, Scope: netlink.SCOPE_LINK}
	if err := handle.RouteAdd(route); err != nil {
		return release, fmt.Errorf("add a route to Services: %w", err)
	}
	var before []byte
	var tables []string
	err = c.In(func() error {
		if before, err = os.ReadFile(forwarding); err != nil {
			return err
		}
		if tables, err = nftTables(); err != nil {
			return err
		}
		if err := askAboutConnections("--append"); err != nil {
			return err
		}
		return os.WriteFile(forwarding, []byte("1"), 0)
	})
	if err != nil || !c.opts.InPlace {
		return release, err
	}
	links, err := handle.LinkList()
	if err != nil {
		return release, err
	}
	old := map[string]bool{}
	for _, link := range links {
		old[link.Attrs().Name] = true
	}
	for _, table := range tables {
		old[table] = true
	}
	return func() error {
		errs := []error{handle.RouteDel(route), handle.AddrDel(lo, address)}
		links, err := handle.LinkList()
		errs = append(errs, err)
		for _, link := range links {
			name := link.Attrs().Name
			if !old[name] && link.Type() == "veth" && strings.HasPrefix(name, "veth") {
				var gone netlink.LinkNotFoundError // it goes with its pod, too
				if err := handle.LinkDel(link); err != nil && !errors.As(err, &gone) {
					if _, err := handle.LinkByName(name); err == nil {
						errs = append(errs, fmt.Errorf("remove link %s", name))
					}
				}
			}
		}
		errs = append(errs, askAboutConnections("--delete"), deleteTables(old), os.WriteFile(forwarding, before, 0))
		return errors.Join(append(errs, release())...)
	}, nil
}

// askAboutConnections has the first packet of every connection between pods wait for what the program
// policies says about it. That would do so itself with nftables, whose "queue" some kernels lack.
func askAboutConnections(command string) error {
	cmd := exec.Command("/usr/sbin/iptables-legacy", command, "FORWARD", "--match", "conntrack", "--ctstate", "NEW",
		"--jump", "NFQUEUE", "--queue-num", "100")
	cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+os.DevNull) // the usual one would stay in /run of this machine
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("have connections looked at: %w\n%s", err, out)
	}
	return nil
}

func nftTables() ([]string, error) {
	out, err := exec.Command("/usr/sbin/nft", "list", "tables").Output()
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
}

func deleteTables(except map[string]bool) error {
	tables, err := nftTables()
	if err != nil {
		return err
	}
	var errs []error
	for _, table := range tables { // as in "table ip kube-proxy"
		if table == "" || except[table] {
			continue
		}
		args := append([]string{"delete"}, strings.Fields(table)...)
		if out, err := exec.Command("/usr/sbin/nft", args...).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("delete %s: %w\n%s", table, err, out))
		}
	}
	return errors.Join(errs...)
}
