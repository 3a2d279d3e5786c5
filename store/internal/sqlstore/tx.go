// Package sqlstore is what stores in SQL databases have in common: the tables of
// records and how they are looked up, the chain of audit records, migrations, and
// the group commit.
//
// Queries are written with ? for values; a Session turns them into what its
// database understands. One goroutine at a time uses a Session.
package sqlstore

import (
	"context"
	"database/sql"
	"errors"

	"github.com/remuda/remuda/store"
)

// Session is a connection in a transaction.
type Session interface {
	// Savepoint marks where an Undo goes back to.
	Savepoint() error
	// Write changes rows. It may be done later, but before anybody sees them.
	Write(query string, args ...any) error
	// Change changes rows, and says how many.
	Change(query string, args ...any) (int, error)
	// Rows calls each for every row that the query finds.
	Rows(each func(*sql.Rows) error, query string, args ...any) error
}

// Memory is what is known of the database as long as nobody else writes it.
// Whoever undoes writes puts back what was known before them.
type Memory struct {
	head    *store.AuditRecord // the last one written; nil when that is not known
	warm    *ahead
	touched map[string]bool // records that were written
}

// Head makes the last audit record known.
func (m *Memory) Head(seq int64, hash []byte) { m.head = newHead(seq, hash) }

// Forget knows nothing any more.
func (m *Memory) Forget() { *m = Memory{} }

var (
	errEnded    = errors.New("transaction used after its closure ended")
	errReadOnly = errors.New("write in a View")
)

// Tx is a store.Tx.
type Tx struct {
	s        Session
	ctx      context.Context
	memory   *Memory
	before   Memory
	readOnly bool
	wrote    bool
	ended    bool
	err      error // first failure of the database; the transaction is void
	prelude  *prelude
	// readAhead is how many warm groups are read for one claim.
	readAhead int
}

// NewTx is the transaction for one closure. readAhead is how many warm groups
// one look reads: more than one where a look is dear, and nobody else writes.
func NewTx(s Session, m *Memory, readAhead int) *Tx {
	return &Tx{s: s, ctx: context.Background(), memory: m, before: *m, readAhead: readAhead}
}

// NewView is the transaction for a closure that reads.
func NewView(ctx context.Context, s Session) *Tx {
	return &Tx{s: s, ctx: ctx, memory: &Memory{}, readOnly: true}
}

// End makes the transaction useless for a closure that keeps it.
func (t *Tx) End() { t.ended = true }

// Err is the first failure of the database.
func (t *Tx) Err() error { return t.err }

// usable says why nothing can be done any more, if so.
func (t *Tx) usable() error {
	switch {
	case t.ended:
		return errEnded
	case t.err != nil:
		return t.err
	}
	return t.ctx.Err()
}

func (t *Tx) fail(err error) error {
	if err != nil {
		t.err = err
	}
	return err
}

// writable comes before every write. Before the first of the closure it sets
// the savepoint to which a failing closure goes back.
func (t *Tx) writable() error {
	t.begin()
	if err := t.usable(); err != nil {
		return err
	}
	if t.readOnly {
		return errReadOnly
	}
	if !t.wrote {
		if err := t.s.Savepoint(); err != nil {
			return t.fail(err)
		}
		t.wrote = true
	}
	return nil
}

// Write changes rows.
func (t *Tx) Write(query string, args ...any) error {
	if err := t.writable(); err != nil {
		return err
	}
	return t.fail(t.s.Write(query, args...))
}

// Change changes rows, and says how many.
func (t *Tx) Change(query string, args ...any) (int, error) {
	if err := t.writable(); err != nil {
		return 0, err
	}
	n, err := t.s.Change(query, args...)
	return n, t.fail(err)
}

// Rows calls each for every row.
func (t *Tx) Rows(each func(*sql.Rows) error, query string, args ...any) error {
	t.begin()
	if err := t.usable(); err != nil {
		return err
	}
	return t.fail(t.s.Rows(each, query, args...))
}
