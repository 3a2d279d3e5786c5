package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/remuda/remuda/store"
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

// shown: a transaction that began then has shown others that we live.
func (s *Store) shown(began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastBeat = began
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
		ctx, cancel := context.WithTimeout(context.Background(), deadAfter)
		_ = s.Update(ctx, func(store.Tx) error { return nil }) // if it fails, others see that
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
		if !ok || was.batch != batch || now.Sub(was.last) > deadAfter/2 {
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
