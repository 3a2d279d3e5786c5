package agent

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is a leader and an egress that a way joins, in one network.
type wayPair struct {
	Way
	leader, egress *Client
}

func newWay(t testing.TB, name string, old Way) Way {
	w := Way{Name: name, Secret: make([]byte, secretSize), Leader: netip.MustParseAddr("127.0.0.1"), Egress: old.Egress, Port: old.Port}
	_, _ = rand.Read(w.Secret)
	if w.Port == 0 {
		w.Port = freePort(t)
		w.Egress = netip.AddrPortFrom(w.Leader, uint16(freePort(t)))
	}
	return w
}

func joined(t testing.TB) wayPair {
	t.Helper()
	p := wayPair{Way: newWay(t, "1", Way{}), leader: serveHere(t), egress: serveHere(t, func(o *Options) { o.Egress = true })}
	must(t, p.egress.Start(t.Context(), StartRequest{}))
	must(t, p.leader.Start(t.Context(), StartRequest{User: me(t)}))
	must(t, p.egress.SetEgress(t.Context(), Egress{}))
	p.join(t, p.Way)
	p.open(t)
	return p
}

func (p wayPair) join(t testing.TB, w Way) {
	t.Helper()
	for _, c := range []*Client{p.egress, p.leader} {
		must(t, c.SetWay(t.Context(), w))
	}
}

func (p wayPair) open(t testing.TB) {
	t.Helper()
	for _, c := range []*Client{p.egress, p.leader} {
		must(t, c.OpenDoors(t.Context(), OpenRequest{}))
	}
}

// application echoes, and gives what it got first.
func application(t *testing.T) (string, chan string) {
	l, err := net.Listen("tcp", outside(t)+":0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	reached := make(chan string, 100)
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
				_, _ = c.Write(buf[:n])
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String(), reached
}

func request(app string) string { return "GET /x HTTP/1.1\r\nHost: " + app + "\r\n\r\n" }

// reset says whether a connection is ended with a reset, by whoever says nothing before.
func reset(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := io.ReadFull(c, make([]byte, 1)); n > 0 || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("it is not ended but: %d %v", n, err)
	}
}

func TestWay(t *testing.T) {
	app, reached := application(t)
	p := joined(t)
	conn := dialOut(t, p.Port, app)
	roundTrip(t, conn, request(app))
	if got := <-reached; got != request(app) {
		t.Errorf("the application got %q", got)
	}
	roundTrip(t, conn, strings.Repeat("and back", 1000))
	for _, c := range []*Client{p.leader, p.egress} {
		s, err := c.State(t.Context())
		must(t, err)
		text, _ := json.Marshal(s)
		secret, _ := json.Marshal(p.Secret)
		if d := s.Doors[0]; len(s.Doors) != 1 || d.Name != wayDoor || d.Origin != "1" || d.Target != 0 || !d.Open || d.Connections != 1 || bytes.Contains(text, secret) {
			t.Errorf("state %s", text)
		}
	}
	// What the egress refuses it says to who asked.
	refusedConn := dialOut(t, p.Port, app)
	_, err := io.WriteString(refusedConn, request("127.0.0.1"))
	must(t, err)
	if answer, err := io.ReadAll(refusedConn); err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 403 ")) {
		t.Errorf("%q %v", answer, err)
	}

	// A way anew in a leader that is open ends nothing, and leads there from then on.
	next := newWay(t, "2", Way{Port: p.Port, Egress: netip.AddrPortFrom(p.Leader, uint16(freePort(t)))})
	other := serveHere(t, func(o *Options) { o.Egress = true })
	must(t, other.Start(t.Context(), StartRequest{}))
	must(t, other.SetEgress(t.Context(), Egress{}))
	must(t, other.SetWay(t.Context(), next))
	must(t, other.OpenDoors(t.Context(), OpenRequest{}))
	must(t, p.leader.SetWay(t.Context(), next))
	roundTrip(t, conn, "still there")
	later := dialOut(t, p.Port, app)
	roundTrip(t, later, request(app))
	<-reached
	roundTrip(t, later, "by the other one")
	s, err := other.State(t.Context())
	must(t, err)
	if s.Doors[0].Connections != 1 {
		t.Errorf("the other egress has %+v", s.Doors)
	}

	// Who asks while the egress is away waits until there is another one.
	must(t, p.leader.SetWay(t.Context(), newWay(t, "3", Way{Port: p.Port, Egress: netip.MustParseAddrPort("198.51.100.1:7465")})))
	patient := dialOut(t, p.Port, app)
	_, err = io.WriteString(patient, request(app))
	must(t, err)
	time.Sleep(50 * time.Millisecond)
	must(t, p.leader.SetWay(t.Context(), next))
	began := time.Now()
	<-reached
	if waited := time.Since(began); waited > 2*time.Second {
		t.Errorf("it waited %s for the way that is there", waited)
	}

	// All ends with the doors.
	_, err = p.leader.CloseDoors(t.Context(), CloseRequest{})
	must(t, err)
	reset(t, later)
	reset(t, conn)
	if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.80:%d", p.Port)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed door: %v", err)
	}
	// Other doors come and go, the way stays.
	must(t, p.leader.BindDoors(t.Context(), DoorsRequest{Address: p.Leader, Doors: []Door{{Name: "in", Port: freePort(t), Target: 80}}}))
	must(t, p.leader.BindDoors(t.Context(), DoorsRequest{Address: p.Leader}))
	p.open(t)
	again := dialOut(t, p.Port, app)
	roundTrip(t, again, request(app))
	<-reached
	roundTrip(t, again, "again")
}

