package agent

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// hello is the client hello of Go's TLS for a server name.
func hello(t testing.TB, name string) []byte {
	t.Helper()
	client, server := net.Pipe()
	go func() {
		_ = tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
		client.Close()
	}()
	defer server.Close()
	buf := make([]byte, 16<<10)
	n, err := server.Read(buf)
	must(t, err)
	return buf[:n]
}

// fragmented is the same message in records of n bytes each.
func fragmented(record []byte, n int) (out []byte) {
	for rest := record[5:]; len(rest) > 0; {
		part := rest[:min(n, len(rest))]
		rest = rest[len(part):]
		out = append(append(out, 22, 3, 1, byte(len(part)>>8), byte(len(part))), part...)
	}
	return out
}

func TestFirstHost(t *testing.T) {
	named := hello(t, "App.Example.com")
	for name, test := range map[string]struct {
		in   string
		host string
		err  error
	}{
		"request":           {in: "GET / HTTP/1.1\r\nHost: App.example.com\r\n", host: "app.example.com"},
		"with port":         {in: "POST /a?b HTTP/1.0\r\nhost:10.1.2.3:8080 \r\n\r\nbody", host: "10.1.2.3"},
		"after others":      {in: "GET / HTTP/1.1\r\nX-A: \xe4\tb\r\nHost: a\r\n\r\n", host: "a"},
		"the first counts":  {in: "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", host: "a"},
		"IPv6":              {in: "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n", host: "2001:db8::1"},
		"nothing":           {in: "", err: errMore},
		"half a line":       {in: "GET / HT", err: errMore},
		"half a host":       {in: "GET / HTTP/1.1\r\nHost: app.exam", err: errMore},
		"half a line end":   {in: "GET / HTTP/1.1\r\nHost: a\r", err: errMore},
		"no host":           {in: "GET / HTTP/1.1\r\nA: b\r\n\r\n", err: errNoHost},
		"empty host":        {in: "GET / HTTP/1.1\r\nHost:\r\n\r\n", err: errNoHost},
		"user":              {in: "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", err: errNoHost},
		"zone":              {in: "GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n", err: errNoHost},
		"two ports":         {in: "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", err: errNoHost},
		"space in name":     {in: "GET / HTTP/1.1\r\nHost : a\r\n\r\n", err: errProtocol},
		"folded":            {in: "GET / HTTP/1.1\r\nA: b\r\n Host: a\r\n\r\n", err: errProtocol},
		"bare line feed":    {in: "GET / HTTP/1.1\nHost: a\n\n", err: errProtocol},
		"bare return":       {in: "GET / HTTP/1.1\r\nA: b\rHost: a\r\n\r\n", err: errProtocol},
		"zero byte":         {in: "GET / HTTP/1.1\r\nA: \x00\r\n\r\n", err: errProtocol},
		"absolute":          {in: "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", err: errProtocol},
		"HTTP/2":            {in: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", err: errProtocol},
		"something else":    {in: "\x00\x01", err: errProtocol},
		"SSH":               {in: "SSH-2.0-x\r\n", err: errProtocol},
		"TLS":               {in: string(named), host: "app.example.com"},
		"TLS in pieces":     {in: string(fragmented(named, 7)), host: "app.example.com"},
		"TLS and more":      {in: string(named) + "\x17\x03\x03", host: "app.example.com"},
		"half a hello":      {in: string(named[:len(named)-1]), err: errMore},
		"TLS without name":  {in: string(hello(t, "10.0.0.1")), err: errNoHost},
		"server hello":      {in: "\x16\x03\x03\x00\x04\x02\x00\x00\x00", err: errProtocol},
		"empty record":      {in: "\x16\x03\x03\x00\x00", err: errProtocol},
		"record of another": {in: "\x16\x03\x01\x00\x01\x01\x17\x03\x03\x00\x01\x00", err: errProtocol},
		"huge hello":        {in: "\x16\x03\x01\x00\x04\x01\xff\xff\xff", err: errProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			host, err := firstHost([]byte(test.in))
			if host != test.host || !errors.Is(err, test.err) {
				t.Errorf("%q, %v; want %q, %v", host, err, test.host, test.err)
			}
		})
	}
}

// However the bytes come in pieces, the answer is that of the whole.
func FuzzFirstHost(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nX: y\r\nHost: app.example.com:80\r\n\r\n"))
	f.Add(hello(f, "app.example.com"))
	f.Add(fragmented(hello(f, "a.b"), 300))
	f.Fuzz(func(t *testing.T, b []byte) {
		host, err := firstHost(b)
		if err == nil {
			if _, literal := netip.ParseAddr(host); literal != nil && !hostText.MatchString(host) {
				t.Errorf("host %q", host)
			}
		} else if host != "" {
			t.Errorf("host %q with the error %v", host, err)
		}
		for n := 0; n < len(b); n += 1 + len(b)/16 {
			early, err2 := firstHost(b[:n])
			if errors.Is(err2, errMore) {
				continue
			}
			if early != host || !errors.Is(err2, err) {
				t.Fatalf("%d bytes are %q, %v; all are %q, %v", n, early, err2, host, err)
			}
			break
		}
	})
}

