package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/internal/sqlstore"
)

// conn is one connection with its prepared statements. One goroutine uses it
// at a time. Statements run without the caller's context: a half-run one would
// end the transaction of others.
type conn struct {
	c        *sql.Conn
	prepared map[string]*sql.Stmt
	memory   sqlstore.Memory // nobody else writes
}

var (
	_ sqlstore.Session = (*conn)(nil)
	_ sqlstore.Engine  = (*conn)(nil)
)

func newConn(ctx context.Context, db *sql.DB) (*conn, error) {
	c, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{c: c, prepared: map[string]*sql.Stmt{}}, nil
}

// Close gives the connection back to its pool, which otherwise could not close it.
func (c *conn) Close() {
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
	if err == nil {
		_, err = s.Exec()
	}
	return failed(query, err)
}

func failed(query string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %s: %w", store.ErrUnavailable, query, err)
}

// Begin, Tx, Keep, Undo, Commit, Rollback and Again implement sqlstore.Engine.

func (c *conn) Begin() error     { return c.run("BEGIN IMMEDIATE") }
func (c *conn) Tx() *sqlstore.Tx { return sqlstore.NewTx(c, &c.memory, 1) }
func (c *conn) Savepoint() error { return c.run("SAVEPOINT closure") }
func (c *conn) Commit() error    { return c.run("COMMIT") }

func (c *conn) Keep(wrote bool) error {
	if !wrote {
		return nil
	}
	return c.run("RELEASE closure")
}

func (c *conn) Undo(wrote bool) error {
	if !wrote {
		return nil
	}
	if err := c.run("ROLLBACK TO closure"); err != nil {
		return err
	}
	return c.run("RELEASE closure")
}

func (c *conn) Rollback() {
	c.memory.Forget()
	_ = c.run("ROLLBACK") // SQLite may have rolled back itself
}

// Admit: nobody else can have taken a lock.
func (c *conn) Admit(context.Context) error { return nil }

func (c *conn) Undoable(error) bool    { return true }
func (c *conn) Again(error, bool) bool { return false }

// Write, Change and Rows implement sqlstore.Session.

func (c *conn) Write(query string, args ...any) error {
	_, err := c.exec(query, args)
	return err
}

func (c *conn) Change(query string, args ...any) (int, error) {
	r, err := c.exec(query, args)
	if err != nil {
		return 0, err
	}
	n, err := r.RowsAffected()
	return int(n), failed(query, err)
}

func (c *conn) exec(query string, args []any) (sql.Result, error) {
	s, err := c.prepare(query)
	if err != nil {
		return nil, failed(query, err)
	}
	r, err := s.Exec(args...)
	return r, failed(query, err)
}

func (c *conn) Rows(each func(*sql.Rows) error, query string, args ...any) error {
	s, err := c.prepare(query)
	if err != nil {
		return failed(query, err)
	}
	rows, err := s.Query(args...)
	if err != nil {
		return failed(query, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return failed(query, err)
		}
	}
	return failed(query, rows.Err())
}