// Only the leader's own servers get in at its end: what comes to another address of it, from
// itself too, is ended, and other links do not lead to it.
func TestWayOnlyLoopback(t *testing.T) {
	app, reached := application(t)
	p := joined(t)
	conn, err := net.Dial("tcp", net.JoinHostPort(outside(t), strconv.Itoa(p.Port)))
	if err == nil {
		defer conn.Close()
		_, _ = io.WriteString(conn, request(app))
		reset(t, conn)
	}
	for _, address := range []string{"127.0.0.0", "127.7.0.0", "127.0.100.1"} { // stand for no port
		conn, err := net.Dial("tcp", net.JoinHostPort(address, strconv.Itoa(p.Port)))
		if errors.Is(err, syscall.ECONNRESET) { // before Dial could see that it was there
			continue
		}
		must(t, err)
		defer conn.Close()
		reset(t, conn)
	}
	if len(reached) > 0 {
		t.Errorf("the application got %q", <-reached)
	}
	s, err := bindLoopback(netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(freePort(t))))
	must(t, err)
	defer s.Close()
	if link, err := unix.GetsockoptString(int(s.Fd()), unix.SOL_SOCKET, unix.SO_BINDTODEVICE); err != nil || link != "lo" {
		t.Errorf("the socket is at link %q: %v", link, err)
	}
	// Nobody can take the port while the door is closed.
	_, err = p.leader.CloseDoors(t.Context(), CloseRequest{})
	must(t, err)
	for _, address := range []string{"127.0.0.1", "0.0.0.0", "127.0.0.80"} {
		if l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(p.Port))); err == nil {
			l.Close()
			t.Errorf("somebody else listens at %s", address)
		}
	}
}

func TestWayRefuses(t *testing.T) {
	app, reached := application(t)
	p := joined(t)
	port := int(netip.MustParseAddrPort(app).Port())
	try := func(w Way, from string) error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", p.Egress.String())
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if err := w.ask(c, port); err != nil {
			return err
		}
		if _, err := io.WriteString(c, request(app)); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 1))
		return err
	}
	use := func(w Way) error { return try(w, "127.0.0.1") }
	ended := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%s: %v", what, err)
		}
		if len(reached) > 0 {
			t.Errorf("%s: the application got %q", what, <-reached)
		}
	}
	if err := use(p.Way); err != nil {
		t.Errorf("the leader: %v", err)
	}
	<-reached
	ended("the pod of another group, even with the secret", try(p.Way, "127.0.0.2"))

	// Who has another secret finds out that this is not the egress; who asks anyway is ended.
	wrong := newWay(t, "1", p.Way)
	if err := use(wrong); !errors.Is(err, errNotOfWay) {
		t.Errorf("a wrong secret: %v", err)
	}
	for what, text := range map[string][]byte{
		"nothing but zeros":         make([]byte, nonceSize+2+proofSize),
		"an HTTP request":           []byte(request(app) + strings.Repeat("x", 100)),
		"a proof of another secret": append(append(make([]byte, nonceSize), 0, 80), wrong.proof("leader", make([]byte, 2*nonceSize), 80)...),
	} {
		c, err := net.Dial("tcp", p.Egress.String())
		must(t, err)
		_, err = c.Write(text)
		must(t, err)
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		n, err := io.Copy(io.Discard, c)
		if n > nonceSize+proofSize || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %d bytes, %v", what, n, err)
		}
		c.Close()
		if len(reached) > 0 {
			t.Errorf("%s: the application got %q", what, <-reached)
		}
	}

	// After a reset, what the former generation knew is worth nothing.
	_, err := p.egress.Wipe(t.Context(), WipeRequest{})
	must(t, err)
	if err := use(p.Way); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a wiped egress: %v", err)
	}
	next := newWay(t, "2", p.Way)
	must(t, p.egress.SetWay(t.Context(), next))
	if err := use(next); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("an egress that is not open: %v", err)
	}
	must(t, p.egress.Start(t.Context(), StartRequest{Generation: 2}))
	must(t, p.egress.OpenDoors(t.Context(), OpenRequest{}))
	if err := use(p.Way); !errors.Is(err, errNotOfWay) {
		t.Errorf("the way of the former generation: %v", err)
	}
	conn := dialOut(t, p.Port, app) // through the leader, which was told nothing
	_, _ = io.WriteString(conn, request(app))
	reset(t, conn)
	sameSecret := next
	sameSecret.Name = "1"
	if err := use(sameSecret); !errors.Is(err, errNotOfWay) {
		t.Errorf("a way of another name: %v", err)
	}
	if len(reached) > 0 {
		t.Errorf("the application got %q", <-reached)
	}
	if err := use(next); err != nil {
		t.Errorf("the next generation: %v", err)
	}
	<-reached
}

