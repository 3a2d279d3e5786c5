package agent

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// behindDoor starts an echo server in this process with an agent before it.
func behindDoor(t testing.TB, change ...func(*Options)) (c *Client, address string, target net.Listener) {
	t.Helper()
	c = serveHere(t, change...)
	must(t, c.Start(t.Context(), StartRequest{User: me(t)}))
	target, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = target.Close() })
	go func() { _ = echo(target) }()
	socket, port := boundSocket(t)
	door := Door{Name: "d", Port: port, Target: target.Addr().(*net.TCPAddr).Port}
	must(t, c.SendDoors(t.Context(), []Door{door}, []*os.File{socket}))
	must(t, socket.Close())
	return c, "127.0.0.1:" + strconv.Itoa(port), target
}

func TestDoorOpensAndCloses(t *testing.T) {
	c, address, _ := behindDoor(t)
	refused := func() {
		t.Helper()
		if conn, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dial a closed door: %v %v", conn, err)
		}
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			t.Fatal("somebody else can take the port of a closed door")
		}
	}
	refused()
	for round := range 20 {
		must(t, c.OpenDoors(t.Context(), OpenRequest{}))
		must(t, c.OpenDoors(t.Context(), OpenRequest{}))
		var conns []net.Conn
		for i := range 5 {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatalf("round %d, connection %d: %v", round, i, err)
			}
			defer conn.Close()
			roundTrip(t, conn, fmt.Sprint("hello ", round, i))
			conns = append(conns, conn)
		}
		lingering(t, address)
		eventually(t, func() error {
			s, err := c.State(t.Context())
			if err == nil && (!s.Doors[0].Open || s.Doors[0].Connections != 5) {
				err = fmt.Errorf("doors %+v", s.Doors)
			}
			return err
		})
		r, err := c.CloseDoors(t.Context(), CloseRequest{})
		must(t, err)
		if r.Connections != 5 {
			t.Fatalf("closed %+v", r)
		}
		refused()
		for _, conn := range conns {
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && err != io.EOF {
				t.Fatalf("an old connection lives: %v", err)
			}
		}
	}
	must(t, c.OpenDoors(t.Context(), OpenRequest{}))
	conn, err := net.Dial("tcp", address)
	must(t, err)
	defer conn.Close()
	roundTrip(t, conn, "x")
	w, err := c.Wipe(t.Context(), WipeRequest{})
	must(t, err)
	if w.Connections != 1 {
		t.Errorf("wipe %+v", w)
	}
	refused()
	if err := c.OpenDoors(t.Context(), OpenRequest{}); !errors.Is(err, ErrConflict) {
		t.Errorf("open doors of an idle member: %v", err)
	}
}

// A wipe of a spec that is not the newest leaves the tenant alone, and one that is says so to who closes doors next.
func TestWipeInOrder(t *testing.T) {
	c, address, _ := behindDoor(t)
	must(t, c.OpenDoors(t.Context(), OpenRequest{Order: 5}))
	conn, err := net.Dial("tcp", address)
	must(t, err)
	defer conn.Close()
	if _, err := c.Wipe(t.Context(), WipeRequest{Order: 4}); !errors.Is(err, ErrConflict) {
		t.Errorf("wiped by an old order: %v", err)
	}
	roundTrip(t, conn, "goes on")
	w, err := c.Wipe(t.Context(), WipeRequest{Order: 6})
	must(t, err)
	if w.Connections != 1 {
		t.Errorf("wipe %+v", w)
	}
	must(t, c.Start(t.Context(), StartRequest{User: me(t)}))
	if err := c.OpenDoors(t.Context(), OpenRequest{Order: 5}); !errors.Is(err, ErrConflict) {
		t.Errorf("opened by an order from before the wipe: %v", err)
	}
	r, err := c.CloseDoors(t.Context(), CloseRequest{Order: 6})
	must(t, err)
	if r.WasOpen || r.Wiped != 6 {
		t.Errorf("close %+v", r)
	}
	must(t, c.OpenDoors(t.Context(), OpenRequest{Order: 7}))
	r, err = c.CloseDoors(t.Context(), CloseRequest{Order: 8})
	must(t, err)
	if !r.WasOpen || r.Wiped != 6 {
		t.Errorf("close %+v", r)
	}
}

// lingering leaves a connection at the door in TIME_WAIT: the server ends it first.
func lingering(t testing.TB, address string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	must(t, err)
	defer conn.Close()
	roundTrip(t, conn, "end\n")
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
}

func roundTrip(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(conn, text)
	must(t, err)
	got := make([]byte, len(text))
	_, err = io.ReadFull(conn, got)
	must(t, err)
	if string(got) != text {
		t.Fatalf("got %q, want %q", got, text)
	}
}

// forgotten waits until the door counts no connection any more.
func forgotten(t *testing.T, c *Client) {
	t.Helper()
	eventually(t, func() error {
		s, err := c.State(t.Context())
		if err == nil && s.Doors[0].Connections != 0 {
			err = fmt.Errorf("connections are left: %+v", s.Doors)
		}
		return err
	})
}

