package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/internal/ownthread"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/orders"
)

// The way out of a group, where its recipe has one, is a member without a network
// namespace of its own: an agent alone in the host's network, without
// capabilities. Its door is a socket that the broker makes inside of the leader's
// namespace; that is all the leader can reach of it.

// Egress says where no group's way out leads, besides to the published addresses,
// which the back end knows itself.
type Egress struct {
	Deny []netip.Prefix
	Own  []agent.OwnPorts // such as where the broker listens
}

// egressOf is the group's way out, or nil.
func egressOf(members []*member) *member {
	for _, m := range members {
		if orders.IsEgress(m.Member) {
			return m
		}
	}
	return nil
}

// withNetwork leaves the members that have a network of their own.
func withNetwork(members []*member) (out []*member) {
	for _, m := range members {
		if !orders.IsEgress(m.Member) {
			out = append(out, m)
		}
	}
	return out
}

// egressRules adds where instances are published.
func (b *Backend) egressRules() *agent.Egress {
	rules := agent.Egress{Deny: b.opts.Egress.Deny, Own: b.opts.Egress.Own}
	publish := func(ip net.IP) {
		a, _ := netip.AddrFromSlice(ip)
		if a = a.Unmap(); a.IsUnspecified() {
			a = netip.Addr{} // any of this host
		}
		rules.Own = append(rules.Own, agent.OwnPorts{Address: a, First: b.ports.first, Last: b.ports.last})
	}
	publish(b.listenIP)
	if ip := net.ParseIP(b.hostIP); ip != nil { // where clients come from outside, another address
		publish(ip)
	}
	return &rules
}

// origin tells the leader's network from that of one that has ended.
func (m memberRecord) origin() string { return fmt.Sprintf("%d %d", m.PID, m.StartTicks) }

// openEgress opens the group's way out, and makes its socket if there is none in
// the leader's network yet. Groups without one have nothing to open.
func (b *Backend) openEgress(ctx context.Context, members []*member) error {
	m := egressOf(members)
	if m == nil {
		return nil
	}
	state, err := m.client.State(ctx)
	if err != nil {
		return fmt.Errorf("ask %s for its door: %w", m.id(), err)
	}
	leader := members[0].record()
	if len(state.Doors) == 0 || state.Doors[0].Origin != leader.origin() || state.Doors[0].Port != m.Role.EgressPort {
		var socket *os.File
		err := ownthread.In(leader.PID, []string{"net"}, func() (err error) {
			socket, err = bind(net.IPv4zero, m.Role.EgressPort, true)
			return err
		})
		if err != nil {
			return fmt.Errorf("make the way out of %s: %w", members[0].id(), err)
		}
		defer socket.Close()
		door := agent.Door{Name: m.Role.Name, Port: m.Role.EgressPort, Origin: leader.origin()}
		if err := sendDoors(ctx, m, []agent.Door{door}, []*os.File{socket}); err != nil {
			return err
		}
	}
	if err := m.client.SetEgress(ctx, *b.egressRules()); err != nil {
		return fmt.Errorf("tell %s where it does not lead: %w", m.id(), err)
	}
	return m.openDoors(ctx)
}

// outdated says whether an egress was told something else than what holds now, by
// a broker before this one.
func (b *Backend) outdated(state agent.State) bool {
	return state.Egress != nil && !reflect.DeepEqual(*state.Egress, *b.egressRules())
}

// staleEgress says whether the way out is in the network of a leader that is gone.
func staleEgress(rec recordData, state agent.State) bool {
	return len(state.Doors) > 0 && state.Doors[0].Origin != "" && state.Doors[0].Origin != rec.Members[0].origin()
}

// refreshNames lets an egress follow changes of the host's names.
func (b *Backend) refreshNames(rec recordData, m memberRecord) {
	i := slices.IndexFunc(rec.Definition.Recipe.Roles, func(r catalog.Role) bool { return r.Name == m.Role })
	if i < 0 || rec.Definition.Recipe.Roles[i].EgressPort == 0 {
		return
	}
	if err := copyHostNames(b.memberDir(rec.ID, m.Name)); err != nil {
		b.opts.Logger.Warn("names of an egress", "member", containerID(rec.ID, m.Name), "error", err)
	}
}

// hostNames are what Go's resolver reads.
var hostNames = []string{"hosts", "resolv.conf"}

// copyHostNames gives an egress the host's own files for names. They are copied
// instead of bound, since who changes them mostly puts another file in their
// place; and written in place, since the copies are bound.
func copyHostNames(dir string) error {
	for _, name := range hostNames {
		text, err := os.ReadFile("/etc/" + name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("read the host's names: %w", err)
		}
		path := filepath.Join(dir, "etc", name)
		if old, err := os.ReadFile(path); err == nil && string(old) == string(text) {
			continue
		}
		if err := overwrite(path, text); err != nil {
			return fmt.Errorf("copy the host's names: %w", err)
		}
	}
	return nil
}

func overwrite(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	return errors.Join(err, f.Truncate(int64(len(text))), f.Close())
}
