package postgres

import (
	"context"
	"database/sql"
	"net"
	"strings"
	"time"

	"github.com/lib/pq"

	"github.com/remuda/remuda/store/internal/sqlstore"
)

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
