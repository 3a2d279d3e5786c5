package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/internal/sqlstore"
)

const (
	readerSession = "SET statement_timeout = '15s'; SET idle_in_transaction_session_timeout = '60s'"
	// firstTries is how many connections may be lost before a view fails.
	firstTries = 4
	beginView  = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
)

// View implements store.Store.
func (s *Store) View(ctx context.Context, fn func(store.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v := view{s: s, ctx: ctx}
	select {
	case <-s.writer.Closing():
		return store.ErrUnavailable
	default:
	}
	select {
	case v.c = <-s.readers:
	case <-s.writer.Closing():
		return store.ErrUnavailable
	case <-ctx.Done():
		return ctx.Err()
	}
	defer v.end()
	t := sqlstore.NewView(ctx, &v)
	defer t.End()
	if err := fn(t); err != nil {
		return err
	}
	if !v.begun && t.Err() == nil { // that nothing was asked does not mean that the server is there
		return v.first(func() error { return v.c.send() })
	}
	return t.Err()
}

// view is a sqlstore.Session that only reads. Its transaction begins with the
// first query.
type view struct {
	s     *Store
	ctx   context.Context
	c     *conn // nil: none yet
	begun bool
}

func (v *view) Savepoint() error                   { return errLost }
func (v *view) Write(string, ...any) error         { return errLost }
func (v *view) Change(string, ...any) (int, error) { return 0, errLost }

func (v *view) Rows(each func(*sql.Rows) error, query string, args ...any) error {
	if v.begun {
		return v.c.Rows(each, query, args...)
	}
	handed := false
	return v.first(func() error {
		if handed {
			return errLost
		}
		return v.c.Rows(func(r *sql.Rows) error { handed = true; return each(r) }, query, args...)
	})
}

// first does the first query. If the connection turns out to be lost, it makes
// another, and waits a while for the server.
func (v *view) first(read func() error) error {
	for tries := 0; ; {
		var err error
		if v.c == nil {
			v.c, err = v.s.connect(v.ctx, readerSession)
		}
		reached := err == nil
		if reached {
			tries++
			v.c.say(beginView)
			v.begun = true
			if err = read(); err == nil || !v.c.broken {
				return err
			}
			v.begun = false
			v.c.close()
			v.c = nil
		}
		if !lost(err) || !reached && v.s.gaveUp() || tries == firstTries {
			return err
		}
		if reached { // the connection may just have been an old one
			continue
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-v.s.writer.Closing():
			return err
		case <-v.ctx.Done():
			return fmt.Errorf("%w (%w)", err, v.ctx.Err())
		}
	}
}

// end ends the transaction and gives the connection back.
func (v *view) end() {
	if v.c != nil && v.begun {
		v.c.text, v.c.sets = v.c.text[:0], nil
		v.c.say("COMMIT")
		_ = v.c.send()
	}
	if v.c != nil && v.c.broken {
		v.c.close()
		v.c = nil
	}
	v.s.readers <- v.c
}
