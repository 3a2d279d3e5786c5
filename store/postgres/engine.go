package postgres

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/internal/sqlstore"
)

const (
	connectTime = 5 * time.Second
	// patience is how long calls wait for a server that is not there any more. Once
	// it is known to be away they do not wait.
	patience = 5 * time.Second
	// resolveTries is how often is tried to find out what became of a commit while
	// the server can be reached.
	resolveTries = 4
	// readAhead is how many warm groups are read for one claim.
	readAhead = 32
)

// writerSession: who stops in the middle of a transaction (frozen, or cut off from
// the network) must not keep others from writing for long.
const writerSession = "SET statement_timeout = '15s'; SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '5s'"

// engine is the writing side of a store: a sqlstore.Engine on a connection that
// is made anew when it is lost.
type engine struct {
	s      *Store
	c      *conn // nil: none
	memory sqlstore.Memory
	member string // who we are, in table members
	batch  int64  // number of the transaction
	began  time.Time
	begun  bool   // something of the transaction was sent
	wrote  bool   // a closure has written something
	likely string // definition of which groups were claimed in the last transaction
}

var (
	_ sqlstore.Engine     = (*engine)(nil)
	_ sqlstore.Prefetcher = (*engine)(nil)
)

// join makes us one of those who write. Whoever had our name is gone.
func (e *engine) join() error {
	id := make([]byte, 8)
	rand.Read(id) // never fails
	member := hex.EncodeToString(id)
	name, err := quote(nil, e.s.name)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("BEGIN; LOCK TABLE writing IN EXCLUSIVE MODE; UPDATE members SET dead = true WHERE name = %s AND name <> '' AND NOT dead; "+
		"INSERT INTO members (id, name) VALUES ('%s', %s); COMMIT", name, member, name)
	if _, err := e.c.c.ExecContext(context.Background(), text); err != nil {
		e.c.broken = true
		return failed("join", err)
	}
	e.member, e.batch = member, 0
	e.s.joined(member)
	return nil
}

func (e *engine) connect() error {
	if e.c != nil && !e.c.broken {
		return nil
	}
	e.drop()
	c, err := e.s.connect(context.Background(), writerSession)
	if err != nil {
		return err
	}
	e.c = c
	if e.member == "" {
		err = e.join()
	}
	return err
}

func (e *engine) drop() {
	if e.c != nil {
		e.c.close()
		e.c = nil
	}
}

// errDead says that the others went on without us.
var errDead = fmt.Errorf("%w: this broker was taken for dead", store.ErrUnavailable)

// Begin waits, with what is first read, for the turn to write: then nobody else
// changes anything before the commit.
func (e *engine) Begin() error {
	if err := e.connect(); err != nil {
		return err
	}
	e.memory.Forget()
	e.batch++
	e.began, e.begun, e.wrote = time.Now(), false, false
	e.c.text, e.c.sets = e.c.text[:0], nil
	e.c.say("BEGIN; LOCK TABLE writing IN EXCLUSIVE MODE; UPDATE members SET batch = " + strconv.FormatInt(e.batch, 10) +
		" WHERE id = '" + e.member + "' AND NOT dead RETURNING id")
	alive := false
	e.c.sets = append(e.c.sets, set{"begin", func(*sql.Rows) error { alive = true; return nil }})
	if err := e.c.add(sqlstore.AuditLast, nil); err != nil {
		return err
	}
	seen := false
	e.c.sets = append(e.c.sets, set{"read last audit record", func(r *sql.Rows) error {
		var seq int64
		var hash []byte
		if err := r.Scan(&seq, &hash); err != nil {
			return err
		}
		seen = true
		e.memory.Head(seq, hash)
		return nil
	}})
	e.c.begun = func() error {
		e.begun = true
		if !alive {
			return errDead
		}
		if !seen {
			e.memory.Head(0, nil)
		}
		return nil
	}
	return nil
}

