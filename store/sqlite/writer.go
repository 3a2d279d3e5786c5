package sqlite

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/remuda/remuda/store"
)

// maxBatch bounds how many closures share a commit, and so how long the first
// of them waits.
const maxBatch = 128

// gather is how long a batch waits for as many closures as the one before had:
// those callers most likely come again, and a commit costs several closures. It
// is what PostgreSQL calls commit_delay. A single caller never waits.
const gather = 400 * time.Microsecond

// request is one call of Update.
type request struct {
	ctx     context.Context
	begun   atomic.Bool // by the writer, or given up by the caller: whoever is first
	turn    chan *tx    // gives the closure its transaction
	ran     chan bool   // the closure has returned; false: undo it
	outcome chan error  // of the commit, or of undoing
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := &request{
		ctx:     ctx,
		turn:    make(chan *tx, 1),
		ran:     make(chan bool, 1),
		outcome: make(chan error, 1),
	}
	select {
	case <-s.closing:
		return store.ErrUnavailable
	default:
	}
	select {
	case s.queue <- r:
	case <-s.closing:
		return store.ErrUnavailable
	case <-ctx.Done():
		return ctx.Err()
	}
	t, err := s.await(r)
	if err != nil {
		return err
	}
	if err := r.apply(t, fn); err != nil {
		<-r.outcome // undone
		return err
	}
	return <-r.outcome
}

// await returns when it is the request's turn, or when nothing was begun and
// nothing will be.
func (s *Store) await(r *request) (*tx, error) {
	var err error
	select {
	case t := <-r.turn:
		return t, nil
	case err := <-r.outcome: // could not begin
		return nil, err
	case <-r.ctx.Done():
		err = r.ctx.Err()
	case <-s.closed:
		err = store.ErrUnavailable
	}
	if r.begun.CompareAndSwap(false, true) {
		return nil, err
	}
	select {
	case t := <-r.turn:
		return t, nil
	case err := <-r.outcome:
		return nil, err
	}
}

// apply runs the closure and tells the writer how it ended, also when it
// panics or ends its goroutine.
func (r *request) apply(t *tx, fn func(store.Tx) error) (err error) {
	ok := false
	defer func() {
		t.end()
		r.ran <- ok
	}()
	if err = fn(t); err == nil {
		err = t.err
	}
	ok = err == nil
	return err
}

// write is the writer. It ends when the store is closed.
func (s *Store) write(c *conn) {
	defer close(s.closed)
	defer c.close()
	for {
		select {
		case <-s.closing:
			return
		case r := <-s.queue:
			s.batch(c, r)
		}
	}
}

// batch runs r and what else waits in one transaction.
func (s *Store) batch(c *conn, r *request) {
	if err := c.run("BEGIN IMMEDIATE"); err != nil {
		if r.begun.CompareAndSwap(false, true) {
			r.outcome <- fmt.Errorf("%w: begin: %w", store.ErrUnavailable, err)
		}
		return
	}
	var kept []*request
	var err error
	var late <-chan time.Time
	n := 0
	for ; r != nil && err == nil; n++ {
		var keep bool
		if keep, err = turn(c, r); keep {
			kept = append(kept, r)
		}
		if r = nil; n < maxBatch && err == nil {
			r = s.next(n+1 < s.expected, &late)
		}
	}
	s.expected = n
	if err == nil {
		err = c.run("COMMIT")
	}
	if err != nil {
		c.undo("ROLLBACK") //nolint:errcheck // SQLite may have rolled back itself
		err = fmt.Errorf("%w: commit: %w", store.ErrUnavailable, err)
	}
	for _, k := range kept {
		k.outcome <- err
	}
}

// next returns a request that waits already, or, if more are expected, one that
// comes before late, which begins with the first wait; else nil.
func (s *Store) next(more bool, late *<-chan time.Time) *request {
	select {
	case r := <-s.queue:
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
	case r := <-s.queue:
		return r
	case <-*late:
		return nil
	}
}

// turn lets one closure work inside its savepoint. keep says that it waits for
// the commit; an error, that the whole transaction is lost.
func turn(c *conn, r *request) (keep bool, err error) {
	if r.ctx.Err() != nil || !r.begun.CompareAndSwap(false, true) {
		return false, nil // its caller sees the same
	}
	t := &tx{c: c, ctx: context.Background()}
	r.turn <- t
	if <-r.ran {
		if t.wrote {
			err = c.run("RELEASE closure")
		}
		return true, err
	}
	if t.wrote {
		err = c.undo("ROLLBACK TO closure")
		if err == nil {
			err = c.run("RELEASE closure")
		}
	}
	r.outcome <- err
	return false, err
}
