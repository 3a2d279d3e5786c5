package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An egress is an agent alone in the host's network. Its door is a socket inside
// of the leader's network; what connects there is copied to the host that its
// first bytes name, at the port that the address it connected to stands for. In a pod
// of its own it gets connections and ports from the leader's agent (way.go).

const (
	firstBytesTimeout = 10 * time.Second
	outTimeout        = 10 * time.Second // to find a host and connect to it
	outTryTimeout     = 5 * time.Second  // for one of its addresses
	namesKept         = 5 * time.Second  // as long as Go keeps /etc/hosts
	namesLimit        = 1024
)

// portOf is what an address 127.a.b.c stands for: a, b, c are pairs of digits.
func portOf(a netip.Addr) (int, bool) {
	a = a.Unmap()
	if !a.Is4() {
		return 0, false
	}
	b := a.As4()
	port := int(b[1])*10000 + int(b[2])*100 + int(b[3])
	return port, b[0] == 127 && b[2] < 100 && b[3] < 100 && port >= 1 && port <= 65535
}

// Networks that never are another host: this host, a link without routers, many
// hosts at once, or none.
var never = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// carried gives an address and the IPv4 address that it carries, if a translator
// or tunnel may lead there: RFC 4291 2.5.5, RFC 6052, RFC 3056, RFC 4380.
func carried(a netip.Addr) []netip.Addr {
	a = a.Unmap()
	if a.Is4() {
		return []netip.Addr{a}
	}
	b := a.As16()
	four := func(b []byte) []netip.Addr { return []netip.Addr{a, netip.AddrFrom4([4]byte(b))} }
	in := func(prefix string) bool { return netip.MustParsePrefix(prefix).Contains(a) }
	switch {
	case in("::/96"), in("64:ff9b::/96"), in("64:ff9b:1::/48"):
		return four(b[12:])
	case in("2002::/16"):
		return four(b[2:6])
	case in("2001::/32"):
		return four([]byte{^b[12], ^b[13], ^b[14], ^b[15]})
	}
	return []netip.Addr{a}
}

// allows says whether a connection may go to an address. isOwn says whether an
// address is one of this host's.
func (e Egress) allows(to netip.AddrPort, isOwn func(netip.Addr) bool) bool {
	if !to.IsValid() || to.Port() == 0 || to.Addr().Zone() != "" {
		return false
	}
	for _, p := range e.Closed {
		if port := int(to.Port()); p.First <= port && port <= p.Last {
			return false
		}
	}
	for _, a := range carried(to.Addr()) {
		for _, list := range [][]netip.Prefix{never, e.Deny} {
			for _, p := range list {
				if p.Contains(a) {
					return false
				}
			}
		}
		for _, own := range e.Own {
			port := int(to.Port())
			if port < own.First || port > own.Last {
				continue
			}
			if own.Address == a || !own.Address.IsValid() && isOwn(a) {
				return false
			}
		}
	}
	return true
}

// isOwnAddress asks the kernel whether packets for an address stay on this host.
// What cannot be asked is taken for one that does, unless no way leads there.
func isOwnAddress(a netip.Addr) bool {
	routes, err := netlink.RouteGet(net.IP(a.AsSlice()))
	if err != nil {
		return !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH)
	}
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST {
			return true
		}
	}
	return false
}

// names remembers what names lead to, so that not every connection asks a server.
type names struct {
	mu    sync.Mutex
	known map[string]answers
}

type answers struct {
	addresses []netip.Addr
	until     time.Time
}

func (n *names) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	n.mu.Lock()
	found, ok := n.known[host]
	n.mu.Unlock()
	if ok && time.Now().Before(found.until) {
		return found.addresses, nil
	}
	r := net.Resolver{PreferGo: true}
	list, err := r.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) >= namesLimit || n.known == nil {
		n.known = map[string]answers{}
	}
	n.known[host] = answers{list, time.Now().Add(namesKept)}
	return list, nil
}

// refusal is why a connection does not go anywhere, as an answer to HTTP.
type refusal struct {
	status int
	text   string // a sentence
}

