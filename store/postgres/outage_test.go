package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/postgres"
	"github.com/remuda/remuda/store/postgres/postgrestest"
)

// server is a server of the test's own.
func server(t *testing.T, settings ...string) *postgrestest.Server {
	t.Helper()
	if missing != nil {
		t.Skip(missing)
	}
	s, err := postgrestest.New("", settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func newProxy(t *testing.T, port int) *postgrestest.Proxy {
	t.Helper()
	p, err := postgrestest.NewProxy(port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func newDatabase(t *testing.T, s *postgrestest.Server) string {
	t.Helper()
	name, err := s.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// ledger is what clients were told.
type ledger struct {
	mu      sync.Mutex
	created map[string]bool
	unknown map[string]bool // 503
}

// work provisions with so many clients until stop is closed.
func (l *ledger) work(t *testing.T, stores []store.Store, clients int, prefix string, stop <-chan struct{}) {
	var all sync.WaitGroup
	var next atomic.Int64
	for c := range clients {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("%s-%d", prefix, next.Add(1))
				err := provision(context.Background(), stores[c%len(stores)], id)
				l.mu.Lock()
				switch {
				case err == nil:
					l.created[id] = true
				case errors.Is(err, store.ErrUnavailable):
					l.unknown[id] = true
				case errors.Is(err, store.ErrNotFound):
					l.mu.Unlock()
					return // all are given away
				default:
					t.Errorf("provision %s: %v", id, err)
				}
				l.mu.Unlock()
			}
		})
	}
	all.Wait()
}

// check compares what clients were told with what is there.
func (l *ledger) check(t *testing.T, s store.Store) {
	t.Helper()
	view := func(tx store.Tx) error {
		instances, err := tx.Instances().List()
		if err != nil {
			return err
		}
		tenants := map[string]string{}
		there := map[string]bool{}
		for _, i := range instances {
			there[i.ID] = true
			if tenants[i.GroupID] != "" {
				t.Errorf("group %s is %s's and %s's", i.GroupID, tenants[i.GroupID], i.ID)
			}
			tenants[i.GroupID] = i.ID
			if !l.created[i.ID] && !l.unknown[i.ID] {
				t.Errorf("instance %s is there, though it was refused", i.ID)
			}
		}
		for id := range l.created {
			if !there[id] {
				t.Errorf("instance %s was created and is lost", id)
			}
		}
		groups, err := tx.Groups().List()
		if err != nil {
			return err
		}
		states := map[store.GroupState]int{}
		for _, g := range groups {
			states[g.State]++
			if g.State == store.GroupClaimed && tenants[g.ID] != g.InstanceID {
				t.Errorf("group %s is claimed for %s, which is not there", g.ID, g.InstanceID)
			}
		}
		counted, err := tx.Groups().Count(fingerprint)
		if err != nil || counted[store.GroupClaimed] != states[store.GroupClaimed] || counted[store.GroupWarm] != states[store.GroupWarm] {
			t.Errorf("counted %v, there are %v: %v", counted, states, err)
		}
		if n, err := tx.Instances().CountIn(store.InstanceScope{}); err != nil || n != len(instances) {
			t.Errorf("counted %d instances of %d: %v", n, len(instances), err)
		}
		records, err := tx.Audit().Page(store.AuditQuery{Limit: 1 << 20})
		if err != nil || len(records) != len(instances) {
			t.Errorf("%d audit records of %d instances: %v", len(records), len(instances), err)
		}
		var v store.AuditVerifier
		for _, r := range records {
			if err := v.Check(r); err != nil {
				t.Error(err)
				break
			}
		}
		t.Logf("%d created, %d not answered, %d there", len(l.created), len(l.unknown), len(instances))
		return nil
	}
	if err := s.View(t.Context(), view); err != nil {
		t.Fatal(err)
	}
}

func newLedger() *ledger { return &ledger{created: map[string]bool{}, unknown: map[string]bool{}} }

// TestOutages: whatever happens to the server while two brokers give groups
// away, nothing that was answered is lost, and no group has two tenants.
func TestOutages(t *testing.T) {
	for name, outage := range map[string]func(*postgrestest.Server){
		"restart":            func(s *postgrestest.Server) { s.Stop(syscall.SIGINT) },
		"immediate shutdown": func(s *postgrestest.Server) { s.Stop(syscall.SIGQUIT) },
		"kill":               func(s *postgrestest.Server) { s.Stop(syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := server(t)
			url := s.URL(newDatabase(t, s))
			stores := []store.Store{open(t, url), open(t, url)}
			fillWarm(t, stores[0], 20000)
			l := newLedger()
			stop := make(chan struct{})
			var all sync.WaitGroup
			all.Go(func() { l.work(t, stores, 10, "i", stop) })
			for range 4 {
				time.Sleep(250 * time.Millisecond)
				outage(s)
				time.Sleep(100 * time.Millisecond)
				if err := s.Start(); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(500 * time.Millisecond)
			close(stop)
			all.Wait()
			if len(l.created) < 100 {
				t.Errorf("only %d were created", len(l.created))
			}
			l.check(t, stores[1])
		})
	}
}

// TestCommitsAreLookedUp: a connection that is lost at COMMIT makes no
// difference for the caller, whether or not the server has done it.
func TestCommitsAreLookedUp(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after=%t", after), func(t *testing.T) {
			t.Parallel()
			s := server(t)
			name := newDatabase(t, s)
			p := newProxy(t, s.Port)
			st := open(t, s.URLAt(name, p.Port()))
			fillWarm(t, st, 15000)
			l := newLedger()
			for round := range 5 {
				p.CutNext(1, after)
				for c := range 8 { // one after the other, then all at once
					id := fmt.Sprintf("one-%d-%d", round, c)
					if err := provision(t.Context(), st, id); err != nil {
						t.Fatalf("provision: %v", err)
					}
					l.created[id] = true
				}
				if p.Left() != 0 {
					t.Error("no commit was cut")
				}
				p.CutNext(2, after)
				stop := make(chan struct{})
				time.AfterFunc(300*time.Millisecond, func() { close(stop) })
				l.work(t, []store.Store{st}, 8, fmt.Sprintf("many-%d", round), stop)
			}
			if len(l.unknown) > 0 {
				t.Errorf("%d calls failed", len(l.unknown))
			}
			l.check(t, st)
		})
	}
}

