package agent

import (
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/internal/ownthread"
)

const (
	relayBuffer = 64 << 10
	maxPipes    = 64
	relayTurns  = 16 // reads of one connection before the others get their turn
)

// relays copies the bytes of many connections on one thread with epoll. Per
// connection it holds two descriptors and nothing else; Go's own copying would
// take two goroutines and, while idle too, two pipes, whose number per user is
// limited by the kernel.
//
// Small messages are read and written. As soon as a read fills the buffer the
// bytes go through a pipe with splice(2), not through this process. A pipe
// belongs to a connection only while it holds bytes of it.
//
// The thread is nobody else's and is called DoorThread, so that whoever limits
// the member's processor time can leave it out.
type relays struct {
	log    *slog.Logger
	epoll  int
	wake   int // eventfd
	waiter waiter
	pipes  []*pipe // free ones
	made   int     // pipes there are, free or not
	buf    []byte
	done   chan struct{}

	mu     sync.Mutex
	orders []func() // run on the loop's thread
	ended  bool

	// the thread's own
	pairs map[uint32]*pair
	next  uint32
	stop  bool
}

// pair is a connection: side 0 is the client, side 1 the server.
type pair struct {
	id       uint32
	fd       [2]int
	interest [2]uint32 // as epoll knows it
	gone     [2]bool   // epoll does not watch it now
	flow     [2]flow   // flow[i] is from side i to the other
	over     func()
}

// flow is one direction.
type flow struct {
	pending []byte // read and not written yet; nothing is read meanwhile
	pipe    *pipe  // the same, for bytes that are spliced
	ended   bool   // the source has said all, and the destination knows
	bulk    bool
}

func newRelays(log *slog.Logger) (*relays, error) {
	r := &relays{log: log, done: make(chan struct{}), pairs: map[uint32]*pair{}}
	var err error
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make relays: %w", err)
	}
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(r.epoll)
		return nil, fmt.Errorf("make relays: %w", err)
	}
	if err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, r.wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}); err != nil {
		r.closeAll()
		return nil, fmt.Errorf("make relays: %w", err)
	}
	named := make(chan struct{})
	ownthread.Go(func() { r.run(named) })
	<-named
	return r, nil
}

// do runs f on the thread; false when that has ended.
func (r *relays) do(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	r.orders = append(r.orders, f)
	_, _ = unix.Write(r.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return true
}

// add takes over the descriptors of a connection and calls over when it ends.
func (r *relays) add(client, server int, over func()) {
	p := &pair{fd: [2]int{client, server}, over: over}
	if !r.do(func() { r.begin(p) }) {
		r.drop(p, true)
	}
}

// abort ends all connections with a reset, and returns when that is done.
func (r *relays) abort() {
	dropped := make(chan struct{})
	if !r.do(func() { r.dropAll(); close(dropped) }) {
		<-r.done
		return
	}
	<-dropped
}

// end ends the thread too.
func (r *relays) end() {
	r.do(func() { r.stop = true })
	<-r.done
}

func (r *relays) run(named chan<- struct{}) {
	defer close(r.done)
	nameThread()
	close(named)
	events := make([]unix.EpollEvent, 64)
	for !r.stop {
		n, err := r.waiter.wait(r.epoll, events)
		if err != nil && err != unix.EINTR {
			r.log.Error("relays end", "error", err)
			break
		}
		for i := range max(n, 0) {
			if events[i].Fd == -1 {
				r.obey()
				continue
			}
			if p := r.pairs[uint32(events[i].Fd)]; p != nil {
				r.handle(p, int(events[i].Pad), events[i].Events)
			}
		}
	}
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.obey()
	r.dropAll()
	r.closeAll()
}

func (r *relays) dropAll() {
	for _, p := range r.pairs {
		r.drop(p, true)
	}
}

func (r *relays) closeAll() {
	for _, p := range r.pipes {
		p.close()
	}
	_ = unix.Close(r.epoll)
	_ = unix.Close(r.wake)
}

func (r *relays) obey() {
	var count [8]byte
	_, _ = unix.Read(r.wake, count[:])
	r.mu.Lock()
	orders := r.orders
	r.orders = nil
	r.mu.Unlock()
	for _, f := range orders {
		f()
	}
}

func (r *relays) begin(p *pair) {
	if r.buf == nil { // a group that nobody uses needs none
		r.buf = make([]byte, relayBuffer)
	}
	for r.next++; r.pairs[r.next&0x7fffffff] != nil; r.next++ {
	}
	p.id = r.next & 0x7fffffff
	r.pairs[p.id] = p
	for side, fd := range p.fd {
		p.interest[side] = unix.EPOLLIN
		if err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd, p.event(side)); err != nil {
			r.log.Warn("watch a connection", "error", err)
			r.drop(p, true)
			return
		}
	}
}

