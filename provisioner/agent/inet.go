package agent

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// parseInet reads /proc/net/{tcp,tcp6,udp,udp6}: sockets that wait for anybody.
func parseInet(data []byte, name string) []string {
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
