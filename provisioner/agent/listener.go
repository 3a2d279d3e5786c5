package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what peers in the network can make an agent hold. Nothing is read for a peer
// before it has shown who it is, and those who have not come from few addresses: a
// source that has too many unfinished handshakes loses its own oldest.
const (
	handshakeTimeout = 5 * time.Second
	handshakesLimit  = 16
	handshakesSource = 4 // from one address
	ordersLimit      = 64
)

// guardedListener accepts only peers whose handshake has succeeded.
type guardedListener struct {
	net.Listener
	config *tls.Config
	log    *slog.Logger
	ready  chan net.Conn
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	waiting []*stranger // oldest first
	open    int         // peers that have shown who they are
}

// stranger is a peer in its handshake.
type stranger struct {
	source netip.Prefix
	conn   net.Conn
}

func guard(l net.Listener, config *tls.Config, log *slog.Logger) *guardedListener {
	g := &guardedListener{Listener: l, config: config, log: log, ready: make(chan net.Conn)}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.wg.Go(g.accept)
	return g
}

// accept takes peers and lets each do its handshake.
func (g *guardedListener) accept() {
	for {
		c, err := g.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			g.cancel()
			return
		}
		if err != nil { // no descriptors, most likely
			select {
			case <-time.After(50 * time.Millisecond):
			case <-g.ctx.Done():
				return
			}
			continue
		}
		s := &stranger{source: sourceOf(c.RemoteAddr()), conn: c}
		g.mu.Lock()
		g.waiting = append(g.waiting, s)
		victim := excess(g.waiting)
		g.mu.Unlock()
		if victim != nil {
			g.forget(victim)
			_ = victim.conn.Close()
		}
		g.wg.Go(func() { g.greet(s) })
	}
}

// greet does the handshake of one peer.
func (g *guardedListener) greet(s *stranger) {
	ctx, cancel := context.WithTimeout(g.ctx, handshakeTimeout)
	defer cancel()
	c := tls.Server(s.conn, g.config)
	err := c.HandshakeContext(ctx)
	g.mu.Lock()
	known := g.drop(s)
	if err == nil && known && g.open >= ordersLimit {
		err = errors.New("too many connections")
	}
	if err == nil && known {
		g.open++
	}
	g.mu.Unlock()
	if err != nil || !known {
		g.log.Debug("peer refused", "source", s.source, "error", err)
		_ = s.conn.Close()
		return
	}
	peer := &peerConn{Conn: c, done: sync.OnceFunc(g.left)}
	select {
	case g.ready <- peer:
	case <-g.ctx.Done():
		_ = peer.Close()
	}
}

func (g *guardedListener) left() {
	g.mu.Lock()
	g.open--
	g.mu.Unlock()
}

func (g *guardedListener) forget(s *stranger) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drop(s)
}

// drop takes the stranger out of those who wait, if it is one of them still.
func (g *guardedListener) drop(s *stranger) bool {
	for i, w := range g.waiting {
		if w == s {
			g.waiting = append(g.waiting[:i:i], g.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// excess is who has to go: the oldest of a source that has more than its share, or else,
// of too many, the oldest of the source that has most. nil for nobody.
func excess(waiting []*stranger) *stranger {
	count := map[netip.Prefix]int{}
	most := 0
	for _, s := range waiting {
		count[s.source]++
		most = max(most, count[s.source])
	}
	if most <= handshakesSource && len(waiting) <= handshakesLimit {
		return nil
	}
	for _, s := range waiting {
		if count[s.source] == most {
			return s
		}
	}
	return nil
}

// sourceOf is what one peer can easily have: an IPv4 address, or a network of IPv6.
func sourceOf(addr net.Addr) netip.Prefix {
	a, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := a.AddrPort().Addr().Unmap()
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.WithZone("").Prefix(bits)
	return p
}

// Accept is for http.Server.
func (g *guardedListener) Accept() (net.Conn, error) {
	select {
	case c := <-g.ready:
		return c, nil
	case <-g.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close returns when nothing of the listener runs any more. Connections that were
// accepted stay.
func (g *guardedListener) Close() error {
	g.cancel()
	err := g.Listener.Close()
	g.wg.Wait()
	return err
}

// peerConn is counted until it is closed. It hides that it is TLS from http.Server,
// which has nothing left to do about that.
type peerConn struct {
	net.Conn
	done func()
}

func (c *peerConn) Close() error {
	c.done()
	return c.Conn.Close()
}

// listenTCP listens for orders from the network.
func (a *Agent) listenTCP() (net.Listener, error) {
	config, err := a.opts.Identity.config()
	if err != nil {
		return nil, err
	}
	a.identity.Store(config)
	l, err := net.Listen("tcp", a.opts.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for orders: %w", err)
	}
	inode, err := socketInode(l.(*net.TCPListener))
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen for orders: %w", err)
	}
	a.ownSockets[inode] = true
	return guard(l, a.serverConfig(), a.log), nil
}

// socketInode tells a socket in the tables of the kernel.
func socketInode(s syscall.Conn) (uint64, error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	var statErr error
	err = raw.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &st) })
	return st.Ino, errors.Join(err, statErr)
}
