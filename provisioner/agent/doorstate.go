package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// BindDoor makes a socket for SendDoors, bound to address, whose port must be
// given: a port that the kernel chose would be lost when the door is closed.
func BindDoor(address netip.AddrPort) (*os.File, error) {
	return bindSocket(address, func(int) error { return nil })
}

// bindSocket prepares the socket before it is bound.
func bindSocket(address netip.AddrPort, prepare func(fd int) error) (*os.File, error) {
	if address.Port() == 0 {
		return nil, invalid("bind door: no port given")
	}
	family, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().Unmap().As4()})
	if !address.Addr().Unmap().Is4() {
		family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(address.Port()), Addr: address.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("bind door %s: %w", address, err)
	}
	// Without SO_REUSEADDR nobody else can bind the port while the door is
	// closed. Connections of an earlier door that linger in TIME_WAIT need it.
	if err = prepare(fd); err == nil {
		err = unix.Bind(fd, addr)
	}
	if err == unix.EADDRINUSE {
		if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
			err = unix.Bind(fd, addr)
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind door %s: %w", address, err)
	}
	return os.NewFile(uintptr(fd), "door "+address.String()), nil
}

// listen makes the socket accept. SO_REUSEADDR is on while it listens, so that
// connections lingering in TIME_WAIT do not keep it from listening again, and
// off while it is only bound, so that nobody can take the port away.
func (o *door) listen() (*net.TCPListener, error) {
	fd := int(o.socket.Fd())
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, err
	}
	if err := unix.Listen(fd, doorBacklog); err != nil {
		return nil, err
	}
	if err := o.samePort(); err != nil {
		return nil, err
	}
	l, err := net.FileListener(o.socket)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// refuse brings a listening socket back to the bound state; for one that is in
// it already nothing changes.
func (o *door) refuse() error {
	fd := int(o.socket.Fd())
	if err := unix.Shutdown(fd, unix.SHUT_RD); err != nil && err != unix.ENOTCONN {
		return fmt.Errorf("close door %q: %w", o.Name, err)
	}
	if state, err := tcpState(fd); err != nil || state != unix.BPF_TCP_CLOSE {
		return fmt.Errorf("close door %q: the socket still listens (state %d): %w", o.Name, state, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0); err != nil {
		return fmt.Errorf("close door %q: %w", o.Name, err)
	}
	return nil
}

// samePort fails when the socket has lost its port: that happens on closing
// when it was bound to port 0.
func (o *door) samePort() error {
	port, err := localPort(int(o.socket.Fd()))
	if err == nil && port != o.Port {
		err = fmt.Errorf("the socket is at port %d now, not %d: it must be bound to an explicit port", port, o.Port)
	}
	return err
}

// boundPort is the port of a TCP socket that is bound and does nothing else.
func boundPort(fd int) (int, error) {
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || kind != unix.IPPROTO_TCP {
		return 0, errors.New("not a TCP socket")
	}
	if state, err := tcpState(fd); err != nil || state != unix.BPF_TCP_CLOSE {
		return 0, errors.New("the socket must be bound but neither listening nor connected")
	}
	port, err := localPort(fd)
	if err == nil && port == 0 {
		err = errors.New("the socket is not bound")
	}
	return port, err
}

func localPort(fd int) (int, error) {
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	switch a := addr.(type) {
	case *unix.SockaddrInet4:
		return a.Port, nil
	case *unix.SockaddrInet6:
		return a.Port, nil
	}
	return 0, errors.New("not an internet socket")
}

func tcpState(fd int) (uint8, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, err
	}
	return info.State, nil
}
