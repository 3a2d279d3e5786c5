// Package sqlite keeps the store in one SQLite file: the embedded default for
// a single broker process.
//
// Writes are group commits (see sqlstore.Writer) on the only connection that writes.
//
// Readers have their own connections and see the last commit (WAL).
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"sync"

	_ "modernc.org/sqlite" // driver "sqlite"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/internal/sqlstore"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is a store.Store in one file.
type Store struct {
	lock    *os.File
	writer  *sqlstore.Writer
	db      *sql.DB // the writer's
	reading *sql.DB
	readers chan *conn // those that are free
	once    sync.Once
	err     error // of closing
}

var _ store.Store = (*Store)(nil)

// Open opens the store in the file, or makes it with mode 0600. Only one
// process at a time may have it open.
func Open(ctx context.Context, path string) (_ *Store, err error) {
	lock, err := sqlstore.Acquire(path+".lock", path)
	if err != nil {
		return nil, err
	}
	s := &Store{lock: lock, writer: sqlstore.NewWriter()}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	if err := private(path); err != nil {
		return nil, err
	}
	writer, err := s.openWriter(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open store %q: %w", path, err)
	}
	if err := sqlstore.Migrate(ctx, writer.c, migrations, ""); err != nil {
		return nil, fmt.Errorf("open store %q: %w", path, err)
	}
	if err := s.openReaders(ctx, path); err != nil {
		return nil, fmt.Errorf("open store %q: %w", path, err)
	}
	go s.writer.Run(writer)
	return s, nil
}

func (s *Store) openWriter(ctx context.Context, path string) (_ *conn, err error) {
	// A small cache: SQLite goes through its whole table of pages at a commit, and
	// what is not there the kernel has.
	s.db, err = sql.Open("sqlite", dsn(path,
		"journal_mode(wal)", "synchronous(full)", "temp_store(memory)", "foreign_keys(on)", "busy_timeout(10000)",
		"cache_size(-8192)", "wal_autocheckpoint(4000)"))
	if err != nil {
		return nil, err
	}
	return newConn(ctx, s.db)
}

func (s *Store) openReaders(ctx context.Context, path string) (err error) {
	n := runtime.GOMAXPROCS(0) + 2
	s.reading, err = sql.Open("sqlite", dsn(path,
		"query_only(on)", "busy_timeout(10000)", "cache_size(-16384)"))
	if err != nil {
		return err
	}
	s.readers = make(chan *conn, n)
	for range n {
		c, err := newConn(ctx, s.reading)
		if err != nil {
			return err
		}
		s.readers <- c
	}
	return nil
}

func dsn(path string, pragmas ...string) string {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}
	u.RawQuery = url.Values{"_pragma": pragmas}.Encode()
	return u.String()
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	return s.writer.Update(ctx, fn)
}

// View implements store.Store.
func (s *Store) View(ctx context.Context, fn func(store.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var c *conn
	select {
	case <-s.writer.Closing():
		return store.ErrUnavailable
	default:
	}
	select {
	case c = <-s.readers:
	case <-s.writer.Closing():
		return store.ErrUnavailable
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.readers <- c }()
	if err := c.run("BEGIN"); err != nil {
		return err
	}
	defer c.run("ROLLBACK") //nolint:errcheck // nothing was written
	t := sqlstore.NewView(ctx, c)
	defer t.End()
	if err := fn(t); err != nil {
		return err
	}
	return t.Err()
}

// Close implements store.Store: calls that have begun get their outcome, all
// others ErrUnavailable. It must not be called inside a closure.
func (s *Store) Close() error {
	s.once.Do(func() {
		s.writer.Close()
		for range cap(s.readers) {
			(<-s.readers).Close() // none is in use any more
		}
		s.err = s.release()
	})
	return s.err
}

func (s *Store) release() error {
	var first error
	for _, db := range []*sql.DB{s.reading, s.db} { // the last one to close checkpoints
		if db == nil {
			continue
		}
		if err := db.Close(); err != nil && first == nil {
			first = err
		}
	}
	s.lock.Close() // and so unlocks
	return first
}
