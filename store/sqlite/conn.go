package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/remuda/remuda/store"
)

// conn is one connection with its prepared statements. One goroutine uses it
// at a time. Statements run without the caller's context: a half-run one would
// end the transaction of others.
type conn struct {
	c         *sql.Conn
	prepared  map[string]*sql.Stmt
	auditHead *store.AuditRecord // the last one written through this connection; nil when that is not known
}

// undo runs a statement that takes writes back.
func (c *conn) undo(query string) error {
	c.auditHead = nil
	return c.run(query)
}

func newConn(ctx context.Context, db *sql.DB) (*conn, error) {
	c, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{c: c, prepared: map[string]*sql.Stmt{}}, nil
}

// close gives the connection back to its pool, which otherwise could not close it.
func (c *conn) close() {
	for _, s := range c.prepared {
		_ = s.Close()
	}
	_ = c.c.Close()
}

func (c *conn) prepare(query string) (*sql.Stmt, error) {
	if s, ok := c.prepared[query]; ok {
		return s, nil
	}
	s, err := c.c.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	c.prepared[query] = s
	return s, nil
}

func (c *conn) run(query string) error {
	s, err := c.prepare(query)
	if err != nil {
		return err
	}
	_, err = s.Exec()
	return err
}

var (
	errEnded    = errors.New("transaction used after its closure ended")
	errReadOnly = errors.New("write in a View")
)

// tx is a store.Tx.
type tx struct {
	c        *conn
	ctx      context.Context
	readOnly bool
	wrote    bool
	ended    bool
	err      error // first failure of the database; the transaction is void
}

func (t *tx) end() { t.ended = true }

// usable says why nothing can be done any more, if so.
func (t *tx) usable() error {
	switch {
	case t.ended:
		return errEnded
	case t.err != nil:
		return t.err
	}
	return t.ctx.Err()
}

func (t *tx) fail(query string, err error) error {
	t.err = fmt.Errorf("%w: %s: %w", store.ErrUnavailable, query, err)
	return t.err
}

// exec writes. Before the first write of the closure it sets the savepoint to
// which a failing closure goes back.
func (t *tx) exec(query string, args ...any) (int, error) {
	if err := t.usable(); err != nil {
		return 0, err
	}
	if t.readOnly {
		return 0, errReadOnly
	}
	if !t.wrote {
		if err := t.c.run("SAVEPOINT closure"); err != nil {
			return 0, t.fail("savepoint", err)
		}
		t.wrote = true
	}
	s, err := t.c.prepare(query)
	if err != nil {
		return 0, t.fail(query, err)
	}
	r, err := s.Exec(args...)
	if err != nil {
		return 0, t.fail(query, err)
	}
	n, err := r.RowsAffected()
	return int(n), err
}

// rows reads; each is called for every row.
func (t *tx) rows(each func(*sql.Rows) error, query string, args ...any) (err error) {
	if err := t.usable(); err != nil {
		return err
	}
	s, err := t.c.prepare(query)
	if err != nil {
		return t.fail(query, err)
	}
	rows, err := s.Query(args...)
	if err != nil {
		return t.fail(query, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return t.fail(query, err)
		}
	}
	if err := rows.Err(); err != nil {
		return t.fail(query, err)
	}
	return nil
}
