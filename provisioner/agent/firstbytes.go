package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"regexp"
	"strings"
)

// firstBytesLimit bounds what an egress reads before it knows where to.
const firstBytesLimit = 64 << 10

var (
	errMore     = errors.New("more bytes are needed")
	errProtocol = errors.New("neither an HTTP/1 request nor a TLS client hello")
	errNoHost   = errors.New("it names no host")

	requestLine = regexp.MustCompile(`^[A-Z]{1,32} [/*][!-~]* HTTP/1\.[01]$`)
	headerName  = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	hostText    = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}$`)
	portText    = regexp.MustCompile(`^[0-9]{1,5}$`)
)

// isTLS says whether a connection begins as TLS does.
func isTLS(b []byte) bool { return len(b) > 0 && b[0] == 22 }

// firstHost reads the host that the first bytes of a connection name: the first
// Host header of an HTTP/1 request (RFC 9112, section 3.2), or the server name of
// a TLS client hello (RFC 6066, section 3). It is a name in small letters or an
// address. errMore says that b is the beginning of either, and not enough.
func firstHost(b []byte) (string, error) {
	switch {
	case len(b) == 0:
		return "", errMore
	case isTLS(b):
		return helloHost(b)
	case b[0] >= 'A' && b[0] <= 'Z':
		return requestHost(b)
	}
	return "", errProtocol
}

// requestHost looks at complete lines only.
func requestHost(b []byte) (string, error) {
	for first := true; ; first = false {
		line, rest, complete := bytes.Cut(b, []byte("\r\n"))
		if bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' && r != '\r' || r == 0x7f }) {
			return "", errProtocol
		}
		if !complete {
			return "", errMore
		}
		if bytes.IndexByte(line, '\r') >= 0 {
			return "", errProtocol
		}
		b = rest
		if first {
			if !requestLine.Match(line) {
				return "", errProtocol
			}
			continue
		}
		if len(line) == 0 {
			return "", errNoHost
		}
		name, value, ok := strings.Cut(string(line), ":")
		if !ok || !headerName.MatchString(name) {
			return "", errProtocol
		}
		if strings.EqualFold(name, "host") {
			return hostOf(strings.Trim(value, " \t"))
		}
	}
}

// hostOf takes the port away from host:port.
func hostOf(s string) (string, error) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		address, rest, ok := strings.Cut(inner, "]")
		if a, err := netip.ParseAddr(address); !ok || err != nil || a.Zone() != "" || !a.Is6() {
			return "", errNoHost
		}
		if rest != "" && (rest[0] != ':' || !portText.MatchString(rest[1:])) {
			return "", errNoHost
		}
		return address, nil
	}
	host, port, found := strings.Cut(s, ":")
	if found && !portText.MatchString(port) || !hostText.MatchString(host) {
		return "", errNoHost
	}
	return strings.ToLower(host), nil
}

// helloHost reads a client hello, which may come in several records.
func helloHost(b []byte) (string, error) {
	var message []byte
	for len(b) > 0 {
		if b[0] != 22 || len(b) > 1 && b[1] != 3 {
			return "", errProtocol
		}
		if len(b) < 5 {
			break
		}
		n := int(binary.BigEndian.Uint16(b[3:]))
		if n == 0 || n > 16<<10 {
			return "", errProtocol
		}
		take := b[5:min(len(b), 5+n)]
		message, b = append(message, take...), b[5+len(take):]
		if len(message) >= 4 {
			if message[0] != 1 { // not a client hello
				return "", errProtocol
			}
			size := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
			if size > firstBytesLimit {
				return "", errProtocol
			}
			if len(message) >= 4+size {
				return helloName(message[4 : 4+size])
			}
		}
		if len(take) < n {
			break
		}
	}
	return "", errMore
}

// helloName finds the server name among the extensions of a client hello (RFC
// 8446, section 4.1.2).
func helloName(b []byte) (string, error) {
	r := fields{rest: b}
	r.skip(2 + 32) // version, random
	r.vector(1)    // session
	r.vector(2)    // ciphers
	r.vector(1)    // compression
	extensions := fields{rest: r.vector(2), bad: r.bad}
	for len(extensions.rest) > 0 && !extensions.bad {
		kind := extensions.skip(2)
		data := extensions.vector(2)
		if extensions.bad || kind[0] != 0 || kind[1] != 0 {
			continue
		}
		list := fields{rest: data}
		names := fields{rest: list.vector(2), bad: list.bad}
		kind = names.skip(1)
		name := names.vector(2)
		if names.bad || kind[0] != 0 || !hostText.Match(name) {
			return "", errNoHost
		}
		return strings.ToLower(string(name)), nil
	}
	if extensions.bad {
		return "", errProtocol
	}
	return "", errNoHost
}

// fields reads what TLS calls vectors; bad says that one was cut off.
type fields struct {
	rest []byte
	bad  bool
}

func (f *fields) skip(n int) []byte {
	if f.bad || len(f.rest) < n {
		f.bad = true
		return nil
	}
	out := f.rest[:n]
	f.rest = f.rest[n:]
	return out
}

// vector reads bytes that have their length before them.
func (f *fields) vector(lengthBytes int) []byte {
	n := 0
	for _, b := range f.skip(lengthBytes) {
		n = n<<8 | int(b)
	}
	return f.skip(n)
}
