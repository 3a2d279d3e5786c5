package nfs

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Numbers of ONC RPC (RFC 5531).
const (
	rpcVersion = 2

	msgCall  = 0
	msgReply = 1

	replyAccepted = 0
	replyDenied   = 1

	acceptSuccess      = 0
	acceptProgUnavail  = 1
	acceptProgMismatch = 2
	acceptProcUnavail  = 3
	acceptGarbage      = 4

	rejectVersion = 0
	rejectAuth    = 1
	authBadCred   = 1

	authNone = 0
	authSys  = 1

	maxAuth  = 400       // bytes
	sendPart = 128 << 10 // bytes
	lastPart = 1 << 31   // in a fragment's length
)

const (
	atOnce       = 8                // requests of a connection being worked on
	recordLimit  = 30 * time.Second // for a request to arrive once it has begun
	sendLimit    = time.Minute      // for a client to take an answer
	stuckLimit   = 10 * time.Second // for it to take a part of one
	strangeLimit = 30 * time.Second // for a connection to show a handle or an export's name
	idleLimit    = 15 * time.Minute // for one that has
)

// connection is one with a client.
type connection struct {
	net.Conn
	s     *server
	r     *bufio.Reader
	known atomic.Bool // it has shown a handle that is good, or a token
	meet  func()      // to be called then
	write sync.Mutex
}

var errRecord = errors.New("a request is too long")

// serve reads requests until the connection ends, and works on a few of them at once.
func (c *connection) serve(ctx context.Context) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	defer all.Wait()
	for {
		slots <- struct{}{}
		record, err := c.record(ctx)
		if err != nil {
			return
		}
		all.Go(func() {
			defer func() {
				c.s.requests.give(cap(record))
				<-slots
			}()
			if !c.answer(ctx, record) {
				_ = c.Close()
			}
		})
	}
}

// record reads one request (RFC 5531, section 11). Its memory, which is its capacity,
// is taken from the budget before; if there is none the client waits.
func (c *connection) record(ctx context.Context) (record []byte, err error) {
	if err := c.wait(); err != nil {
		return nil, err
	}
	limit := maxStranger
	if c.known.Load() {
		limit = maxRecord
	}
	_ = c.SetReadDeadline(time.Now().Add(recordLimit))
	defer func() {
		if err != nil {
			c.s.requests.give(cap(record))
			record = nil
		}
	}()
	var mark [4]byte
	for range maxFragments {
		if _, err := io.ReadFull(c.r, mark[:]); err != nil {
			return record, err
		}
		word := binary.BigEndian.Uint32(mark[:])
		n, have := int(word&^lastPart), len(record)
		if have+n > limit {
			return record, errRecord
		}
		if record, err = c.grow(ctx, record, n, limit); err != nil {
			return record, err
		}
		if _, err := io.ReadFull(c.r, record[have:]); err != nil {
			return record, err
		}
		if word&lastPart != 0 {
			return record, nil
		}
	}
	return record, errRecord
}

// wait returns when a request begins. A stranger may become known by one that is being
// worked on meanwhile.
func (c *connection) wait() error {
	began := time.Now()
	for {
		idle := strangeLimit
		if c.known.Load() {
			idle = idleLimit
		}
		_ = c.SetReadDeadline(began.Add(idle))
		_, err := c.r.Peek(1)
		if idle == strangeLimit && c.known.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		return err
	}
}

// grow makes a record longer by n bytes. Its first part gets what it needs; one in
// several parts gets all that a record can have, so that nobody waits for more while
// holding some.
func (c *connection) grow(ctx context.Context, record []byte, n, limit int) ([]byte, error) {
	have := len(record)
	if have+n <= cap(record) {
		return record[:have+n], nil
	}
	size := n
	if have > 0 {
		size = limit
		c.s.requests.give(cap(record))
	}
	if !c.s.requests.take(ctx, size) {
		return nil, ctx.Err()
	}
	return append(make([]byte, 0, size), record...)[:have+n], nil
}

// worker is one of those who work on requests of all connections.
type worker struct {
	ctx   context.Context
	slots chan struct{}
	works bool
}

