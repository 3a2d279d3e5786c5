package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/lib/pq"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/internal/sqlstore"
)

const (
	// beatEvery is how often a member shows that it lives.
	beatEvery = 2 * time.Second
	// deadAfter is how long others must have seen nothing of it before they take
	// its place. They measure with their own clocks.
	deadAfter = 10 * time.Second
	// doubtAfter is when it stops working under locks, because others may take them.
	doubtAfter = 8 * time.Second
)

// joined: from now on we are this member, and have no locks.
func (s *Store) joined(member string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loseAll()
	s.member, s.leases, s.lastBeat = member, map[string]*lease{}, time.Now()
}

// self is who we are.
func (s *Store) self() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.member
}

// live shows that we live, and looks whether others do.
func (s *Store) live() {
	doubt := time.NewTicker(500 * time.Millisecond)
	defer doubt.Stop()
	s.background.Go(func() {
		for {
			select {
			case <-doubt.C:
				s.mu.Lock()
				if time.Since(s.lastBeat) > doubtAfter {
					s.loseAll()
				}
				s.mu.Unlock()
			case <-s.writer.Closing():
				return
			}
		}
	})
	watch := watch{}
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), deadAfter)
		if s.Update(ctx, func(store.Tx) error { return nil }) == nil {
			s.mu.Lock()
			s.lastBeat = began
			s.mu.Unlock()
		}
		s.look(ctx, watch)
		cancel()
		select {
		case <-beat.C:
		case <-s.writer.Closing():
			return
		}
	}
}

// watch is what was seen of other members, by id.
type watch map[string]sign

// sign is the last change that was seen, and when it was seen first and last.
type sign struct {
	batch       int64
	first, last time.Time
}

// see notes what is to be seen now, and says whose signs have not changed for
// too long. Time in which nobody looked does not count.
func (w watch) see(batches map[string]int64, now time.Time) (dead []string) {
	for id := range w {
		if _, ok := batches[id]; !ok {
			delete(w, id)
		}
	}
	for id, batch := range batches {
		was, ok := w[id]
		if !ok || was.batch != batch || now.Sub(was.last) > 2*beatEvery {
			was = sign{batch: batch, first: now}
		}
		was.last = now
		w[id] = was
		if now.Sub(was.first) >= deadAfter {
			dead = append(dead, id)
		}
	}
	return dead
}

const (
	othersAlive = "SELECT id, batch FROM members WHERE NOT dead AND id <> ?"
	declareDead = "UPDATE members SET dead = true WHERE id = ? AND batch = ? AND NOT dead"
	dropLeases  = "DELETE FROM leases WHERE member = ?"
	forgetDead  = "DELETE FROM members WHERE dead AND since < now() - interval '7 days'"
)

// others are the other members that are not known to be dead.
func (s *Store) others(ctx context.Context) (batches map[string]int64, wanted []string, err error) {
	err = s.View(ctx, func(tx store.Tx) error {
		batches, wanted = map[string]int64{}, nil
		me := s.self()
		err := raw(tx).Rows(func(r *sql.Rows) error {
			var id string
			var batch int64
			err := r.Scan(&id, &batch)
			batches[id] = batch
			return err
		}, othersAlive, me)
		if err != nil {
			return err
		}
		return raw(tx).Rows(func(r *sql.Rows) error {
			var name string
			err := r.Scan(&name)
			wanted = append(wanted, name)
			return err
		}, leaseWanted, me)
	})
	return batches, wanted, err
}

// look takes the place of members that are dead, and gives way where it was
// asked for and the message got lost.
func (s *Store) look(ctx context.Context, w watch) {
	batches, wanted, err := s.others(ctx)
	if err != nil {
		return
	}
	for _, name := range wanted {
		s.giveWay(name)
	}
	for _, id := range w.see(batches, time.Now()) {
		err := s.Update(ctx, func(tx store.Tx) error {
			t := raw(tx)
			n, err := t.Change(declareDead, id, batches[id])
			if err != nil || n == 0 {
				return err
			}
			if err := errors.Join(t.Write(dropLeases, id), t.Write(forgetDead)); err != nil {
				return err
			}
			return s.notify(t, id, saysLeft, "")
		})
		if err == nil {
			s.hearOne(id + " " + saysLeft)
		}
	}
}

// giveWay interrupts who works under the lock.
func (s *Store) giveWay(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.leases[name]; l != nil {
		l.wanted = true
		if !l.seizer {
			l.end(store.ErrSeized)
		}
	}
}

