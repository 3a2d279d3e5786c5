package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/remuda/remuda/store"
)

// Shared is a store that several brokers use.
type Shared interface {
	store.Store
	store.Cluster
}

// RunCluster checks what brokers that share a store need. open returns another
// one's view of the same store each time it is called.
func RunCluster(t *testing.T, f func(t *testing.T) (open func() Shared)) {
	for name, check := range map[string]func(t *testing.T, a, b Shared){
		"locks exclude":     locksExclude,
		"locks wake":        locksWake,
		"seizing":           seizing,
		"trying":            trying,
		"many lock at once": manyLock,
		"telling":           telling,
		"notes":             notes,
		"claims exclude":    claimsExcludeAmong,
		"left locks":        leftLocks,
	} {
		t.Run(name, func(t *testing.T) {
			open := f(t)
			a, b := open(), open()
			t.Cleanup(func() { a.Close(); b.Close() })
			check(t, a, b)
		})
	}
}

func lock(t *testing.T, s Shared, name string) store.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	l, err := s.Lock(ctx, name, false)
	if err != nil {
		t.Fatalf("lock %q: %v", name, err)
	}
	return l
}

// waits says that the lock cannot be had.
func waits(t *testing.T, s Shared, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if l, err := s.Lock(ctx, name, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("lock %q that is held: %v, %v", name, l, err)
	}
}

func locksExclude(t *testing.T, a, b Shared) {
	l := lock(t, a, "it's one")
	waits(t, a, "it's one")
	waits(t, b, "it's one")
	other := lock(t, b, "another")
	l.Release()
	l.Release()
	l = lock(t, b, "it's one")
	waits(t, a, "it's one")
	l.Release()
	other.Release()
	for range 5 {
		lock(t, a, "it's one").Release()
	}
}

func locksWake(t *testing.T, a, b Shared) {
	l := lock(t, a, "x")
	got := make(chan time.Time)
	go func() { lock(t, b, "x"); got <- time.Now() }()
	time.Sleep(300 * time.Millisecond)
	released := time.Now()
	l.Release()
	if took := (<-got).Sub(released); took > 500*time.Millisecond {
		t.Errorf("the other waited %s", took)
	}
}

func seizing(t *testing.T, a, b Shared) {
	l := lock(t, a, "x")
	held, cancel := l.Context(t.Context())
	defer cancel()
	waiting := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		l, err := a.Lock(ctx, "x", false)
		if l != nil {
			l.Release()
		}
		waiting <- err
	}()
	time.Sleep(100 * time.Millisecond)
	got := make(chan store.Lease)
	go func() {
		l, err := b.Lock(t.Context(), "x", true)
		if err != nil {
			t.Error(err)
		}
		got <- l
	}()
	select {
	case <-held.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("the holder was not interrupted")
	}
	if !errors.Is(context.Cause(held), store.ErrSeized) {
		t.Errorf("cause %v", context.Cause(held))
	}
	if err := a.Update(held, func(store.Tx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("update of one who was interrupted: %v", err)
	}
	if err := a.Update(context.WithoutCancel(held), func(store.Tx) error { return nil }); err != nil {
		t.Errorf("cleaning up under the lock: %v", err)
	}
	l.Release()
	l = <-got
	held, cancel = l.Context(t.Context())
	defer cancel()
	if err := <-waiting; err != nil && !errors.Is(err, store.ErrSeized) {
		t.Errorf("one who waits: %v", err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	if _, err := a.Lock(ctx, "x", true); !errors.Is(err, context.DeadlineExceeded) || held.Err() != nil {
		t.Errorf("who seized was seized: %v", err)
	}
	l.Release()
	lock(t, a, "x").Release()
}

func trying(t *testing.T, a, b Shared) {
	l, err := a.TryLock(t.Context(), "x")
	if err != nil || l == nil {
		t.Fatal(l, err)
	}
	for _, s := range []Shared{a, b} {
		if other, err := s.TryLock(t.Context(), "x"); err != nil || other != nil {
			t.Errorf("got what is held: %v, %v", other, err)
		}
	}
	l.Release()
	deadline := time.Now().Add(5 * time.Second)
	for {
		if l, err = b.TryLock(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
		if l != nil {
			l.Release()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("cannot get what was released")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func manyLock(t *testing.T, a, b Shared) {
	var inside, total atomic.Int64
	var all sync.WaitGroup
	for i := range 12 {
		s := []Shared{a, b}[i%2]
		all.Go(func() {
			for range 8 {
				l := lock(t, s, fmt.Sprint("lock", total.Add(1)%2))
				l.Release()
				l = lock(t, s, "x")
				if inside.Add(1) != 1 {
					t.Error("two at once")
				}
				time.Sleep(time.Millisecond)
				inside.Add(-1)
				l.Release()
			}
		})
	}
	all.Wait()
}

func telling(t *testing.T, a, b Shared) {
	heard := make(chan string, 100)
	for name, s := range map[string]Shared{"a": a, "b": b} {
		defer s.Listen(func(m string) {
			if m != "" {
				heard <- name + ":" + m
			}
		})()
	}
	time.Sleep(200 * time.Millisecond) // until both listen
	a.Tell("it's a 'message' with \\ and ü")
	select {
	case m := <-heard:
		if m != "b:it's a 'message' with \\ and ü" {
			t.Errorf("heard %q", m)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("nothing heard")
	}
	for i := range 50 {
		b.Tell(fmt.Sprint(i))
	}
	for i := range 50 {
		if m := <-heard; m != fmt.Sprint("a:", i) {
			t.Fatalf("heard %q, want %d", m, i)
		}
	}
}

func notes(t *testing.T, a, b Shared) {
	got, err := b.Note(t.Context(), "k")
	same(t, "no note", got, "", err)
	for _, text := range []string{"one", "two '\\ "} {
		if err := a.SetNote(t.Context(), "k", text); err != nil {
			t.Fatal(err)
		}
		got, err = b.Note(t.Context(), "k")
		same(t, "note", got, text, err)
	}
}

// claimsExcludeAmong: a warm group goes to one instance, whichever broker asks.
func claimsExcludeAmong(t *testing.T, a, b Shared) {
	claimsExcludeIn(t, a, b)
}

// leftLocks: the locks of a broker that has ended are free at once.
func leftLocks(t *testing.T, a, b Shared) {
	l := lock(t, a, "x")
	held, cancel := l.Context(t.Context())
	defer cancel()
	began := time.Now()
	time.AfterFunc(50*time.Millisecond, func() { a.Close() })
	lock(t, b, "x").Release()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("waited %s", took)
	}
	if err := a.Update(context.WithoutCancel(held), func(store.Tx) error { return nil }); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("update after the end: %v", err)
	}
}
