package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	doorBacklog  = 1024
	doorsLimit   = 253 // SCM_MAX_FD: what one message can carry
	dialPatience = 2 * time.Second
	closeTimeout = 5 * time.Second
)

// doors are the only way in for tenants: listening sockets that lie outside of
// the member and connections that the agent copies to its servers.
//
// An egress has the same the other way round: its door lies inside of the leader
// and leads out of it (egress.go). In pods both have a door for that (way.go).
//
// A closed door is a bound socket that does not listen: shutdown(2) of a
// listening TCP socket brings it back to that state, so that clients are
// refused, and it can listen again later.
type doors struct {
	log    *slog.Logger
	limit  int  // connections per door
	egress bool // they lead out, not in

	changing sync.Mutex // held over open, close and replace; guards orders
	orders   orders

	mu     sync.Mutex
	list   []*door
	out    *door // of a way
	way    *usedWay
	relays *relays // while there are doors
	rules  *Egress // nil until it was told
	names  *names  // since the last opening
}

type door struct {
	Door
	doors  *doors
	socket *os.File

	// guarded by doors.mu
	listener *net.TCPListener // nil when closed
	ctx      context.Context  // ends when the door is closed
	cancel   context.CancelFunc
	conns    map[*connection]struct{}
	wg       *sync.WaitGroup
}

// connection is one through a door.
type connection struct {
	client *net.TCPConn
	relays *relays
	among  map[*connection]struct{} // the set it is counted in
}

func newDoors(log *slog.Logger, limit int, egress bool) *doors {
	return &doors{log: log, limit: limit, egress: egress, names: &names{}}
}

// outside is what connections that lead out need.
func (d *doors) outside() (Egress, *names) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return *d.rules, d.names
}

// replace closes and forgets all doors and takes new ones, closed. The sockets
// are the doors' from here on, after an error too. Without doors there is no
// thread for them either.
func (d *doors) replace(list []Door, sockets []*os.File) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	err := d.check(list, sockets)
	if err == nil {
		_, err = d.closeAll()
	}
	if err == nil {
		err = d.keepRelays(len(list) > 0 || d.out != nil)
	}
	if err != nil {
		for _, s := range sockets {
			_ = s.Close()
		}
		return err
	}
	d.take(list, sockets)
	return nil
}

// take puts new doors in the place of all old ones, which are closed.
func (d *doors) take(list []Door, sockets []*os.File) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, old := range d.list {
		if !slices.Contains(sockets, old.socket) {
			_ = old.socket.Close()
		}
	}
	d.list = nil
	for i, spec := range list {
		d.list = append(d.list, &door{Door: spec, doors: d, socket: sockets[i]})
	}
}

// keepRelays begins or ends the relays. The doors are closed.
func (d *doors) keepRelays(wanted bool) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case wanted && d.relays == nil:
		d.relays, err = newRelays(d.log)
	case !wanted && d.relays != nil:
		d.relays.end()
		d.relays = nil
	}
	return err
}

// check refuses sockets that are not what their doors say.
func (d *doors) check(list []Door, sockets []*os.File) error {
	if len(list) != len(sockets) {
		return invalid("doors: %d descriptions for %d sockets", len(list), len(sockets))
	}
	for i, spec := range list {
		if d.egress != (spec.Target == 0) {
			return invalid("door %q: target port %d; an egress has none, and others have one", spec.Name, spec.Target)
		}
		if spec.Target < 0 || spec.Target > 65535 {
			return invalid("door %q: target port %d is out of range", spec.Name, spec.Target)
		}
		port, err := boundPort(int(sockets[i].Fd()))
		if err != nil {
			return invalid("door %q: %v", spec.Name, err)
		}
		if port != spec.Port {
			return invalid("door %q: the socket is bound to port %d, not %d", spec.Name, port, spec.Port)
		}
	}
	return nil
}

// open makes every door listen. Doors that are open stay as they are.
func (d *doors) open(r OpenRequest) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if err := d.orders.toOpen(r.Order); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.relays != nil {
		d.relays.waiter.mayPoll.Store(r.Poll)
	}
	if d.egress && d.rules == nil {
		return conflict("open doors: the egress was not told where it does not lead")
	}
	for _, o := range d.all() {
		if o.listener != nil {
			continue
		}
		l, err := o.listen()
		if err != nil {
			return fmt.Errorf("open door %q: %w", o.Name, errors.Join(err, o.refuse()))
		}
		o.listener = l
		o.ctx, o.cancel = context.WithCancel(context.Background())
		o.conns, o.wg = map[*connection]struct{}{}, &sync.WaitGroup{}
		ctx, wg := o.ctx, o.wg
		wg.Go(func() { o.accept(ctx, wg, o.listener) })
	}
	return nil
}

