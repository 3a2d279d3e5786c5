package agent

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// BindDoors binds doors at the member's own address, closed, in place of all it has. A
// socket that is bound where a new door shall be is taken over: the port is never
// free meanwhile. After an error there are the old doors, closed.
func (a *Agent) BindDoors(r DoorsRequest) error {
	if a.opts.Egress {
		return invalid("bind doors: an egress has those of its way")
	}
	if len(r.Doors) > doorsLimit {
		return invalid("bind doors: %d doors, at most %d", len(r.Doors), doorsLimit)
	}
	if !r.Address.IsValid() || r.Address.IsUnspecified() || r.Address.Zone() != "" {
		return invalid("bind doors: %q is no address of a pod", r.Address)
	}
	seen := map[int]bool{}
	for _, spec := range r.Doors {
		if spec.Port < 1 || spec.Port > 65535 || seen[spec.Port] {
			return invalid("door %q: port %d is out of range or another door's", spec.Name, spec.Port)
		}
		seen[spec.Port] = true
	}
	return a.doors.bind(r.Address.Unmap(), r.Doors)
}

func (d *doors) bind(address netip.Addr, list []Door) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if _, err := d.closeAll(); err != nil {
		return err
	}
	own := map[netip.AddrPort]*os.File{}
	for _, o := range d.list { // only changed with d.changing held
		if at, err := localAddress(int(o.socket.Fd())); err == nil {
			own[at] = o.socket
		}
	}
	var sockets, made []*os.File
	var err error
	for _, spec := range list {
		at := netip.AddrPortFrom(address, uint16(spec.Port))
		s := own[at]
		if s == nil {
			if s, err = BindDoor(at); err != nil {
				err = conflict("%v", err)
				break
			}
			made = append(made, s)
		}
		sockets = append(sockets, s)
	}
	if err == nil {
		err = d.check(list, sockets)
	}
	if err == nil {
		err = d.keepRelays(len(list) > 0 || d.out != nil)
	}
	if err != nil {
		for _, s := range made {
			_ = s.Close()
		}
		return err
	}
	d.take(list, sockets)
	return nil
}

func localAddress(fd int) (netip.AddrPort, error) {
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch a := addr.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)), nil
	}
	return netip.AddrPort{}, errors.New("not an internet socket")
}

// inodes of the doors' sockets.
func (d *doors) inodes() map[uint64]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[uint64]bool{}
	for _, o := range d.all() {
		var st unix.Stat_t
		if unix.Fstat(int(o.socket.Fd()), &st) == nil {
			out[st.Ino] = true
		}
	}
	return out
}

// orders are the numbers of the newest ones about the doors, as several peers count them.
// The highest wins. Of an order to open and one to close with the same number, the
// one to close does.
type orders struct{ opened, closed, wiped int64 }

// toOpen notes an order to open, or refuses one that is too old.
func (o *orders) toOpen(order int64) error {
	switch {
	case order == 0:
	case order < o.opened:
		return conflict("open doors: order %d is older than %d", order, o.opened)
	case order <= o.closed:
		return conflict("open doors: order %d is not newer than the one to close, %d", order, o.closed)
	default:
		o.opened = order
	}
	return nil
}

// toClose notes an order to close. It is too old only if a newer one was to open.
func (o *orders) toClose(order int64) error {
	if order != 0 && order < o.opened {
		return conflict("close doors: order %d is older than the one to open, %d", order, o.opened)
	}
	o.closed = max(o.closed, order)
	return nil
}

// toWipe notes an order to wipe, which is one to close.
func (o *orders) toWipe(order int64) error {
	err := o.toClose(order)
	if err == nil {
		o.wiped = max(o.wiped, order)
	}
	return err
}
