package agent

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// In pods the agent of the leader listens on loopback in the egress' place, and hands each
// connection to the agent of the egress, with the port that its address stood for. Both
// prove first that they know the secret of the Way:
//
//	leader → egress: 32 random bytes
//	egress → leader: 32 random bytes, proof that it is the egress
//	leader → egress: the port (2 bytes), proof that the leader asks for it
//
// A proof is the HMAC of both random parts, the name of the way, the egress' address and what is
// said, so it is worth nothing in another connection, at another address, or in another generation.
//
// The bytes that follow are as they come from the servers. TLS would hide them between two
// pods, but not on the way onwards, where who reads along finds the same bytes; it would take
// from them that they are spliced, not copied, by both agents; and what has to be kept secret
// (https) is TLS between server and application already.

const (
	secretSize   = 32
	nonceSize    = 32
	proofSize    = sha256.Size
	greetTimeout = 5 * time.Second
	wayPatience  = 5 * time.Second // for an egress that is just being replaced
	wayDoor      = "egress"        // name of the doors
)

var errNotOfWay = errors.New("the peer does not know the secret of the way")

// SetWay joins the agent to the other one, closed. In a leader only the end for its servers
// changes, and it goes on listening where it does; an egress ends its connections.
func (a *Agent) SetWay(w Way) error {
	switch {
	case len(w.Secret) != secretSize:
		return invalid("set way: the secret has %d bytes, not %d", len(w.Secret), secretSize)
	case w.Name == "" || len(w.Name) > 512:
		return invalid("set way: it needs a name of at most 512 bytes")
	case !w.Leader.IsValid() || w.Leader.IsUnspecified() || w.Leader.Zone() != "":
		return invalid("set way: %q is no address of a leader", w.Leader)
	case !w.Egress.IsValid() || w.Egress.Port() == 0 || w.Egress.Addr().IsUnspecified() || w.Egress.Addr().Zone() != "":
		return invalid("set way: %q is no address of an egress", w.Egress)
	case w.Port < 1 || w.Port > 65535:
		return invalid("set way: port %d is out of range", w.Port)
	}
	return a.doors.setWay(w)
}

func (d *doors) setWay(w Way) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	at := netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(w.Port))
	bind := bindLoopback
	if d.egress {
		at, bind = netip.AddrPortFrom(w.Egress.Addr().Unmap(), w.Egress.Port()), BindDoor
	}
	same := false
	if d.out != nil { // only changed with d.changing held
		have, err := localAddress(int(d.out.socket.Fd()))
		same = err == nil && have == at
	}
	if same && !d.egress {
		d.useWay(w, d.out)
		return nil
	}
	if d.egress || d.out != nil {
		if _, err := d.closeAll(); err != nil {
			return err
		}
	}
	o := d.out
	if !same {
		s, err := bind(at)
		if err != nil {
			return conflict("set way: %v", err)
		}
		o = &door{Door: Door{Name: wayDoor, Port: int(at.Port())}, doors: d, socket: s}
	}
	if err := d.keepRelays(true); err != nil {
		if !same {
			_ = o.socket.Close()
		}
		return err
	}
	d.useWay(w, o)
	return nil
}

// usedWay is a way until another one is told.
type usedWay struct {
	Way
	ctx    context.Context
	cancel context.CancelFunc
}

// useWay lets the door lead there; a former one, closed, is given up.
func (d *doors) useWay(w Way, o *door) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.out != nil && d.out != o {
		_ = d.out.socket.Close()
	}
	if d.way != nil {
		d.way.cancel()
	}
	o.Origin = w.Name
	d.out, d.way = o, &usedWay{Way: w}
	d.way.ctx, d.way.cancel = context.WithCancel(context.Background())
}

// all doors there are.
func (d *doors) all() []*door {
	if d.out == nil {
		return d.list
	}
	return append(slices.Clip(d.list), d.out)
}

// end gives all doors up.
func (d *doors) end() error {
	err := d.replace(nil, nil)
	d.changing.Lock()
	defer d.changing.Unlock()
	d.mu.Lock()
	if d.out != nil {
		_ = d.out.socket.Close()
		d.way.cancel()
		d.out, d.way = nil, nil
	}
	d.mu.Unlock()
	return errors.Join(err, d.keepRelays(false))
}

