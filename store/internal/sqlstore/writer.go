package sqlstore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/remuda/remuda/store"
)

// MaxBatch bounds how many closures share a commit, and so how long the first
// of them waits.
const MaxBatch = 128

// gather is how long a batch waits for as many closures as the one before had:
// those callers most likely come again, and a commit costs several closures. It
// is what PostgreSQL calls commit_delay. A single caller never waits.
const gather = 400 * time.Microsecond

// rerunTimes is how often one closure is run again by itself.
const rerunTimes = 3

// Engine is the writing connection.
type Engine interface {
	// Begin begins a transaction.
	Begin() error
	// Admit says why a call with this context must not change anything.
	Admit(ctx context.Context) error
	// Tx is the transaction for the next closure.
	Tx() *Tx
	// Keep keeps what the closure has written, Undo does not.
	Keep(wrote bool) error
	Undo(wrote bool) error
	// Undoable says whether Undo is possible after this error of the database.
	Undoable(error) bool
	// Commit makes the transaction durable. After an error nothing of it is kept.
	Commit() error
	// Rollback ends a transaction that failed.
	Rollback()
	// Again says whether the closures may be run again after err: with one alone,
	// or as part of a transaction with others. It may wait for the database.
	Again(err error, alone bool) bool
	// Close ends the connection.
	Close()
}

// Writer runs Update calls. It takes those that wait, runs their closures one
// after the other, each so that it can be undone by itself, commits once, and only
// then answers them all. So the price of making a change durable is shared by
// everybody who waited for it. A closure runs on its caller's goroutine: what
// panics there, unwinds there, and undoes nothing but itself.
type Writer struct {
	queue    chan *request
	closing  chan struct{}
	closed   chan struct{} // closed when the writer has ended
	once     sync.Once
	expected int // closures of the last batch; the writer's
}

// NewWriter makes a writer; Run it.
func NewWriter() *Writer {
	return &Writer{queue: make(chan *request, MaxBatch), closing: make(chan struct{}), closed: make(chan struct{})}
}

// Closing is closed when Close is called.
func (w *Writer) Closing() <-chan struct{} { return w.closing }

// Close waits for the end of what has begun.
func (w *Writer) Close() {
	w.once.Do(func() { close(w.closing) })
	<-w.closed
}

// request is one call of Update.
type request struct {
	ctx   context.Context
	begun atomic.Bool // by the writer, or given up by the caller: whoever is first
	next  chan verdict
	ran   chan ran
}

// verdict gives the closure its transaction, or ends the call.
type verdict struct {
	tx  *Tx
	err error
}

// ran is how a closure has ended. One that is gone cannot be run again.
type ran struct{ ok, gone bool }

