package agent

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// inetListeners lists the sockets of the network namespace that wait for
// anybody: "tcp 127.0.0.1:3306". Those of the inodes in own are left out.
func inetListeners(own map[uint64]bool) ([]string, error) {
	out, err := diagListeners(own)
	names := []string{"udp", "udp6"}
	if err != nil { // a kernel without that interface
		out, names = nil, append(names, "tcp", "tcp6")
	}
	for _, name := range names {
		data, err := os.ReadFile("/proc/thread-self/net/" + name)
		if os.IsNotExist(err) {
			continue // no IPv6
		}
		if err != nil {
			return nil, err
		}
		out = append(out, parseInet(data, name, own)...)
	}
	return out, nil
}

// diagListeners asks the kernel for listening TCP sockets alone, see
// sock_diag(7). To read /proc/net/tcp takes milliseconds: the kernel walks
// through all connections that the host could have.
func diagListeners(own map[uint64]bool) ([]string, error) {
	var out []string
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		request.AddRawData(diagRequest(family))
		answers, err := request.Execute(unix.NETLINK_SOCK_DIAG, 0)
		if err != nil {
			return nil, err
		}
		for _, a := range answers {
			if addr, inode, ok := parseDiag(a); ok && !own[inode] {
				out = append(out, "tcp "+addr.String())
			}
		}
	}
	return out, nil
}

// diagRequest is a struct inet_diag_req_v2 that asks for listening sockets.
func diagRequest(family byte) []byte {
	b := make([]byte, 56)
	b[0], b[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 1<<unix.BPF_TCP_LISTEN)
	return b
}

// parseDiag reads where the socket of a struct inet_diag_msg listens, and its inode.
func parseDiag(b []byte) (netip.AddrPort, uint64, bool) {
	if len(b) < 72 {
		return netip.AddrPort{}, 0, false
	}
	raw := b[8:12]
	if b[0] == unix.AF_INET6 {
		raw = b[8:24]
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(b[4:])), uint64(binary.NativeEndian.Uint32(b[68:])), ok
}

// parseInet reads /proc/net/{tcp,tcp6,udp,udp6}: sockets that wait for anybody.
func parseInet(data []byte, name string, own map[uint64]bool) []string {
	// include/net/tcp_states.h: a listening TCP socket, an unconnected UDP one.
	waiting := "0A"
	if strings.HasPrefix(name, "udp") {
		waiting = "07"
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != waiting {
			continue
		}
		if len(f) > 9 {
			if inode, err := strconv.ParseUint(f[9], 10, 64); err == nil && own[inode] {
				continue
			}
		}
		if addr, ok := parseAddress(f[1]); ok {
			out = append(out, fmt.Sprintf("%s %s", strings.TrimSuffix(name, "6"), addr))
		}
	}
	return out
}

// parseAddress reads "0100007F:0CEA": 32-bit words in the order of this host,
// and a port.
func parseAddress(s string) (netip.AddrPort, bool) {
	left, right, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(left)
	if !ok || err != nil || (len(raw) != 4 && len(raw) != 16) {
		return netip.AddrPort{}, false
	}
	port, err := strconv.ParseUint(right, 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), ok
}