func TestPortOf(t *testing.T) {
	for address, want := range map[string]int{
		"127.0.0.80": 80, "127.0.4.43": 443, "127.0.80.80": 8080, "127.6.55.35": 65535, "127.1.0.0": 10000, "::ffff:127.0.0.1": 1,
		"127.0.0.0": 0, "127.6.55.36": 0, "127.0.0.100": 0, "127.0.100.0": 0, "127.7.0.0": 0, "10.0.0.80": 0, "::1": 0,
	} {
		if got, ok := portOf(netip.MustParseAddr(address)); ok != (want != 0) || ok && got != want {
			t.Errorf("%s is %d, %v; want %d", address, got, ok, want)
		}
	}
}

func TestEgressAllows(t *testing.T) {
	rules := Egress{
		Deny:   []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("2001:db8:9::/48")},
		Closed: []Ports{{First: 7464, Last: 7465}},
		Own:    []OwnPorts{{First: 20000, Last: 20010}, {Address: netip.MustParseAddr("10.1.1.1"), First: 8080, Last: 8080}},
	}
	own := func(a netip.Addr) bool { return a == netip.MustParseAddr("10.2.2.2") }
	for to, want := range map[string]bool{
		"10.1.2.3:80": true, "192.168.1.1:443": true, "93.184.216.34:80": true, "[2001:db8::1]:80": true, "[fd00::1]:80": true,
		"127.0.0.1:80": false, "127.255.0.1:80": false, "0.0.0.0:80": false, "0.1.2.3:80": false, "169.254.169.254:80": false,
		"224.0.0.1:80": false, "255.255.255.255:80": false, "240.0.0.1:80": false,
		"[::]:80": false, "[::1]:80": false, "[fe80::1]:80": false, "[fe80::1%eth0]:80": false, "[2001:db8::1%eth0]:80": false, "[ff02::1]:80": false,
		"[::ffff:127.0.0.1]:80": false, "[::ffff:169.254.1.1]:80": false, "[::ffff:10.1.2.3]:80": true, "[::127.0.0.1]:80": false,
		"[64:ff9b::7f00:1]:80": false, "[64:ff9b::a01:203]:80": true, "[64:ff9b:1::7f00:1]:80": false, "[2002:7f00:1::1]:80": false,
		"[2001:0:1:2:3:4:80ff:fffe]:80": false, // Teredo, 127.0.0.1 inverted
		"10.9.1.2:80":                   false, "[::ffff:10.9.1.2]:80": false, "[2001:db8:9::1]:80": false, "[64:ff9b::a09:102]:80": false,
		"10.2.2.2:20005": false, "10.2.2.2:20011": true, "10.2.2.2:80": true, "10.3.3.3:20005": true, "[::ffff:10.2.2.2]:20005": false,
		"10.1.1.1:8080": false, "10.1.1.1:8081": true, "[::ffff:10.1.1.1]:8080": false, "10.1.2.3:0": false,
		"10.1.2.3:7464": false, "[2001:db8::1]:7465": false, "10.1.2.3:7466": true,
	} {
		if got := rules.allows(netip.MustParseAddrPort(to), own); got != want {
			t.Errorf("%s: %v, want %v", to, got, want)
		}
	}
	if rules.allows(netip.AddrPort{}, own) {
		t.Error("no address is allowed")
	}
}

func TestIsOwnAddress(t *testing.T) {
	list, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !isOwnAddress(p.Addr()) {
			t.Errorf("%s is not this host's own", p.Addr())
		}
	}
	if isOwnAddress(netip.MustParseAddr("198.51.100.7")) {
		t.Error("198.51.100.7 is this host's own")
	}
}

// outside is an address of this host that is not loopback.
func outside(t testing.TB) string {
	t.Helper()
	list, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			return p.Addr().String()
		}
	}
	t.Skip("this host has no address but loopback")
	return ""
}

// wayOut is an agent that is an egress, in the same network; the client
// connects to 127.a.b.c at the returned port.
func wayOut(t testing.TB, rules Egress) (*Client, int) {
	t.Helper()
	c := serveHere(t, func(o *Options) { o.Egress = true })
	must(t, c.Start(t.Context(), StartRequest{}))
	port := freePort(t)
	socket, err := BindDoor(netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port)))
	must(t, err)
	must(t, c.SendDoors(t.Context(), []Door{{Name: "out", Port: port, Origin: "7 9"}}, []*os.File{socket}))
	must(t, socket.Close())
	if err := c.OpenDoors(t.Context(), OpenRequest{}); !errors.Is(err, ErrConflict) {
		t.Errorf("open without rules: %v", err)
	}
	must(t, c.SetEgress(t.Context(), rules))
	must(t, c.OpenDoors(t.Context(), OpenRequest{}))
	return c, port
}