// bindLoopback binds at every address of loopback and nowhere else. A socket cannot be bound
// to a network, so it is to all addresses of one link. A kernel before 5.7 does not let that be
// said without privileges; then serveWay alone refuses what comes from elsewhere.
func bindLoopback(at netip.AddrPort) (*os.File, error) {
	return bindSocket(at, func(fd int) error {
		err := unix.BindToDevice(fd, "lo")
		if err == unix.EPERM {
			return nil
		}
		return err
	})
}

// serveWay hands a connection from the leader's servers to the egress.
func (o *door) serveWay(ctx context.Context, c *connection) {
	local, _ := c.client.LocalAddr().(*net.TCPAddr)
	remote, _ := c.client.RemoteAddr().(*net.TCPAddr)
	port, ok := portOf(local.AddrPort().Addr())
	if !ok || !remote.AddrPort().Addr().Unmap().IsLoopback() {
		c.refuse()
		o.forget(c)
		return
	}
	egress, err := o.doors.enter(ctx, port)
	if err != nil {
		if ctx.Err() == nil {
			o.doors.log.Warn("connect to the egress", "error", err)
		}
		c.refuse()
		o.forget(c)
		return
	}
	o.relay(c, egress)
}

func (d *doors) currentWay() *usedWay {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.way
}

// enter connects to the egress, wherever that is just now. Nothing was read of the servers yet,
// so they notice of an egress that is being replaced only that it takes time.
func (d *doors) enter(ctx context.Context, port int) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, wayPatience)
	defer cancel()
	for {
		w := d.currentWay()
		if w == nil { // the agent ends
			return nil, net.ErrClosed
		}
		try, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(w.ctx, cancel) // another way is told
		c, err := w.enter(try, port)
		stop()
		cancel()
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-w.ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// enter connects to the egress and asks for a port.
func (w *Way) enter(ctx context.Context, port int) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: greetTimeout}
	conn, err := d.DialContext(ctx, "tcp", w.Egress.String())
	if err != nil {
		return nil, err
	}
	c := conn.(*net.TCPConn)
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(greetTimeout))
	if err := w.ask(c, port); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func (w *Way) ask(c io.ReadWriter, port int) error {
	nonces := make([]byte, nonceSize, 2*nonceSize)
	_, _ = rand.Read(nonces) // never fails
	if _, err := c.Write(nonces); err != nil {
		return err
	}
	var answer [nonceSize + proofSize]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return err
	}
	nonces = append(nonces, answer[:nonceSize]...)
	if !hmac.Equal(answer[nonceSize:], w.proof("egress", nonces, 0)) {
		return errNotOfWay
	}
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(port)), w.proof("leader", nonces, port)...))
	return err
}

// greet is the egress' side of enter.
func (w *Way) greet(c *net.TCPConn) (port int, err error) {
	if from, _ := c.RemoteAddr().(*net.TCPAddr); from.AddrPort().Addr().Unmap() != w.Leader.Unmap() {
		return 0, errNotOfWay
	}
	if err := c.SetDeadline(time.Now().Add(greetTimeout)); err != nil {
		return 0, err
	}
	if port, err = w.hear(c); err != nil {
		return 0, err
	}
	return port, c.SetDeadline(time.Time{})
}

func (w *Way) hear(c io.ReadWriter) (port int, err error) {
	nonces := make([]byte, 2*nonceSize)
	if _, err := io.ReadFull(c, nonces[:nonceSize]); err != nil {
		return 0, err
	}
	_, _ = rand.Read(nonces[nonceSize:])
	if _, err := c.Write(append(nonces[nonceSize:len(nonces):len(nonces)], w.proof("egress", nonces, 0)...)); err != nil {
		return 0, err
	}
	var asked [2 + proofSize]byte
	if _, err := io.ReadFull(c, asked[:]); err != nil {
		return 0, err
	}
	port = int(binary.BigEndian.Uint16(asked[:]))
	if port == 0 || !hmac.Equal(asked[2:], w.proof("leader", nonces, port)) {
		return 0, errNotOfWay
	}
	return port, nil
}

func (w *Way) proof(who string, nonces []byte, port int) []byte {
	m := hmac.New(sha256.New, w.Secret)
	fmt.Fprintf(m, "remuda way 1\x00%s\x00%s\x00%s\x00%d\x00", who, w.Egress, w.Name, port)
	_, _ = m.Write(nonces)
	return m.Sum(nil)
}
