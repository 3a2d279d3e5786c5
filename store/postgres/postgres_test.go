package postgres_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/postgres"
	"github.com/remuda/remuda/store/postgres/postgrestest"
	"github.com/remuda/remuda/store/storetest"
)

var shared *postgrestest.Server // nil: none can be had, because of missing

var missing error

func TestMain(m *testing.M) {
	shared, missing = postgrestest.New("")
	if missing != nil && !errors.Is(missing, postgrestest.ErrMissing) {
		fmt.Fprintln(os.Stderr, missing)
		os.Exit(1)
	}
	code := m.Run()
	if shared != nil {
		shared.Close()
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// database is an empty database of the shared server.
func database(t testing.TB) (url string) {
	t.Helper()
	if missing != nil {
		t.Skip(missing)
	}
	name, err := shared.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return shared.URL(name)
}

func open(t testing.TB, url string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, database(t)) })
}

func TestReopen(t *testing.T) {
	storetest.RunReopen(t, func(t *testing.T) func() store.Store {
		url := database(t)
		return func() store.Store { return open(t, url) }
	})
}