// wipe notes the order of a wipe, after which no older one opens.
func (d *doors) wipe(order int64) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	return d.orders.toWipe(order)
}

// close ends every connection and makes every door refuse new ones. It says how
// many connections there were.
func (d *doors) close() (int, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	return d.closeAll()
}

// closeInOrder closes unless a newer order was to open.
func (d *doors) closeInOrder(order int64) (r CloseResult, err error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	if err := d.orders.toClose(order); err != nil {
		return r, err
	}
	r.Wiped = d.orders.wiped
	r.WasOpen = slices.ContainsFunc(d.state(), func(s DoorState) bool { return s.Open })
	r.Connections, err = d.closeAll()
	return r, err
}

func (d *doors) closeAll() (int, error) {
	var errs []error
	var waits []*sync.WaitGroup
	count := 0
	d.mu.Lock()
	for _, o := range d.all() {
		if o.listener == nil {
			continue
		}
		if err := o.refuse(); err != nil {
			errs = append(errs, err)
		}
		o.cancel()
		_ = o.listener.Close()
		o.listener = nil
		count += len(o.conns)
		waits = append(waits, o.wg)
	}
	relays := d.relays
	d.names = &names{}
	d.mu.Unlock()

	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, wg := range waits {
			wg.Wait()
		}
		if relays != nil {
			relays.abort()
		}
	}()
	select {
	case <-done:
	case <-time.After(closeTimeout):
		errs = append(errs, errors.New("close doors: connections are left"))
	}
	return count, errors.Join(errs...)
}

// accept takes connections until the door is closed.
func (o *door) accept(ctx context.Context, wg *sync.WaitGroup, l *net.TCPListener) {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		c, err := l.AcceptTCP()
		if err == nil {
			pause = 0
			if r := o.admit(ctx, c); r != nil {
				wg.Go(func() { o.serve(ctx, r) })
			}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		// Mostly no descriptors or memory: others must end first.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		o.doors.log.Warn("accept", "door", o.Name, "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// admit registers a new connection, or ends it at once.
func (o *door) admit(ctx context.Context, c *net.TCPConn) *connection {
	o.doors.mu.Lock()
	defer o.doors.mu.Unlock()
	r := &connection{client: c, relays: o.doors.relays, among: o.conns}
	if ctx.Err() != nil || len(o.conns) >= o.doors.limit {
		r.refuse()
		return nil
	}
	r.among[r] = struct{}{}
	return r
}

// serve connects to the server and hands both ends to the relays.
func (o *door) serve(ctx context.Context, c *connection) {
	switch {
	case o.doors.egress:
		o.serveOut(ctx, c)
		return
	case o.Target == 0:
		o.serveWay(ctx, c)
		return
	}
	server, err := dialTarget(ctx, o.Target)
	if err != nil {
		if ctx.Err() == nil {
			o.doors.log.Warn("connect to the server", "door", o.Name, "error", err)
		}
		c.refuse()
		o.forget(c)
		return
	}
	o.relay(c, server)
}

// relay hands both ends over.
func (o *door) relay(c *connection, server *net.TCPConn) {
	a, errA := take(c.client)
	b, errB := take(server)
	if err := errors.Join(errA, errB); err != nil {
		o.doors.log.Warn("take a connection over", "door", o.Name, "error", err)
		for _, fd := range []int{a, b} {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
		}
		o.forget(c)
		return
	}
	c.relays.add(a, b, func() { o.forget(c) })
}

func (o *door) forget(c *connection) {
	o.doors.mu.Lock()
	defer o.doors.mu.Unlock()
	delete(c.among, c)
}

// take makes the connection's descriptor ours alone; Go forgets it.
func take(c *net.TCPConn) (int, error) {
	_ = c.SetNoDelay(true)
	_ = c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4})
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, dupErr := -1, error(nil)
	err = raw.Control(func(own uintptr) { fd, dupErr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(err, dupErr)
}

// refuse ends a client's connection with a reset.
func (c *connection) refuse() {
	_ = c.client.SetLinger(0)
	_ = c.client.Close()
}

// dialTarget connects to the server inside. A server that is just restarting
// gets some time.
func dialTarget(ctx context.Context, port int) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: 10 * time.Second} // of one try: a busy host is no refusal
	patience := time.Now().Add(dialPatience)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		c, err := d.DialContext(ctx, "tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		if time.Now().After(patience) {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (d *doors) state() []DoorState {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []DoorState
	for _, o := range d.all() {
		out = append(out, DoorState{
			Name: o.Name, Port: o.Port, Target: o.Target, Origin: o.Origin,
			Open: o.listener != nil, Connections: len(o.conns),
		})
	}
	return out
}
