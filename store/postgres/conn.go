package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/remuda/remuda/store/internal/sqlstore"
)

// conn is one connection. What is to be written waits in it until something is
// read, and then goes with the query in one message: a round trip costs more than
// most statements. Queries are prepared once, with the message that first needs
// them, and then executed by name.
//
// After any error the connection is of no use any more.
type conn struct {
	c      *sql.Conn
	names  map[string]string // of prepared queries
	text   []byte            // not sent yet
	sets   []set             // what it will bring
	begun  func() error      // called once when the transaction's first rows have come
	broken bool
	count  int // of queries ever prepared

	// Of the closure that works now:
	mark  int      // where in the text its writes begin
	wrote bool     // it has begun to write
	saved bool     // a savepoint is set
	fresh []string // queries that are prepared in the text after the mark
}

// set is the rows that one statement brings.
type set struct {
	query string
	each  func(*sql.Rows) error
}

// session is what every connection sets. Plans are made once, when tables may
// still be empty, and every query has an index.
const session = "SET standard_conforming_strings = on; SET plan_cache_mode = force_generic_plan; " +
	"SET enable_seqscan = off; SET jit = off; SET default_transaction_isolation = 'read committed'; SET synchronous_commit = on"

func (s *Store) connect(ctx context.Context, settings string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	c, err := s.db.Conn(ctx)
	if err == nil {
		_, err = c.ExecContext(context.Background(), session+"; "+settings)
		if err != nil {
			_ = c.Close()
		}
	}
	s.reached(err == nil)
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(errLost, err)
		}
		return nil, failed("connect", err)
	}
	return &conn{c: c, names: map[string]string{}}, nil
}

// reached notes whether a connection could be made.
func (s *Store) reached(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if yes {
		s.awaySince = time.Time{}
	} else if s.awaySince.IsZero() {
		s.awaySince = time.Now()
	}
}

// gaveUp says that the server has been away for too long to wait for it.
func (s *Store) gaveUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.awaySince.IsZero() && time.Since(s.awaySince) > patience
}

// close ends the connection.
func (c *conn) close() {
	_ = c.c.Raw(func(any) error { return driver.ErrBadConn }) // so that it is not kept
	_ = c.c.Close()
}

// say adds a statement without values and without rows.
func (c *conn) say(statement string) {
	c.text = append(append(c.text, statement...), ';')
}

// add adds a query with its values.
func (c *conn) add(query string, args []any) error {
	name, ok := c.names[query]
	mark := len(c.text)
	if !ok {
		name = "q" + strconv.Itoa(c.count)
		c.text = append(c.text, "PREPARE "+name+" AS "+numbered(query)+";"...)
	}
	c.text = append(append(c.text, "EXECUTE "...), name...)
	for i, a := range args {
		c.text = append(c.text, ",("[btoi(i == 0)])
		var err error
		if c.text, err = literal(c.text, a); err != nil {
			c.text = c.text[:mark]
			return fmt.Errorf("store: %s: %w", query, err)
		}
	}
	if len(args) > 0 {
		c.text = append(c.text, ')')
	}
	c.text = append(c.text, ';')
	if !ok {
		c.count++
		c.names[query] = name
		c.fresh = append(c.fresh, query)
	}
	return nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// numbered writes $1, $2 … for the question marks.
func numbered(query string) string {
	var b strings.Builder
	n := 0
	for _, c := range []byte(query) {
		if c != '?' {
			b.WriteByte(c)
			continue
		}
		n++
		fmt.Fprintf(&b, "$%d", n)
	}
	return b.String()
}

var errText = errors.New("a text is not UTF-8, or has a NUL in it")

// literal writes a value as SQL.
func literal(b []byte, value any) ([]byte, error) {
	switch v := value.(type) {
	case int64:
		if v == math.MinInt64 {
			return b, errors.New("number out of range")
		}
		return strconv.AppendInt(b, v, 10), nil
	case int:
		return strconv.AppendInt(b, int64(v), 10), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case string:
		return quote(b, v)
	case []byte:
		return quote(b, string(v))
	case sqlstore.Hash:
		return fmt.Appendf(b, `E'\\x%x'`, []byte(v)), nil
	}
	return b, fmt.Errorf("value of type %T", value)
}

// quote writes a text so that it is the same with any setting of the server.
func quote(b []byte, s string) ([]byte, error) {
	if strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
		return b, errText
	}
	if strings.IndexByte(s, '\\') >= 0 {
		b = append(b, ' ', 'E')
	}
	b = append(b, '\'')
	for i := range len(s) {
		if s[i] == '\'' || s[i] == '\\' {
			b = append(b, s[i])
		}
		b = append(b, s[i])
	}
	return append(b, '\''), nil
}

// send sends what waits, and hands out the rows that come back.
func (c *conn) send() (err error) {
	if c.broken {
		return failed("send", errLost)
	}
	text, sets := string(c.text), c.sets
	c.text, c.sets, c.mark, c.fresh = c.text[:0], nil, 0, nil
	defer func() {
		if err != nil {
			c.broken = true
		}
	}()
	what := "write"
	if len(sets) > 0 {
		what = sets[len(sets)-1].query
	}
	rows, err := c.c.QueryContext(context.Background(), text) // without arguments: one simple query
	if err != nil {
		return failed(what, err)
	}
	defer rows.Close()
	for i, s := range sets {
		if i > 0 && !rows.NextResultSet() {
			break
		}
		for rows.Next() {
			if err := s.each(rows); err != nil {
				return failed(s.query, err)
			}
		}
	}
	if err := rows.Err(); err != nil {
		return failed(what, err)
	}
	if err := rows.Close(); err != nil {
		return failed(what, err)
	}
	if f := c.begun; f != nil {
		c.begun = nil
		return f()
	}
	return nil
}

// Savepoint, Write, Change and Rows implement sqlstore.Session.

// Savepoint sets none yet: as long as what a closure writes waits here, it can
// just be dropped.
func (c *conn) Savepoint() error {
	c.mark, c.wrote, c.saved, c.fresh = len(c.text), true, false, nil
	return nil
}

const setSavepoint = "SAVEPOINT closure;"

// expose sets the savepoint before the closure's writes, because they are going
// to be sent.
func (c *conn) expose() {
	if c.wrote && !c.saved && len(c.text) > c.mark {
		c.text = slices.Insert(c.text, c.mark, []byte(setSavepoint)...)
		c.saved = true
	}
}

// keep ends the closure's part of the transaction.
func (c *conn) keep() {
	if c.saved {
		c.say("RELEASE closure")
	}
	c.wrote, c.saved = false, false
}

// undo takes the closure's writes back.
func (c *conn) undo() {
	if c.wrote {
		c.text = c.text[:c.mark]
		for _, query := range c.fresh {
			delete(c.names, query)
		}
	}
	if c.saved {
		c.say("ROLLBACK TO closure; RELEASE closure")
	}
	c.wrote, c.saved = false, false
}

func (c *conn) Write(query string, args ...any) error { return c.add(query, args) }

func (c *conn) Change(query string, args ...any) (n int, err error) {
	counted := "WITH changed AS (" + query + " RETURNING 1) SELECT count(*) FROM changed"
	return n, c.Rows(func(r *sql.Rows) error { return r.Scan(&n) }, counted, args...)
}

func (c *conn) Rows(each func(*sql.Rows) error, query string, args ...any) error {
	if err := c.add(query, args); err != nil {
		return err
	}
	c.expose()
	c.sets = append(c.sets, set{query, each})
	return c.send()
}
