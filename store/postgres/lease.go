package postgres

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/internal/sqlstore"
)

// lease is a lock of this member.
type lease struct {
	s      *Store
	name   string
	member string // who we were when we got it
	seizer bool   // is not interrupted itself
	ended  context.Context
	end    context.CancelCauseFunc
	wanted bool // by others; s.mu
	given  bool // back; s.mu
}

type leaseKey struct{}

// Context implements store.Lease.
func (l *lease) Context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, leaseKey{}, l))
	stop := context.AfterFunc(l.ended, func() { cancel(context.Cause(l.ended)) })
	return ctx, func() { stop(); cancel(nil) }
}

// Release implements store.Lease. The row goes a little later, with others.
func (l *lease) Release() {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.given || l.s.leases[l.name] != l {
		return
	}
	l.given = true
	select {
	case l.s.returned <- struct{}{}:
	default:
	}
}

const (
	leaseHolder = "SELECT l.member, l.wanted FROM leases l JOIN members m ON m.id = l.member AND NOT m.dead WHERE l.name = ?"
	leaseTake   = "INSERT INTO leases (name, member) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET member = excluded.member, wanted = 0"
	leaseWant   = "UPDATE leases SET wanted = ? WHERE name = ?"
	leaseRelent = "UPDATE leases SET wanted = 1 WHERE name = ? AND wanted = 2"
	leaseGive   = "DELETE FROM leases WHERE name = ? AND member = ? RETURNING wanted"
	leaseWanted = "SELECT name FROM leases WHERE member = ? AND wanted = 2"
)

// lookEvery is how often one who waits for a lock looks by itself.
const lookEvery = time.Second

const (
	wantedByOne  = 1
	wantedAtOnce = 2
)

// Lock implements store.Cluster.
func (s *Store) Lock(ctx context.Context, name string, seize bool) (store.Lease, error) {
	woken := s.await(name)
	defer s.forgo(name, woken)
	for free := true; ; {
		if free {
			l, err := s.take(ctx, name, seize, true)
			if l != nil || err != nil {
				return l, err
			}
		}
		free = true
		select {
		case seized := <-woken:
			if seized && !seize {
				return nil, store.ErrSeized
			}
		case <-time.After(lookEvery): // the message may have got lost
			if !seize {
				var err error
				if free, err = s.looksFree(ctx, name); err != nil && ctx.Err() == nil {
					return nil, err
				}
			}
		case <-ctx.Done():
			if seize {
				s.relent(name)
			}
			return nil, ctx.Err()
		case <-s.writer.Closing():
			return nil, store.ErrUnavailable
		}
	}
}

// relent takes back that the lock is wanted at once.
func (s *Store) relent(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = s.Update(ctx, func(tx store.Tx) error { return raw(tx).Write(leaseRelent, name) })
}

// TryLock implements store.Cluster.
func (s *Store) TryLock(ctx context.Context, name string) (store.Lease, error) {
	if free, err := s.looksFree(ctx, name); err != nil || !free {
		return nil, err
	}
	l, err := s.take(ctx, name, false, false)
	if l == nil { // not a nil *lease
		return nil, err
	}
	return l, err
}

// looksFree says, without writing, whether the lock can likely be had.
func (s *Store) looksFree(ctx context.Context, name string) (free bool, err error) {
	if s.reusable(name) {
		return true, nil
	}
	err = s.View(ctx, func(tx store.Tx) error {
		holder, wanted := "", 0
		err := raw(tx).Rows(func(r *sql.Rows) error { return r.Scan(&holder, &wanted) }, leaseHolder, name)
		free = holder == "" || s.forgotten(name, holder)
		return err
	})
	return free, err
}

// raw is what a store.Tx of this package is.
func raw(tx store.Tx) *sqlstore.Tx { return tx.(*sqlstore.Tx) }

// reusable says that the lock is ours, and is about to be given back.
func (s *Store) reusable(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[name]
	return l != nil && l.given && !l.wanted
}

// reuse takes a lock again that is given back, but not in the database yet.
func (s *Store) reuse(name string, seize bool) *lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.leases[name]
	if old == nil || !old.given || old.wanted || old.ended.Err() != nil {
		return nil
	}
	l := s.newLease(name, old.member, seize)
	s.leases[name] = l
	return l
}

func (s *Store) newLease(name, member string, seize bool) *lease {
	l := &lease{s: s, name: name, member: member, seizer: seize}
	l.ended, l.end = context.WithCancelCause(context.Background())
	return l
}