func (p *pair) event(side int) *unix.EpollEvent {
	return &unix.EpollEvent{Events: p.interest[side], Fd: int32(p.id), Pad: int32(side)}
}

// handle does what one event of one side asks for.
func (r *relays) handle(p *pair, side int, events uint32) {
	err := error(nil)
	if events&(unix.EPOLLOUT|unix.EPOLLERR) != 0 {
		err = r.flush(p, 1-side)
	}
	if in := &p.flow[side]; err == nil && !in.ended && !in.blocked() {
		err = r.pump(p, side)
	}
	if err == nil && events&unix.EPOLLERR != 0 {
		if code, e := unix.GetsockoptInt(p.fd[side], unix.SOL_SOCKET, unix.SO_ERROR); e != nil || code != 0 {
			err = unix.Errno(code)
		}
	}
	if err != nil || (p.flow[0].ended && p.flow[1].ended) {
		r.drop(p, err != nil)
		return
	}
	if events&unix.EPOLLHUP != 0 && p.want(side) == 0 && !p.gone[side] {
		// Nothing is to be done here until the other side has drained; epoll
		// would report this over and over.
		p.gone[side] = true
		_ = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_DEL, p.fd[side], nil)
	}
	r.update(p)
}

// want is what a side must be watched for.
func (p *pair) want(side int) uint32 {
	var w uint32
	if f := &p.flow[side]; !f.ended && !f.blocked() {
		w |= unix.EPOLLIN
	}
	if p.flow[1-side].blocked() {
		w |= unix.EPOLLOUT
	}
	return w
}

func (r *relays) update(p *pair) {
	for side := range p.fd {
		w := p.want(side)
		switch {
		case p.gone[side] && w != 0:
			p.gone[side], p.interest[side] = false, w
			_ = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, p.fd[side], p.event(side))
		case w != p.interest[side] && !p.gone[side]:
			p.interest[side] = w
			_ = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_MOD, p.fd[side], p.event(side))
		}
	}
}

// drop ends a connection, with a reset if something went wrong.
func (r *relays) drop(p *pair, reset bool) {
	delete(r.pairs, p.id)
	for i := range p.flow {
		if unsent := p.flow[i].pipe; unsent != nil {
			unsent.close()
			r.made--
		}
	}
	for _, fd := range p.fd {
		if reset {
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
		_ = unix.Close(fd)
	}
	p.over()
}

// pump moves what side has to say, until it has no more for now.
func (r *relays) pump(p *pair, side int) error {
	f, from, to := &p.flow[side], p.fd[side], p.fd[1-side]
	for range relayTurns {
		if f.bulk && (len(r.pipes) > 0 || r.made < maxPipes) {
			more, err := r.splice(f, from, to)
			if err != nil || !more {
				return err
			}
			continue
		}
		n, err := unix.Read(from, r.buf)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			return nil
		case err != nil:
			return err
		case n == 0:
			return f.end(to)
		}
		if err := f.write(to, r.buf[:n]); err != nil || len(f.pending) > 0 {
			return err
		}
		if n < len(r.buf) {
			return nil // most likely all; if not, epoll says so
		}
		f.bulk = true
	}
	return nil
}

// write sends b and keeps what the destination does not take.
func (f *flow) write(to int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(to, b)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			f.pending = append([]byte(nil), b...)
			return nil
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	f.pending = nil
	return nil
}

// flush sends what waits for the destination of flow[side].
func (r *relays) flush(p *pair, side int) error {
	f, to := &p.flow[side], p.fd[1-side]
	if f.pipe != nil {
		return r.emptyPipe(f, to)
	}
	for len(f.pending) > 0 {
		n, err := unix.Write(to, f.pending)
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil && err != unix.EINTR {
			return err
		}
		f.pending = f.pending[max(n, 0):]
	}
	f.pending = nil
	return nil
}

// end hands the end of a stream on. Nothing is pending: then nothing is read.
func (f *flow) end(to int) error {
	f.ended = true
	if err := unix.Shutdown(to, unix.SHUT_WR); err != nil && err != unix.ENOTCONN {
		return err
	}
	return nil
}
