package postgrestest

import (
	"errors"
	"testing"
)

// ForTest makes a server with an empty database for a test, which it skips where the
// package is not installed, and ends it with the test.
func ForTest(t testing.TB) (server *Server, database string) {
	t.Helper()
	server, err := New("")
	if errors.Is(err, ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	database, err = server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return server, database
}