// Prefetch gets what closures want, and warm groups if the last transaction
// claimed some, with the beginning of the transaction.
func (e *engine) Prefetch(all []*sqlstore.Wanted) error {
	for _, w := range all {
		if err := e.c.add(w.Query, []any{w.ID}); err != nil {
			w.Query = "" // its closure gets the error when it asks itself
			continue
		}
		e.c.sets = append(e.c.sets, set{w.Query, func(r *sql.Rows) error {
			w.Found = true
			return r.Scan(&w.Body)
		}})
	}
	if len(all) == 0 {
		return nil
	}
	done := func() {}
	if e.likely != "" {
		query, args, each, then := e.memory.Warm(e.likely, min(max(len(all), 4), readAhead))
		if err := e.c.add(query, args); err != nil {
			return err
		}
		e.c.sets, done = append(e.c.sets, set{query, each}), then
	}
	if err := e.c.send(); err != nil {
		return err
	}
	done()
	return nil
}

func (e *engine) Admit(ctx context.Context) error { return e.s.admit(ctx) }

func (e *engine) Tx() *sqlstore.Tx { return sqlstore.NewTx(e.c, &e.memory, readAhead) }

func (e *engine) Keep(wrote bool) error {
	e.wrote = e.wrote || wrote
	e.c.keep()
	return nil
}

func (e *engine) Undo(bool) error { e.c.undo(); return nil }

func (e *engine) Undoable(error) bool { return !e.c.broken }

// Commit commits. When the answer gets lost, it finds out what happened.
func (e *engine) Commit() error {
	e.c.say("COMMIT")
	e.likely = e.memory.LikelyClaim()
	err := e.c.send()
	if err == nil {
		e.s.shown(e.began)
	}
	if err == nil || certain(err) || errors.Is(err, errDead) || !e.wrote {
		return err
	}
	return e.resolve(err)
}

// resolve finds out whether the transaction was committed whose connection was
// lost: its number is then in our row. That is also right after the server has
// crashed, or another has taken its place. Nil: it was.
func (e *engine) resolve(cause error) error {
	unknown := fmt.Errorf("%w: it is not known whether a change was kept: %w", store.ErrUnavailable, cause)
	for tries := 0; ; {
		err := e.connect()
		if err == nil {
			tries++
			// The lock waits for the end of the old session.
			var batch int64 = -1
			e.c.say("BEGIN; LOCK TABLE writing IN EXCLUSIVE MODE; SELECT batch FROM members WHERE id = '" + e.member + "'")
			e.c.sets = append(e.c.sets, set{"resolve", func(r *sql.Rows) error { return r.Scan(&batch) }})
			e.c.say("ROLLBACK")
			if err = e.c.send(); err == nil {
				if batch >= e.batch {
					return nil
				}
				return cause
			}
		}
		if tries == resolveTries || e.s.gaveUp() || !e.pause() {
			return unknown
		}
	}
}

// pause waits a little; false: the store is closed.
func (e *engine) pause() bool {
	select {
	case <-time.After(50 * time.Millisecond):
		return true
	case <-e.s.writer.Closing():
		return false
	}
}

// Rollback ends a transaction that failed, with its connection if need be.
func (e *engine) Rollback() {
	e.memory.Forget()
	if e.c == nil || e.c.broken {
		e.drop()
		return
	}
	e.c.text, e.c.sets, e.c.begun = e.c.text[:0], nil, nil
	e.c.wrote, e.c.saved = false, false
	if e.begun {
		e.c.say("ROLLBACK")
		if e.c.send() != nil {
			e.drop()
		}
	} else {
		e.drop() // what is prepared in the text is not
	}
}

// Again waits for the server, unless it has refused what one closure wants.
func (e *engine) Again(err error, alone bool) bool {
	if errors.Is(err, errDead) {
		e.member = ""
	} else if !lost(err) {
		return !alone
	}
	for {
		if e.connect() == nil {
			return true
		}
		if e.s.gaveUp() || !e.pause() {
			return false
		}
	}
}

// Close leaves the others, so that they need not wait for us.
func (e *engine) Close() {
	if e.c != nil && !e.c.broken {
		_, _ = e.c.c.ExecContext(context.Background(), "UPDATE members SET dead = true WHERE id = '"+e.member+"'; NOTIFY "+channel+", '"+e.member+" "+saysLeft+"'")
	}
	e.drop()
}
