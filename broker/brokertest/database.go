package brokertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/postgres"
	"github.com/remuda/remuda/store/postgres/postgrestest"
	"github.com/remuda/remuda/store/sqlite"
)

// storeKind is the variable that says what brokers of tests keep their records
// in: "postgres", or SQLite when it is empty.
const storeKind = "REMUDA_TEST_STORE"

// InPostgres says that brokers of New share a store as if there were others.
func InPostgres() bool { return os.Getenv(storeKind) == "postgres" }

var (
	server    *postgrestest.Server
	serverErr error
	serverOne sync.Once
)

// Main is the TestMain of packages that use New: it runs the tests, ends what
// they share, and looks for goroutines that are left.
func Main(m *testing.M) {
	code := m.Run()
	if server != nil {
		server.Close()
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// openStore is a new store that is closed when the test ends.
func openStore(t testing.TB) (store.Store, store.Cluster) {
	t.Helper()
	if !InPostgres() {
		s, err := sqlite.Open(context.Background(), filepath.Join(t.TempDir(), "remuda.db"))
		if err != nil {
			t.Fatal(err)
		}
		closeAtEnd(t, s)
		return s, nil
	}
	serverOne.Do(func() { server, serverErr = postgrestest.New("") })
	if errors.Is(serverErr, postgrestest.ErrMissing) {
		t.Skip(serverErr)
	}
	if serverErr != nil {
		t.Fatal(serverErr)
	}
	name, err := server.NewDatabase(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	s, err := postgres.Open(context.Background(), postgres.Options{URL: server.URL(name)})
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, s)
	return s, s
}

func closeAtEnd(t testing.TB, s store.Store) {
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
