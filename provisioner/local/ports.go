package local

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// portRange hands out bound TCP sockets. A bound socket that nobody listens on
// refuses every connection and keeps the port from all other processes, so the
// agent can hold an address long before a tenant may use it.
type portRange struct {
	ip          net.IP
	first, last int
}

// take binds count ports in a row, wherever they are free.
func (p portRange) take(count int) (first int, files []*os.File, err error) {
	size := p.last - p.first + 1
	if count > size {
		return 0, nil, fmt.Errorf("%d ports in a row do not fit into %d-%d", count, p.first, p.last)
	}
	start := rand.IntN(size)
	for i := 0; i < size; {
		port := p.first + (start+i)%size
		if port+count-1 > p.last {
			i++
			continue
		}
		files, used, err := p.bindRow(port, count)
		if err == nil {
			return port, files, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return 0, nil, err
		}
		i += used - port + 1
	}
	return 0, nil, fmt.Errorf("no %d free ports in a row between %d and %d", count, p.first, p.last)
}

// takeAt binds exactly these ports, also while connections of their last owner
// are still timing out.
func (p portRange) takeAt(first, count int) ([]*os.File, error) {
	var files []*os.File
	for port := first; port < first+count; port++ {
		f, err := bind(p.ip, port, true)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("bind port %d again: %w", port, err)
		}
		files = append(files, f)
	}
	return files, nil
}

// bindRow returns the port that was in use when it fails.
func (p portRange) bindRow(first, count int) (files []*os.File, used int, err error) {
	for port := first; port < first+count; port++ {
		f, err := bind(p.ip, port, false)
		if err != nil {
			closeAll(files)
			return nil, port, err
		}
		files = append(files, f)
	}
	return files, 0, nil
}

func bind(ip net.IP, port int, reuse bool) (*os.File, error) {
	family := unix.AF_INET6
	var addr unix.Sockaddr
	if ip4 := ip.To4(); ip4 != nil {
		family = unix.AF_INET
		addr = &unix.SockaddrInet4{Port: port, Addr: [4]byte(ip4)}
	} else {
		addr = &unix.SockaddrInet6{Port: port, Addr: [16]byte(ip.To16())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// SO_REUSEADDR passes over old connections in TIME_WAIT. It is taken off
	// again at once, since two sockets that both have it may share a port
	// while neither listens.
	if reuse {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err := unix.Bind(fd, addr); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	if reuse {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("port-%d", port)), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
