package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/remuda/remuda/store"
)

var errNo = errors.New("no")

func rollback(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error { return tx.Groups().Put(group("kept", "f", store.GroupWarm, 1)) })
	err := s.Update(t.Context(), func(tx store.Tx) error {
		if err := first(tx.Groups().Put(group("new", "f", store.GroupWarm, 1)), tx.Groups().Delete("kept")); err != nil {
			return err
		}
		_, err := tx.Groups().Get("kept")
		notFound(t, "own delete", err)
		return fmt.Errorf("wrapped: %w", errNo)
	})
	if !errors.Is(err, errNo) {
		t.Errorf("got %v, want the closure's error", err)
	}
	view(t, s, func(tx store.Tx) error {
		all, err := tx.Groups().List()
		same(t, "after rollback", groupIDs(all), []string{"kept"}, err)
		return nil
	})
}

// rollbackOfOne: among many at the same time only those that fail are undone.
func rollbackOfOne(t *testing.T, s store.Store) {
	const n = 60
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			err := s.Update(context.Background(), func(tx store.Tx) error {
				if err := tx.Groups().Put(group(fmt.Sprintf("%02d", i), "f", store.GroupWarm, i)); err != nil {
					return err
				}
				if i%3 == 0 {
					return errNo
				}
				return nil
			})
			if (i%3 == 0) != errors.Is(err, errNo) {
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	view(t, s, func(tx store.Tx) error {
		all, err := tx.Groups().List()
		same(t, "kept", len(all), n*2/3, err)
		c, err := tx.Groups().Count("f")
		same(t, "counted", c[store.GroupWarm], n*2/3, err)
		return nil
	})
}

func snapshot(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error { return tx.Groups().Put(group("a", "f", store.GroupWarm, 1)) })
	view(t, s, func(tx store.Tx) error {
		if _, err := tx.Groups().Get("a"); err != nil {
			return err
		}
		update(t, s, func(tx store.Tx) error {
			return first(tx.Groups().Delete("a"), tx.Groups().Put(group("b", "f", store.GroupWarm, 1)))
		})
		all, err := tx.Groups().List()
		same(t, "old snapshot", groupIDs(all), []string{"a"}, err)
		view(t, s, func(tx store.Tx) error {
			all, err := tx.Groups().List()
			same(t, "new snapshot", groupIDs(all), []string{"b"}, err)
			return nil
		})
		return nil
	})
}

func readOnly(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error { return tx.Groups().Put(group("a", "f", store.GroupWarm, 1)) })
	view(t, s, func(tx store.Tx) error {
		_, claim := tx.Groups().ClaimWarm("f", "i", at(1))
		for _, err := range []error{tx.Groups().Put(group("b", "f", store.GroupWarm, 1)), tx.Groups().Delete("a"), claim} {
			if err == nil || errors.Is(err, store.ErrNotFound) {
				t.Errorf("write in a view: %v", err)
			}
		}
		return nil
	})
	view(t, s, func(tx store.Tx) error {
		all, err := tx.Groups().List()
		same(t, "unchanged", groupIDs(all), []string{"a"}, err)
		return nil
	})
	if err := s.View(t.Context(), func(store.Tx) error { return errNo }); !errors.Is(err, errNo) {
		t.Errorf("error of a view: %v", err)
	}
}

func claimOrder(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error {
		late, early := group("a", "f", store.GroupWarm, 1), group("b", "f", store.GroupWarm, 2)
		late.Since = at(7) // older, but not warm for as long
		return first(tx.Groups().Put(late), tx.Groups().Put(early),
			tx.Groups().Put(group("c", "f", store.GroupCreating, 0)), tx.Groups().Put(group("d", "f2", store.GroupWarm, 0)))
	})
	for _, want := range []string{"b", "a"} {
		update(t, s, func(tx store.Tx) error {
			g, err := tx.Groups().ClaimWarm("f", "i-"+want, at(20))
			same(t, "claimed", g.ID, want, err)
			stored, err := tx.Groups().Get(want)
			same(t, "stored", stored, g, err)
			if g.State != store.GroupClaimed || g.InstanceID != "i-"+want || !g.Since.Equal(at(20)) {
				t.Errorf("claimed group is %+v", g)
			}
			return nil
		})
	}
	err := s.Update(t.Context(), func(tx store.Tx) error { _, err := tx.Groups().ClaimWarm("f", "i", at(20)); return err })
	notFound(t, "claim from nothing", err)
}

// claimsExclude: each warm group goes to one instance only.
func claimsExclude(t *testing.T, s store.Store) { claimsExcludeIn(t, s) }