var (
	refusedNoHost   = refusal{http.StatusBadRequest, "The connection does not say which host it is for."}
	refusedPlace    = refusal{http.StatusForbidden, "This address cannot be reached from here."}
	refusedName     = refusal{http.StatusBadGateway, "The host name has no address."}
	refusedDial     = refusal{http.StatusBadGateway, "The host does not accept connections at this port."}
	refusedTimedOut = refusal{http.StatusGatewayTimeout, "The host does not answer."}
)

// serveOut copies a connection from the leader to where it asks for.
func (o *door) serveOut(ctx context.Context, c *connection) {
	stop := context.AfterFunc(ctx, func() { _ = c.client.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	port, err := o.dialled(c.client)
	if err != nil {
		o.doors.log.Debug("connection refused", "door", o.Name, "from", c.client.RemoteAddr(), "error", err)
		c.refuse()
		o.forget(c)
		return
	}
	first, host, why := destination(c.client)
	var server *net.TCPConn
	if why == nil {
		server, why = o.dialOut(ctx, host, port)
	}
	if why == nil {
		_ = server.SetWriteDeadline(time.Now().Add(outTimeout))
		if _, err := server.Write(first); err != nil {
			_ = server.Close()
			why = &refusedDial
		}
	}
	if why != nil {
		c.answer(first, *why)
		o.forget(c)
		return
	}
	o.relay(c, server)
}

// dialled is the port that the leader's servers connected to.
func (o *door) dialled(c *net.TCPConn) (int, error) {
	if w := o.doors.currentWay(); w != nil {
		return w.greet(c)
	}
	local, _ := c.LocalAddr().(*net.TCPAddr)
	port, ok := portOf(local.AddrPort().Addr())
	if !ok {
		return 0, fmt.Errorf("%s stands for no port", local)
	}
	return port, nil
}

// destination reads the first bytes, until they say where to.
func destination(c *net.TCPConn) (first []byte, host string, why *refusal) {
	if c.SetReadDeadline(time.Now().Add(firstBytesTimeout)) != nil {
		return nil, "", &refusedTimedOut
	}
	buf := make([]byte, 0, 4<<10)
	for {
		if len(buf) == cap(buf) {
			if cap(buf) >= firstBytesLimit {
				return buf, "", &refusedNoHost
			}
			buf = append(make([]byte, 0, 4*cap(buf)), buf...)
		}
		n, err := c.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		host, hostErr := firstHost(buf)
		switch {
		case hostErr == nil:
			return buf, host, nil
		case !errors.Is(hostErr, errMore), err != nil:
			return buf, "", &refusedNoHost
		}
	}
}

// dialOut finds the host's addresses and connects to the first that may be and
// does. What is checked is what is connected to: no name is looked up again.
func (o *door) dialOut(ctx context.Context, host string, port int) (*net.TCPConn, *refusal) {
	ctx, cancel := context.WithTimeout(ctx, outTimeout)
	defer cancel()
	rules, known := o.doors.outside()
	addresses, err := known.lookup(ctx, host)
	if err != nil || len(addresses) == 0 {
		return nil, &refusedName
	}
	why := &refusedPlace
	d := net.Dialer{Timeout: outTryTimeout}
	for _, a := range addresses {
		to := netip.AddrPortFrom(a.Unmap(), uint16(port))
		if !rules.allows(to, isOwnAddress) {
			continue
		}
		c, err := d.DialContext(ctx, "tcp", to.String())
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		why = &refusedDial
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			why = &refusedTimedOut
		}
	}
	return nil, why
}

// answer tells a client that speaks HTTP why, and ends the connection. It waits
// for the client's end for a moment: a reset would overtake the answer.
func (c *connection) answer(first []byte, why refusal) {
	if len(first) == 0 || isTLS(first) {
		c.refuse()
		return
	}
	_ = c.client.SetDeadline(time.Now().Add(time.Second))
	_, _ = fmt.Fprintf(c.client, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n",
		why.status, http.StatusText(why.status), len(why.text)+1, why.text)
	_ = c.client.CloseWrite()
	_, _ = io.CopyN(io.Discard, c.client, 1<<20)
	_ = c.client.Close()
}