// beginTake lets one goroutine at a time take a lock.
func (s *Store) beginTake(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, busy := s.taking[name]; busy {
		s.taking[name] = true
		return false
	}
	s.taking[name] = false
	return true
}

func (s *Store) endTake(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taking[name] { // others wait for their turn
		s.wake(name, false)
	}
	delete(s.taking, name)
}

// forgotten says that the lock is ours, and that we do not know of it: the
// answer got lost when we took it.
func (s *Store) forgotten(name, holder string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return holder == s.member && s.leases[name] == nil
}

// take takes the lock if it is free; nil when it is not. wait says that we then
// want to be told.
func (s *Store) take(ctx context.Context, name string, seize, wait bool) (*lease, error) {
	if l := s.reuse(name, seize); l != nil {
		return l, nil
	}
	if !s.beginTake(name) {
		return nil, nil
	}
	defer s.endTake(name)
	var got *lease
	err := s.Update(ctx, func(tx store.Tx) error {
		got = nil
		t := raw(tx)
		member, holder, wanted := s.self(), "", 0
		if err := t.Rows(func(r *sql.Rows) error { return r.Scan(&holder, &wanted) }, leaseHolder, name); err != nil {
			return err
		}
		switch {
		case holder == "", s.forgotten(name, holder):
			got = s.newLease(name, member, seize)
			return t.Write(leaseTake, name, member)
		case !wait:
			return nil
		case seize && wanted < wantedAtOnce:
			if err := t.Write(leaseWant, wantedAtOnce, name); err != nil {
				return err
			}
			return s.notify(t, member, saysWanted, name)
		case !seize && wanted == wantedAtOnce && holder != member:
			return store.ErrSeized
		case wanted == 0:
			return t.Write(leaseWant, wantedByOne, name)
		}
		return nil
	})
	if err != nil || got == nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if got.member != s.member {
		return nil, store.ErrLost
	}
	s.leases[name] = got
	return got, nil
}

// giveBack removes locks from the database that were released.
func (s *Store) giveBack() {
	for {
		select {
		case <-s.returned:
		case <-s.writer.Closing():
			return
		}
		s.mu.Lock()
		var given []*lease
		for _, l := range s.leases {
			if l.given {
				given = append(given, l)
			}
		}
		s.mu.Unlock()
		for len(given) > 0 && !s.giveAll(given) {
			select { // the server is away; a beat that fails long enough ends it
			case <-time.After(200 * time.Millisecond):
			case <-s.writer.Closing():
				return
			}
		}
	}
}

func (s *Store) giveAll(given []*lease) bool {
	var gone []*lease
	err := s.Update(context.Background(), func(tx store.Tx) error {
		gone = nil
		t := raw(tx)
		for _, l := range given {
			s.mu.Lock()
			ours := s.leases[l.name] == l // not taken again meanwhile
			if ours {
				l.wanted = true // and now it cannot be
			}
			s.mu.Unlock()
			if !ours {
				continue
			}
			wanted := 0
			if err := t.Rows(func(r *sql.Rows) error { return r.Scan(&wanted) }, leaseGive, l.name, l.member); err != nil {
				return err
			}
			gone = append(gone, l)
			if wanted > 0 {
				if err := s.notify(t, l.member, saysReleased, l.name); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range gone {
		if s.leases[l.name] == l {
			delete(s.leases, l.name)
		}
		l.end(nil)
		s.wake(l.name, false)
	}
	return true
}

// admit refuses changes under a lock that was lost.
func (s *Store) admit(ctx context.Context) error {
	l, ok := ctx.Value(leaseKey{}).(*lease)
	if ok && (l.member != s.self() || errors.Is(context.Cause(l.ended), store.ErrLost)) {
		return store.ErrLost
	}
	return nil
}

// loseAll ends the contexts of all locks. s.mu is held.
func (s *Store) loseAll() {
	for name, l := range s.leases {
		l.end(store.ErrLost)
		s.wake(name, false)
	}
}

// await registers for being woken when the lock is released.
func (s *Store) await(name string) chan bool {
	c := make(chan bool, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiters[name] == nil {
		s.waiters[name] = map[chan bool]bool{}
	}
	s.waiters[name][c] = true
	return c
}

func (s *Store) forgo(name string, c chan bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiters[name], c)
	if len(s.waiters[name]) == 0 {
		delete(s.waiters, name)
	}
}

// wake wakes those who wait for the lock; seized: only one with precedence gets
// it. s.mu is held.
func (s *Store) wake(name string, seized bool) {
	for c := range s.waiters[name] {
		select {
		case c <- seized:
		default:
		}
	}
}