func claimsExcludeIn(t *testing.T, stores ...store.Store) {
	s := stores[0]
	const warm, clients = 40, 16
	update(t, s, func(tx store.Tx) error {
		for i := range warm {
			if err := tx.Groups().Put(group(fmt.Sprint(i), "f", store.GroupWarm, i)); err != nil {
				return err
			}
		}
		return nil
	})
	var mu sync.Mutex
	got := map[string]string{}
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("i%d-%d", c, n)
				var g store.Group
				err := stores[c%len(stores)].Update(context.Background(), func(tx store.Tx) (err error) {
					if g, err = tx.Groups().ClaimWarm("f", id, at(n)); err != nil {
						return err
					}
					return tx.Instances().Put(store.Instance{ID: id, GroupID: g.ID, State: store.InstanceReady})
				})
				if errors.Is(err, store.ErrNotFound) {
					return
				}
				mu.Lock()
				if err != nil || got[g.ID] != "" {
					t.Errorf("group %q for %q and %q: %v", g.ID, got[g.ID], id, err)
				}
				got[g.ID] = id
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	same(t, "claimed", len(got), warm, nil)
	view(t, s, func(tx store.Tx) error {
		for g, i := range got {
			rec, err := tx.Groups().Get(g)
			same(t, "instance of group", rec.InstanceID, i, err)
		}
		return nil
	})
}

func lostUpdates(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error { return tx.Groups().Put(store.Group{ID: "n"}) })
	const clients, each = 8, 25
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range each {
				err := s.Update(context.Background(), func(tx store.Tx) error {
					g, err := tx.Groups().Get("n")
					if err != nil {
						return err
					}
					g.Generation++
					return tx.Groups().Put(g)
				})
				if err != nil {
					t.Errorf("increment: %v", err)
				}
			}
		})
	}
	wg.Wait()
	view(t, s, func(tx store.Tx) error {
		g, err := tx.Groups().Get("n")
		same(t, "sum", g.Generation, clients*each, err)
		return nil
	})
}

func cancellation(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, call := range []func(context.Context, func(store.Tx) error) error{s.Update, s.View} {
		ran := false
		err := call(ctx, func(store.Tx) error { ran = true; return nil })
		if ran || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before: ran %v, %v", ran, err)
		}
	}

	// While another closure keeps the store busy, a waiting one gives up.
	busy, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		done <- s.Update(context.Background(), func(tx store.Tx) error {
			once.Do(func() { close(busy) })
			<-release
			return tx.Groups().Put(group("first", "f", store.GroupWarm, 1))
		})
	}()
	<-busy
	ctx, cancel = context.WithCancel(t.Context())
	given := make(chan error, 1)
	go func() {
		given <- s.Update(ctx, func(tx store.Tx) error { return tx.Groups().Put(group("second", "f", store.GroupWarm, 1)) })
	}()
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while waiting: %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	view(t, s, func(tx store.Tx) error {
		all, err := tx.Groups().List()
		same(t, "after cancelling", groupIDs(all), []string{"first"}, err)
		return nil
	})
}

// panics: the caller sees its own panic, nothing of it is kept, and nobody
// else is disturbed.
func panics(t *testing.T, s store.Store) {
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if i%2 == 0 {
				update(t, s, func(tx store.Tx) error { return tx.Groups().Put(group(fmt.Sprint(i), "f", store.GroupWarm, 1)) })
				return
			}
			defer func() {
				if recover() == nil {
					t.Error("panic did not reach the caller")
				}
			}()
			_ = s.Update(context.Background(), func(tx store.Tx) error {
				_ = tx.Groups().Put(group(fmt.Sprint(i), "f", store.GroupWarm, 1))
				panic("in closure")
			})
		})
	}
	wg.Wait()
	func() {
		defer func() { _ = recover() }()
		_ = s.View(context.Background(), func(store.Tx) error { panic("in view") })
	}()
	afterwards(t, s, 10)
}

func goexits(t *testing.T, s store.Store) {
	for _, call := range []func(context.Context, func(store.Tx) error) error{s.Update, s.View} {
		for range 10 {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = call(context.Background(), func(tx store.Tx) error {
					_ = tx.Groups().Put(group("x", "f", store.GroupWarm, 1))
					runtime.Goexit()
					return nil
				})
			}()
			<-ended
		}
	}
	afterwards(t, s, 0)
}

// afterwards checks that the store still works and holds so many groups.
func afterwards(t *testing.T, s store.Store, n int) {
	t.Helper()
	update(t, s, func(tx store.Tx) error { return tx.Groups().Put(group("after", "f", store.GroupWarm, 1)) })
	view(t, s, func(tx store.Tx) error {
		all, err := tx.Groups().List()
		same(t, "groups afterwards", len(all), n+1, err)
		return nil
	})
}

func closed(t *testing.T, s store.Store) {
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			err := s.Update(context.Background(), func(tx store.Tx) error { return tx.Groups().Put(group("x", "f", store.GroupWarm, 1)) })
			if err != nil && !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("while closing: %v", err)
			}
		})
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	wg.Wait()
	for _, call := range []func(context.Context, func(store.Tx) error) error{s.Update, s.View} {
		if err := call(t.Context(), func(store.Tx) error { return nil }); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("after close: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}