// resume waits for a place among those who work.
func (w *worker) resume() bool {
	if !w.works {
		select {
		case w.slots <- struct{}{}:
			w.works = true
		case <-w.ctx.Done():
		}
	}
	return w.works
}

// rest lets others work.
func (w *worker) rest() {
	if w.works {
		w.works = false
		<-w.slots
	}
}

// answer works on one request and says whether the connection is still good.
func (c *connection) answer(ctx context.Context, record []byte) bool {
	w := &worker{ctx: ctx, slots: c.s.workers}
	defer w.rest()
	if !w.resume() {
		return false
	}
	reply, free := c.call(ctx, w, record)
	defer free()
	w.rest()
	if reply == nil {
		return false
	}
	binary.BigEndian.PutUint32(reply, lastPart|uint32(len(reply)-4))
	c.write.Lock()
	defer c.write.Unlock()
	for end := time.Now().Add(sendLimit); len(reply) > 0 && time.Now().Before(end); {
		_ = c.SetWriteDeadline(time.Now().Add(stuckLimit))
		n, err := c.Write(reply[:min(len(reply), sendPart)])
		if err != nil {
			return false
		}
		reply = reply[n:]
	}
	return len(reply) == 0
}

// call returns the answer, behind four bytes for its length, and what gives its memory
// back. Without an answer the connection is to end.
func (c *connection) call(ctx context.Context, w *worker, record []byte) (reply []byte, free func()) {
	d := decoder{b: record}
	xid, kind := d.u32(), d.u32()
	if d.bad || kind != msgCall {
		return nil, nothing
	}
	e := encoder{b: make([]byte, 4, 512)}
	e.u32(xid)
	e.u32(msgReply)
	if v := d.u32(); v != rpcVersion {
		e.u32(replyDenied)
		e.u32(rejectVersion)
		e.u32(rpcVersion)
		e.u32(rpcVersion)
		return e.b, nothing
	}
	prog, vers, proc := d.u32(), d.u32(), d.u32()
	flavour := d.u32()
	d.opaque(maxAuth) // what a client says of itself is not believed
	d.u32()
	d.opaque(maxAuth)
	if d.bad {
		return nil, nothing
	}
	if flavour != authNone && flavour != authSys {
		e.u32(replyDenied)
		e.u32(rejectAuth)
		e.u32(authBadCred)
		return e.b, nothing
	}
	e.u32(replyAccepted)
	e.u32(authNone)
	e.u32(0)
	switch {
	case prog != program:
		e.u32(acceptProgUnavail)
		return e.b, nothing
	case vers != version:
		e.u32(acceptProgMismatch)
		e.u32(version)
		e.u32(version)
		return e.b, nothing
	case proc == 0:
		e.u32(acceptSuccess)
		return e.b, nothing
	case proc != 1:
		e.u32(acceptProcUnavail)
		return e.b, nothing
	}
	return c.compound(ctx, w, record, d, e, xid)
}

func nothing() {}

// compound answers the one procedure that there is. A compound that changes what must
// not be changed twice is answered as before when it comes again.
func (c *connection) compound(ctx context.Context, worker *worker, record []byte, d decoder, e encoder, xid uint32) (reply []byte, free func()) {
	from, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	key := c.s.replies.key(from, xid, record)
	if old := c.s.replies.get(key); old != nil {
		return slices.Clone(old), nothing
	}
	head := len(e.b)
	e.u32(acceptSuccess)
	w := &compound{ctx: ctx, s: c.s, d: d, e: e, worker: worker, from: from}
	defer func() {
		free = w.free
		if r := recover(); r != nil {
			c.s.Logger.Error("a request cannot be answered", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			reply = nil
		}
	}()
	if !w.run() {
		e.b = e.b[:head]
		e.u32(acceptGarbage)
		return e.b, w.free
	}
	if w.known && !c.known.Swap(true) {
		c.meet()
	}
	if w.change {
		c.s.replies.put(key, w.e.b)
	}
	return w.e.b, w.free
}
