// Package postgres keeps the store in a PostgreSQL database, which several brokers
// may use at once.
//
// Writes are group commits (see sqlstore.Writer) on one connection of each broker,
// and only one transaction at a time writes: all begin with the same lock. So
// nobody's transaction fails because of another's, and the audit chain has one
// order. What it costs to wait is shared by all closures of a batch; what a
// closure writes goes to the server with what is read next.
//
// A call waits a few seconds for a server that is being restarted, and then
// returns store.ErrUnavailable. A commit whose answer was lost is looked up.
package postgres

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/internal/sqlstore"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is a store.Store in a PostgreSQL database.
type Store struct {
	lock       *os.File // nil: none
	db         *sql.DB
	settings   string // for connections; with the password
	name       string // of this broker
	writer     *sqlstore.Writer
	readers    chan *conn // those that are free; nil is one to be made
	background sync.WaitGroup
	once       sync.Once

	returned chan struct{} // holds a token while locks wait to be given back
	told     chan string   // messages for others

	mu        sync.Mutex
	member    string                        // who we are just now
	leases    map[string]*lease             // locks of ours, by name
	taking    map[string]bool               // locks that are being taken; true: others here want to
	waiters   map[string]map[chan bool]bool // for locks
	listeners map[int]func(string)
	listened  int // listeners ever
	lastBeat  time.Time
	awaySince time.Time // the server; zero: it is there

	passing sync.Mutex // held while listeners are called
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Cluster = (*Store)(nil)
)

// Options of a store.
type Options struct {
	// URL is postgres://…
	URL string
	// Name is the same after a restart of this broker, and no other's: then the one
	// before is known to be gone. "" when there is none.
	Name string
	// Lock is a file to lock: no other broker may use the database, and none on
	// this host with the same file. "" is for brokers that share it.
	Lock string
}

// Open opens the store in a database, and makes its tables. Errors never have
// the password in them.
func Open(ctx context.Context, o Options) (*Store, error) {
	connector, settings, err := newConnector(o.URL)
	if err != nil {
		return nil, err
	}
	var lock *os.File
	if o.Lock != "" {
		if lock, err = sqlstore.Acquire(o.Lock, "PostgreSQL"); err != nil {
			return nil, err
		}
	}
	s := &Store{
		lock: lock, db: sql.OpenDB(connector), settings: settings, name: o.Name, writer: sqlstore.NewWriter(),
		returned: make(chan struct{}, 1), told: make(chan string, 1024),
		leases: map[string]*lease{}, taking: map[string]bool{}, waiters: map[string]map[chan bool]bool{}, listeners: map[int]func(string){},
	}
	s.db.SetMaxIdleConns(-1)
	if err := s.migrate(ctx); err != nil {
		s.release()
		return nil, fmt.Errorf("open store in PostgreSQL: %w", err)
	}
	e := &engine{s: s}
	if err := e.connect(); err != nil {
		s.release()
		return nil, fmt.Errorf("open store in PostgreSQL: %w", err)
	}
	s.readers = make(chan *conn, runtime.GOMAXPROCS(0)+2)
	for range cap(s.readers) {
		s.readers <- nil
	}
	go s.writer.Run(e)
	for _, run := range []func(){s.giveBack, s.live, s.hear, s.speak} {
		s.background.Go(run)
	}
	if lock != nil {
		if err := s.waitAlone(ctx); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// migrateLock keeps others from migrating at the same time. It is any number
// that nobody else uses.
const migrateLock = "SELECT pg_advisory_xact_lock(8314172054)"

func (s *Store) migrate(ctx context.Context) error {
	c, err := s.connect(ctx, "SET lock_timeout = '60s'")
	if err != nil {
		return err
	}
	defer c.close()
	var encoding string
	if err := c.c.QueryRowContext(ctx, "SELECT current_setting('server_encoding')").Scan(&encoding); err != nil {
		return failed("ask for the encoding", err)
	}
	if encoding != "UTF8" {
		return fmt.Errorf("its database has encoding %s; make one with UTF8", encoding)
	}
	return sqlstore.Migrate(ctx, c.c, migrations, migrateLock)
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	return s.writer.Update(ctx, fn)
}

// Close implements store.Store: calls that have begun get their outcome, all
// others ErrUnavailable. It must not be called inside a closure.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		s.writer.Close()
		s.background.Wait()
		for range cap(s.readers) {
			if c := <-s.readers; c != nil { // none is in use any more
				c.close()
			}
		}
		err = s.release()
	})
	return err
}

func (s *Store) release() error {
	err := s.db.Close()
	if s.lock != nil {
		s.lock.Close() // and so unlocks
	}
	return err
}
