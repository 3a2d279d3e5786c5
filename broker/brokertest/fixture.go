package brokertest

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/store"
)

// DefaultCeiling is the ceiling of New's pools.
const DefaultCeiling = 20

// noWork ignores how long work took.
type noWork struct{}

// Worked does nothing.
func (noWork) Worked(string, string, string, time.Duration, error) {}

// Fixture is a broker with its surroundings.
type Fixture struct {
	Broker *broker.Broker
	Pool   *Pool
	Store  store.Store
	Sealer *store.Sealer
	// StopPool ends the pool before the test does.
	StopPool func()
	cluster  store.Cluster
	stop     context.CancelFunc
	done     chan error
}

// New makes a broker on a new store, see InPostgres, and runs it until the test ends.
// change may change its options.
func New(t testing.TB, change func(*broker.Options)) *Fixture {
	t.Helper()
	return NewSized(t, DefaultCeiling, change)
}

// NewSized is New with a ceiling for each plan's pool.
func NewSized(t testing.TB, ceiling int, change func(*broker.Options)) *Fixture {
	t.Helper()
	db, cluster := openStore(t)
	sealer, err := store.NewSealer(store.Key{ID: "test", Secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := newPool(db, cluster, newBackend(), ceiling)
	if err != nil {
		t.Fatal(err)
	}
	f := &Fixture{Pool: pool, Store: db, Sealer: sealer, cluster: cluster}
	f.run(t)
	f.Start(t, change)
	return f
}

// NewShared runs a broker among others on a store. They see the same groups as
// like, if it is given.
func NewShared(t testing.TB, s Shared, like *Fixture, change func(*broker.Options)) *Fixture {
	t.Helper()
	sealer, err := store.NewSealer(store.Key{ID: "test", Secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	f := &Fixture{Store: s, Sealer: sealer, cluster: s}
	var pool *Pool
	if like != nil {
		pool = like.Pool
	}
	if f.Pool, err = NewSharedPool(s, DefaultCeiling, pool); err != nil {
		t.Fatal(err)
	}
	f.run(t)
	f.Start(t, change)
	return f
}

// run runs the pool until the test ends.
func (f *Fixture) run(t testing.TB) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Pool.Run(ctx) }()
	var once sync.Once
	f.StopPool = func() {
		once.Do(func() {
			stop()
			if err := <-done; err != nil {
				t.Errorf("the pool's Run: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		f.StopPool()
		for _, v := range f.Pool.Violations() {
			t.Error(v)
		}
	})
	select {
	case <-f.Pool.Ready():
	case <-time.After(5 * time.Second):
		t.Fatal("the pool does not become ready")
	}
}

// Start runs a broker on the fixture's store and pool, as after a restart. Stop
// the one before first.
func (f *Fixture) Start(t testing.TB, change func(*broker.Options)) {
	t.Helper()
	o := broker.Options{
		Store: f.Store, Cluster: f.cluster, Groups: f.Pool, Catalog: Catalog(), Sealer: f.Sealer,
		Logger:        slog.New(slog.DiscardHandler),
		SweepInterval: 20 * time.Millisecond,
	}
	if change != nil {
		change(&o)
	}
	b, err := broker.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	f.Broker, f.stop, f.done = b, cancel, done
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() { f.Stop(t) })
}

// Stop ends the broker. Stopping twice does no harm.
func (f *Fixture) Stop(t testing.TB) {
	t.Helper()
	if f.stop == nil {
		return
	}
	f.stop()
	f.stop = nil
	if err := <-f.done; err != nil {
		t.Errorf("the broker's Run: %v", err)
	}
}

// View reads the store.
func (f *Fixture) View(t testing.TB, fn func(store.Tx) error) {
	t.Helper()
	if err := f.Store.View(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

// Eventually waits for a condition, at most ten seconds.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