// dialOut connects to what stands for the port of an address.
func dialOut(t testing.TB, door int, address string) net.Conn {
	t.Helper()
	p := netip.MustParseAddrPort(address).Port()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.%d.%d.%d:%d", p/10000, p/100%100, p%100, door))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

func TestEgress(t *testing.T) {
	l, err := net.Listen("tcp", outside(t)+":0")
	must(t, err)
	defer l.Close()
	reached := make(chan string, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 1<<10)
				n, _ := c.Read(buf)
				reached <- string(buf[:n])
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	app := l.Addr().String()
	c, door := wayOut(t, Egress{})
	send := func(text string) net.Conn {
		conn := dialOut(t, door, app)
		_, err := io.WriteString(conn, text)
		must(t, err)
		return conn
	}

	request := "GET /x HTTP/1.1\r\nHost: " + app + "\r\n\r\n"
	conn := send(request)
	if got := <-reached; got != request {
		t.Errorf("the application got %q", got)
	}
	roundTrip(t, conn, "and back")
	s, err := c.State(t.Context())
	must(t, err)
	if d := s.Doors[0]; d.Connections != 1 || d.Origin != "7 9" || !d.Open {
		t.Errorf("door %+v", d)
	}

	for _, test := range []struct {
		text   string
		status int
	}{
		{"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 403},
		{"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 403},
		{"GET / HTTP/1.1\r\nHost: 0.0.0.0\r\n\r\n", 403},
		{"GET / HTTP/1.1\r\nHost: [::ffff:127.0.0.1]\r\n\r\n", 403},
		{"GET / HTTP/1.1\r\nHost: no-such-name.invalid\r\n\r\n", 502},
		{"GET / HTTP/1.1\r\nX: y\r\n\r\n", 400},
		{"HELLO\r\n", 400},
		{"GET / HTTP/1.1\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 80), 400},
	} {
		conn := send(test.text)
		answer, err := io.ReadAll(conn)
		if want := fmt.Sprintf("HTTP/1.1 %d ", test.status); err != nil || !bytes.HasPrefix(answer, []byte(want)) {
			t.Errorf("%.60q: %q %v, want %s", test.text, answer, err, want)
		}
	}
	if len(reached) != 0 {
		t.Errorf("the application was reached: %q", <-reached)
	}

	// Everything ends with the door, those that have said nothing yet too.
	silent := dialOut(t, door, app)
	eventually(t, func() error {
		s, err := c.State(t.Context())
		if err == nil && s.Doors[0].Connections != 2 {
			err = fmt.Errorf("doors %+v", s.Doors)
		}
		return err
	})
	r, err := c.CloseDoors(t.Context(), CloseRequest{})
	must(t, err)
	if r.Connections != 2 {
		t.Errorf("closed %+v", r)
	}
	for _, conn := range []net.Conn{conn, silent} {
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes come through a closed door", n)
		}
	}
}

// An egress' own ports are refused at every address of the host.
func TestEgressToItself(t *testing.T) {
	l, err := net.Listen("tcp", outside(t)+":0")
	must(t, err)
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	c, door := wayOut(t, Egress{Deny: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}})
	must(t, c.SetEgress(t.Context(), Egress{Own: []OwnPorts{{First: port, Last: port}}})) // while it is open
	conn := dialOut(t, door, l.Addr().String())
	_, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", l.Addr())
	must(t, err)
	answer, err := io.ReadAll(conn)
	must(t, err)
	if s, err := c.State(t.Context()); err != nil || len(s.Egress.Own) != 1 || s.Egress.Deny != nil {
		t.Errorf("state %+v %v", s.Egress, err)
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 403 ")) || !bytes.Contains(answer, []byte(refusedPlace.text)) {
		t.Errorf("%q", answer)
	}
}

// An egress runs nothing, and other agents are none.
func TestEgressOnly(t *testing.T) {
	c := serveHere(t, func(o *Options) { o.Egress = true })
	if err := c.Start(t.Context(), StartRequest{User: me(t), Ready: &Program{Command: []string{"/bin/true"}}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a start with a program: %v", err)
	}
	must(t, c.Start(t.Context(), StartRequest{}))
	if _, err := c.Run(t.Context(), shell("true")); !errors.Is(err, ErrInvalid) {
		t.Errorf("a program: %v", err)
	}
	socket, port := boundSocket(t)
	if err := c.SendDoors(t.Context(), []Door{{Name: "in", Port: port, Target: 80}}, []*os.File{socket}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a door to inside: %v", err)
	}
	b, err := c.Baseline(t.Context())
	must(t, err)
	if len(b.Listeners) != 0 {
		t.Errorf("listeners of the host: %q", b.Listeners)
	}
	other := serveHere(t)
	must(t, other.Start(t.Context(), StartRequest{User: me(t)}))
	if err := other.SetEgress(t.Context(), Egress{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("rules for another agent: %v", err)
	}
	if err := other.SendDoors(t.Context(), []Door{{Name: "out", Port: port}}, []*os.File{socket}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a door out of another agent: %v", err)
	}
}