// A leader says nothing to somebody who has come to the egress' address.
func TestWayOfSomebodyElse(t *testing.T) {
	p := joined(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	heard := make(chan []byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write(make([]byte, nonceSize+proofSize))
		all, _ := io.ReadAll(c)
		heard <- all
	}()
	w := newWay(t, "2", p.Way)
	w.Egress = netip.MustParseAddrPort(l.Addr().String())
	must(t, p.leader.SetWay(t.Context(), w))
	conn := dialOut(t, p.Port, "10.0.0.1:80")
	_, err = io.WriteString(conn, "secrets of a tenant")
	must(t, err)
	reset(t, conn)
	if got := <-heard; len(got) > nonceSize {
		t.Errorf("it heard %q", got[nonceSize:])
	}
}

func TestWayInvalid(t *testing.T) {
	c := serveHere(t)
	good := newWay(t, "1", Way{})
	for what, change := range map[string]func(*Way){
		"no secret": func(w *Way) { w.Secret = nil }, "a short secret": func(w *Way) { w.Secret = w.Secret[1:] },
		"no name": func(w *Way) { w.Name = "" }, "no port": func(w *Way) { w.Port = 0 }, "a large port": func(w *Way) { w.Port = 65536 },
		"no leader": func(w *Way) { w.Leader = netip.Addr{} }, "any leader": func(w *Way) { w.Leader = netip.IPv4Unspecified() },
		"no egress": func(w *Way) { w.Egress = netip.AddrPort{} }, "any egress": func(w *Way) { w.Egress = netip.MustParseAddrPort("0.0.0.0:1") },
	} {
		w := good
		change(&w)
		if err := c.SetWay(t.Context(), w); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	taken := good
	taken.Port = l.Addr().(*net.TCPAddr).Port
	if err := c.SetWay(t.Context(), taken); !errors.Is(err, ErrConflict) {
		t.Errorf("a port that a server has: %v", err)
	}
	egress := serveHere(t, func(o *Options) { o.Egress = true })
	if err := egress.BindDoors(t.Context(), DoorsRequest{Address: good.Leader, Doors: []Door{{Name: "x", Port: freePort(t)}}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a door that asks nobody who he is: %v", err)
	}
	if s, err := c.State(t.Context()); err != nil || len(s.Doors) > 0 {
		t.Errorf("%+v %v", s, err)
	}
}

// Whatever comes, nobody gets a port without the secret.
func FuzzHear(f *testing.F) {
	f.Add([]byte(strings.Repeat("x", nonceSize+2+proofSize)))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	w := Way{Name: "1", Secret: []byte(strings.Repeat("s", secretSize)), Egress: netip.MustParseAddrPort("10.0.0.1:7465")}
	f.Fuzz(func(t *testing.T, b []byte) {
		if port, err := w.hear(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), io.Discard}); err == nil || port != 0 {
			t.Errorf("port %d", port)
		}
	})
}