// waitAlone waits for the end of other members that may be dead already.
func (s *Store) waitAlone(ctx context.Context) error {
	for until := time.Now().Add(deadAfter + 3*beatEvery); ; {
		others, _, err := s.others(ctx)
		switch {
		case err != nil:
			return err
		case len(others) == 0:
			return nil
		case time.Now().After(until):
			return errors.New("another broker uses this database; groups of the local back end live on one host, so only one may")
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// channel is that of NOTIFY. A message is the id of a member, a word, and a text.
const channel = "remuda"

// The words of messages.
const (
	saysReleased = "released" // a lock
	saysWanted   = "wanted"   // a lock that the member wants at once
	saysLeft     = "left"     // the member is gone
	saysTold     = "told"     // what Tell was given
)

// notify sends a message when the transaction is committed.
func (s *Store) notify(t *sqlstore.Tx, member, word, text string) error {
	return t.Rows(func(*sql.Rows) error { return nil }, "SELECT pg_notify('"+channel+"', ?)", member+" "+word+" "+text)
}

// Tell implements store.Cluster.
func (s *Store) Tell(message string) {
	select {
	case s.told <- message:
	default: // the server is away; those who listen will be told that they missed something
	}
}

// speak sends what Tell was given.
func (s *Store) speak() {
	var c *conn
	defer func() {
		if c != nil {
			c.close()
		}
	}()
	for {
		var message string
		select {
		case message = <-s.told:
		case <-s.writer.Closing():
			return
		}
		for tries := range 2 { // the first may find a connection that is lost
			var err error
			if c == nil || c.broken {
				if c != nil {
					c.close()
				}
				if c, err = s.connect(context.Background(), readerSession); err != nil {
					break
				}
			}
			text, err := quote(nil, s.self()+" "+saysTold+" "+message)
			if err != nil {
				break
			}
			c.say("NOTIFY " + channel + ", " + string(text))
			if c.send() == nil || tries > 0 {
				break
			}
		}
	}
}

// Listen implements store.Cluster.
func (s *Store) Listen(f func(string)) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.listened
	s.listened++
	s.listeners[n] = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, n)
	}
}

// hear receives messages.
func (s *Store) hear() {
	made := make(chan net.Conn, 1) // the last connection
	l := pq.NewDialListener(dialer{made: func(c net.Conn) {
		select {
		case <-made:
		default:
		}
		made <- c
	}}, s.settings, 50*time.Millisecond, time.Second, nil)
	defer func() {
		_ = l.Close()
		for ended := false; !ended; { // its goroutines
			select {
			case c := <-made: // Close does not end a connection that has had an error
				_ = c.Close()
			case _, more := <-l.Notify:
				ended = !more
			}
		}
	}()
	s.background.Go(func() { _ = l.Listen(channel) }) // waits for the server
	ping := time.NewTicker(5 * time.Second)
	defer ping.Stop()
	for {
		select {
		case n := <-l.Notify:
			if n == nil { // connected again
				s.hearOne("")
			} else {
				s.hearOne(n.Extra)
			}
		case <-ping.C:
			s.background.Go(func() { _ = l.Ping() })
		case <-s.writer.Closing():
			return
		}
	}
}

// hearOne does what a message asks for; "" says that some were missed.
func (s *Store) hearOne(message string) {
	member, rest, _ := strings.Cut(message, " ")
	word, text, _ := strings.Cut(rest, " ")
	switch {
	case message == "" || word == saysLeft:
		s.mu.Lock()
		for name := range s.waiters {
			s.wake(name, false)
		}
		s.mu.Unlock()
		s.pass("")
	case word == saysReleased:
		s.mu.Lock()
		s.wake(text, false)
		s.mu.Unlock()
	case word == saysWanted:
		s.mu.Lock()
		s.wake(text, true)
		s.mu.Unlock()
		s.giveWay(text)
	case word == saysTold && member != s.self():
		s.pass(text)
	}
}

// pass hands a message to those who listen.
func (s *Store) pass(message string) {
	s.mu.Lock()
	var all []func(string)
	for _, f := range s.listeners {
		all = append(all, f)
	}
	s.mu.Unlock()
	s.passing.Lock()
	defer s.passing.Unlock()
	for _, f := range all {
		f(message)
	}
}

const (
	setNote = "INSERT INTO notes VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET body = excluded.body"
	getNote = "SELECT body FROM notes WHERE key = ?"
)

// SetNote implements store.Cluster.
func (s *Store) SetNote(ctx context.Context, key, text string) error {
	err := s.Update(ctx, func(tx store.Tx) error { return raw(tx).Write(setNote, key, text) })
	if err != nil {
		return fmt.Errorf("set note %q: %w", key, err)
	}
	return nil
}

// Note implements store.Cluster.
func (s *Store) Note(ctx context.Context, key string) (text string, err error) {
	err = s.View(ctx, func(tx store.Tx) error {
		return raw(tx).Rows(func(r *sql.Rows) error { return r.Scan(&text) }, getNote, key)
	})
	if err != nil {
		return "", fmt.Errorf("read note %q: %w", key, err)
	}
	return text, nil
}