// Update implements store.Store.
func (w *Writer) Update(ctx context.Context, fn func(store.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := &request{ctx: ctx, next: make(chan verdict, 1), ran: make(chan ran, 1)}
	select {
	case <-w.closing:
		return store.ErrUnavailable
	default:
	}
	select {
	case w.queue <- r:
	case <-w.closing:
		return store.ErrUnavailable
	case <-ctx.Done():
		return ctx.Err()
	}
	v := w.await(r)
	for v.tx != nil {
		err := r.apply(v.tx, fn)
		if v = <-r.next; v.tx == nil && err != nil {
			return err
		}
	}
	return v.err
}

// await returns when it is the request's turn, or when nothing was begun and
// nothing will be.
func (w *Writer) await(r *request) verdict {
	var err error
	select {
	case v := <-r.next:
		return v
	case <-r.ctx.Done():
		err = r.ctx.Err()
	case <-w.closed:
		err = store.ErrUnavailable
	}
	if r.begun.CompareAndSwap(false, true) {
		return verdict{err: err}
	}
	return <-r.next
}

// apply runs the closure and tells the writer how it ended, also when it
// panics or ends its goroutine.
func (r *request) apply(t *Tx, fn func(store.Tx) error) (err error) {
	end := ran{gone: true}
	defer func() {
		t.End()
		r.ran <- end
	}()
	if err = fn(t); err == nil {
		err = t.err
	}
	end = ran{ok: err == nil}
	return err
}

// Run is the writer. It ends when Close is called.
func (w *Writer) Run(e Engine) {
	defer close(w.closed)
	defer e.Close()
	for {
		select {
		case <-w.closing:
			return
		case r := <-w.queue:
			w.batch(e, r)
		}
	}
}

// batch runs r and what else waits in one transaction. If that fails, each may
// be run in one of its own.
func (w *Writer) batch(e Engine, r *request) {
	waiting, err := w.transact(e, r)
	if err == nil || len(waiting) == 0 || !e.Again(err, len(waiting) == 1) {
		for _, k := range waiting {
			k.next <- verdict{err: err}
		}
		return
	}
	for _, k := range waiting {
		alone(e, k)
	}
}

// transact returns those who wait for the outcome, which is err.
func (w *Writer) transact(e Engine, r *request) (waiting []*request, err error) {
	if err := e.Begin(); err != nil {
		if r.begun.CompareAndSwap(false, true) {
			waiting = append(waiting, r)
		}
		return waiting, err
	}
	if a, ok := e.(Prefetcher); ok {
		waiting, err = w.together(e, a, w.gather(r))
		if err == nil {
			err = e.Commit()
		}
		if err != nil {
			e.Rollback()
		}
		return waiting, err
	}
	var late <-chan time.Time
	n := 0
	for ; r != nil && err == nil; n++ {
		if r.ctx.Err() == nil && r.begun.CompareAndSwap(false, true) { // else its caller sees the same
			var waits bool
			if waits, err = turn(e, r); waits {
				waiting = append(waiting, r)
			}
		}
		if r = nil; n < MaxBatch && err == nil {
			r = w.next(n+1 < w.expected, &late)
		}
	}
	w.expected = n
	if err == nil {
		err = e.Commit()
	}
	if err != nil {
		e.Rollback()
	}
	return waiting, err
}

// alone runs one closure again, in a transaction of its own.
func alone(e Engine, r *request) {
	var err error
	for n := range rerunTimes {
		if n > 0 && !e.Again(err, true) {
			break
		}
		if err = r.ctx.Err(); err != nil {
			break
		}
		waits := true
		if err = e.Begin(); err == nil {
			waits, err = turn(e, r)
		}
		if err == nil {
			err = e.Commit()
		}
		if err != nil {
			e.Rollback()
		}
		if !waits {
			return
		}
		if err == nil {
			break
		}
	}
	r.next <- verdict{err: err}
}

// next returns a request that waits already, or, if more are expected, one that
// comes before late, which begins with the first wait; else nil.
func (w *Writer) next(more bool, late *<-chan time.Time) *request {
	select {
	case r := <-w.queue:
		return r
	default:
	}
	if !more {
		return nil
	}
	if *late == nil {
		*late = time.After(gather)
	}
	select {
	case r := <-w.queue:
		return r
	case <-*late:
		return nil
	}
}

// turn lets one closure work. waits says that it waits for the outcome of the
// transaction; an error, that the whole transaction is lost.
func turn(e Engine, r *request) (waits bool, err error) {
	if err := e.Admit(r.ctx); err != nil {
		r.next <- verdict{err: err}
		return false, nil
	}
	t := e.Tx()
	r.next <- verdict{tx: t}
	return finish(e, r, t, <-r.ran)
}

// finish ends a closure's part of the transaction.
func finish(e Engine, r *request, t *Tx, end ran) (waits bool, err error) {
	switch {
	case t.err != nil && !e.Undoable(t.err):
		return !end.gone, t.err
	case end.ok:
		return true, e.Keep(t.wrote)
	}
	*t.memory = t.before
	if err := e.Undo(t.wrote); err != nil {
		return !end.gone, err
	}
	r.next <- verdict{}
	return false, nil
}
