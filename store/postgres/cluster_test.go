package postgres_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/postgres"
	"github.com/remuda/remuda/store/storetest"
)

func TestCluster(t *testing.T) {
	storetest.RunCluster(t, func(t *testing.T) func() storetest.Shared {
		url := database(t)
		return func() storetest.Shared { return open(t, url) }
	})
}

// TestCutOffBrokerLosesItsLocks: others get them within 10 to 15 seconds; the
// broker knows before that, and cannot change anything when it is back.
func TestCutOffBrokerLosesItsLocks(t *testing.T) {
	t.Parallel()
	s := server(t)
	name := newDatabase(t, s)
	p := newProxy(t, s.Port)
	cut, other := open(t, s.URLAt(name, p.Port())), open(t, s.URL(name))
	l, err := cut.Lock(t.Context(), "x", false)
	if err != nil {
		t.Fatal(err)
	}
	held, done := l.Context(t.Context())
	defer done()
	p.RefuseAll(true)
	began := time.Now()
	next, err := other.Lock(t.Context(), "x", false)
	took := time.Since(began)
	if err != nil || took < 8*time.Second || took > 15*time.Second {
		t.Errorf("got it after %s: %v", took, err)
	}
	if !errors.Is(context.Cause(held), store.ErrLost) {
		t.Errorf("the old holder does not know: %v", context.Cause(held))
	}
	t.Logf("lost after %s", took)
	p.RefuseAll(false)
	write := func(tx store.Tx) error { return tx.Groups().Put(store.Group{ID: "g"}) }
	if err := cut.Update(context.WithoutCancel(held), write); !errors.Is(err, store.ErrLost) {
		t.Errorf("the old holder could write: %v", err)
	}
	if err := cut.Update(t.Context(), write); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	t.Logf("back after %s", time.Since(began))
	if l, err := cut.TryLock(t.Context(), "x"); l != nil || err != nil {
		t.Errorf("two hold it: %v", err)
	}
	next.Release()
	if _, err := cut.Lock(t.Context(), "x", false); err != nil {
		t.Error(err)
	}
	t.Logf("locked after %s", time.Since(began))
	cut.Close()
	t.Logf("closed after %s", time.Since(began))
}

// TestLocksOutliveTheServer: a restart of the server takes no locks away.
func TestLocksOutliveTheServer(t *testing.T) {
	t.Parallel()
	s := server(t)
	url := s.URL(newDatabase(t, s))
	a, b := open(t, url), open(t, url)
	l, err := a.Lock(t.Context(), "x", false)
	if err != nil {
		t.Fatal(err)
	}
	held, done := l.Context(t.Context())
	defer done()
	s.Stop(9)
	time.Sleep(500 * time.Millisecond)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if l, err := b.TryLock(t.Context(), "x"); l != nil || err != nil {
		t.Errorf("got it: %v", err)
	}
	if err := a.Update(held, func(tx store.Tx) error { return tx.Groups().Put(store.Group{ID: "g"}) }); err != nil {
		t.Error(err)
	}
	time.AfterFunc(time.Second, l.Release)
	began := time.Now()
	if _, err := b.Lock(t.Context(), "x", false); err != nil || time.Since(began) > 4*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

// TestRestartedBroker: one with the same name takes the place of the one before
// at once, and one that must be alone does not wait for it.
func TestRestartedBroker(t *testing.T) {
	t.Parallel()
	s := server(t)
	name := newDatabase(t, s)
	p := newProxy(t, s.Port)
	o := postgres.Options{URL: s.URLAt(name, p.Port()), Name: "it's host", Lock: filepath.Join(t.TempDir(), "lock")}
	old, err := postgres.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if _, err := old.Lock(t.Context(), "x", false); err != nil {
		t.Fatal(err)
	}
	p.RefuseAll(true)
	o.URL, o.Lock = s.URL(name), o.Lock+"2"
	began := time.Now()
	again, err := postgres.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.Lock(t.Context(), "x", false); err != nil || time.Since(began) > 3*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if _, err := postgres.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("a second one with the same file: %v", err)
	}
	o.Name, o.Lock = "another", o.Lock+"3"
	if _, err := postgres.Open(t.Context(), o); err == nil || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a second one that must be alone: %v", err)
	}
}