// say sends data and its end while the test reads.
func say(conn net.Conn, data []byte) {
	_, _ = conn.Write(data)
	_ = conn.(*net.TCPConn).CloseWrite()
}

// echoed reads to the end, which must be data.
func echoed(t *testing.T, conn net.Conn, data []byte) {
	t.Helper()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d: %v", len(got), len(data), err)
	}
}

// TestDoorTransfers sends much both ways at once, on many connections, and
// relies on half-closed connections for the end.
func TestDoorTransfers(t *testing.T) {
	c, address, _ := behindDoor(t)
	must(t, c.OpenDoors(t.Context(), OpenRequest{}))
	for _, tt := range []struct{ conns, size int }{{200, 10_000}, {2, 64 << 20}} {
		data := make([]byte, tt.size)
		_, _ = rand.Read(data)
		var wg sync.WaitGroup
		for range tt.conns {
			wg.Go(func() {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				go say(conn, data)
				echoed(t, conn, data)
			})
		}
		wg.Wait()
	}
	forgotten(t, c)
}

func TestDoorWaitsForTarget(t *testing.T) {
	c, address, target := behindDoor(t)
	must(t, target.Close())
	must(t, c.OpenDoors(t.Context(), OpenRequest{}))
	conn, err := net.Dial("tcp", address)
	must(t, err)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	time.Sleep(200 * time.Millisecond)
	again, err := net.Listen("tcp", target.Addr().String())
	must(t, err)
	go func() { _ = echo(again) }()
	roundTrip(t, conn, "late")
	must(t, again.Close())
	begin := time.Now()
	other, err := net.Dial("tcp", address)
	must(t, err)
	defer other.Close()
	_ = other.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := other.Read(make([]byte, 1)); err == nil || time.Since(begin) > 5*time.Second {
		t.Errorf("a connection without target: %v after %s", err, time.Since(begin))
	}
}

func TestSendDoorsRefuses(t *testing.T) {
	c := serveHere(t)
	socket, port := boundSocket(t)
	for name, d := range map[string]Door{
		"port":   {Name: "d", Port: port + 1, Target: 1},
		"target": {Name: "d", Port: port},
	} {
		if err := c.SendDoors(t.Context(), []Door{d}, []*os.File{socket}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	must(t, err)
	defer f.Close()
	d := Door{Name: "d", Port: l.Addr().(*net.TCPAddr).Port, Target: 1}
	if err := c.SendDoors(t.Context(), []Door{d}, []*os.File{f}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a listener: %v", err)
	}
	if err := c.SendDoors(t.Context(), []Door{{Name: "d", Port: port, Target: 1}}, []*os.File{socket}); err != nil {
		t.Error(err)
	}
	must(t, c.SendDoors(t.Context(), nil, nil))
}

func TestDoorLimit(t *testing.T) {
	c, address, _ := behindDoor(t, func(o *Options) { o.DoorLimit = 3 })
	must(t, c.OpenDoors(t.Context(), OpenRequest{}))
	for i := range 5 {
		conn, err := net.Dial("tcp", address)
		if i >= 3 && errors.Is(err, syscall.ECONNRESET) {
			continue // refused so quickly that the dial has seen it
		}
		must(t, err)
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if i < 3 {
			roundTrip(t, conn, "within")
		} else if n, err := conn.Read(make([]byte, 1)); err == nil || n > 0 {
			t.Errorf("connection %d is served", i)
		}
	}
}

// TestDoorBackpressure lets data pile up before a reader that is slow, both by
// the buffer and by the pipe, and resets connections while it is there.
func TestDoorBackpressure(t *testing.T) {
	c, address, _ := behindDoor(t)
	must(t, c.OpenDoors(t.Context(), OpenRequest{}))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			data := make([]byte, 24<<20)
			_, _ = rand.Read(data)
			go say(conn, data)
			time.Sleep(300 * time.Millisecond)
			if i%2 == 0 {
				_ = conn.(*net.TCPConn).SetLinger(0)
				return
			}
			echoed(t, conn, data)
		})
	}
	wg.Wait()
	forgotten(t, c)
}

// TestDoorDeliversTheRest has a client that has said all and reads slowly from
// a server that has closed already.
func TestDoorDeliversTheRest(t *testing.T) {
	c, address, target := behindDoor(t)
	must(t, target.Close())
	server, err := net.Listen("tcp", target.Addr().String())
	must(t, err)
	defer server.Close()
	const size = 16 << 20
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadAll(conn)
			_, _ = conn.Write(make([]byte, size))
			_ = conn.Close()
		}
	}()
	must(t, c.OpenDoors(t.Context(), OpenRequest{}))
	for range 5 {
		conn, err := net.Dial("tcp", address)
		must(t, err)
		defer conn.Close()
		must(t, conn.(*net.TCPConn).CloseWrite())
		time.Sleep(100 * time.Millisecond)
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if n, err := io.Copy(io.Discard, conn); err != nil || n != size {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}