// TestUnreachable: a server that is not there means ErrUnavailable after a few
// seconds, for reading and writing, and nothing when it is back.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	s := server(t)
	name := newDatabase(t, s)
	p := newProxy(t, s.Port)
	st := open(t, s.URLAt(name, p.Port()))
	fillWarm(t, st, 10)
	p.RefuseAll(true)
	for what, call := range map[string]func() error{
		"write": func() error { return provision(t.Context(), st, "a") },
		"read":  func() error { return st.View(t.Context(), func(store.Tx) error { return nil }) },
	} {
		began := time.Now()
		if err := call(); !errors.Is(err, store.ErrUnavailable) || time.Since(began) > 9*time.Second {
			t.Errorf("%s after %s: %v", what, time.Since(began), err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := st.View(ctx, func(store.Tx) error { return nil }); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("within a time limit: %v", err)
	}
	p.RefuseAll(false)
	if err := provision(t.Context(), st, "b"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if err := st.View(t.Context(), func(tx store.Tx) error { _, err := tx.Instances().Get("b"); return err }); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestServerThatCannotNow: too many connections and a read-only server are outages, too.
func TestServerThatCannotNow(t *testing.T) {
	t.Parallel()
	s := server(t, "max_connections=5", "superuser_reserved_connections=0", "max_wal_senders=0")
	url := s.URL(newDatabase(t, s))
	st := open(t, url)
	fillWarm(t, st, 10)
	if err := st.View(t.Context(), func(store.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	var others []*postgres.Store
	var err error
	for range 10 {
		var o *postgres.Store
		if o, err = postgres.Open(t.Context(), postgres.Options{URL: url}); err != nil {
			break
		}
		others = append(others, o)
	}
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("without connections left: %v", err)
	}
	for _, o := range others {
		o.Close()
	}
	for tries := 0; ; tries++ { // until the connections have ended
		_, err := s.Query(t.Context(), "postgres", "ALTER SYSTEM SET default_transaction_read_only = on")
		if err == nil {
			break
		}
		if tries == 50 {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.Stop(syscall.SIGINT)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := provision(t.Context(), st, "a"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("on a read-only server: %v", err)
	}
}

// TestFrozenWriterHoldsNobodyUp: a broker that stops inside a transaction keeps
// others from writing for a few seconds only, and its change is made when it goes on.
func TestFrozenWriterHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	url := database(t)
	a, b := open(t, url), open(t, url)
	fillWarm(t, a, 10)
	frozen, thaw := make(chan struct{}), make(chan struct{})
	var once sync.Once
	done := make(chan error, 1)
	go func() {
		done <- a.Update(context.Background(), func(tx store.Tx) error {
			if _, err := tx.Groups().Count(fingerprint); err != nil {
				return err
			}
			once.Do(func() { close(frozen); <-thaw })
			return tx.Groups().Put(store.Group{ID: "late", Fingerprint: "f"})
		})
	}()
	<-frozen
	began := time.Now()
	if err := provision(t.Context(), b, "x"); err != nil || time.Since(began) > 8*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	close(thaw)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestPoisonIsForOneOnly: a change that the database refuses fails alone.
func TestPoisonIsForOneOnly(t *testing.T) {
	st := open(t, database(t))
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			id := fmt.Sprintf("g%d", i)
			if i%10 == 0 {
				id += "\x00"
			} else if i%10 == 5 {
				id += "\xff"
			}
			err := st.Update(context.Background(), func(tx store.Tx) error {
				return tx.Groups().Put(store.Group{ID: id, Fingerprint: "f", State: store.GroupWarm})
			})
			if (i%5 == 0) != (err != nil) || errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%q: %v", id, err)
			}
		})
	}
	all.Wait()
}

// TestBackAfterLong: a server that was away for longer than anybody waits is
// noticed by the first who reads, whatever became of its old connection.
func TestBackAfterLong(t *testing.T) {
	t.Parallel()
	s := server(t)
	st := open(t, s.URL(newDatabase(t, s)))
	view := func() error {
		return st.View(t.Context(), func(tx store.Tx) error { _, err := tx.Groups().List(); return err })
	}
	var all sync.WaitGroup
	for range 8 { // so that all readers have a connection
		all.Go(func() {
			if err := view(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	s.Stop(syscall.SIGQUIT)
	for began := time.Now(); time.Since(began) < 6*time.Second; time.Sleep(100 * time.Millisecond) {
		_ = st.Update(t.Context(), func(store.Tx) error { return nil })
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if err := view(); err != nil {
			t.Error(err)
		}
	}
}
