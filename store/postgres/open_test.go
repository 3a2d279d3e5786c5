package postgres_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/postgres"
)

// TestOpenAtOnce: many brokers that start at the same time make the tables once.
func TestOpenAtOnce(t *testing.T) {
	url := database(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			s, err := postgres.Open(t.Context(), postgres.Options{URL: url})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			err = s.Update(t.Context(), func(tx store.Tx) error { return tx.Groups().Put(store.Group{ID: strconv.Itoa(i)}) })
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	err := open(t, url).View(t.Context(), func(tx store.Tx) error {
		groups, err := tx.Groups().List()
		if len(groups) != 8 {
			t.Errorf("%d groups", len(groups))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRefusesNewerSchema(t *testing.T) {
	url := database(t)
	open(t, url).Close()
	exec(t, url, "INSERT INTO schema_version VALUES (999)")
	if _, err := postgres.Open(t.Context(), postgres.Options{URL: url}); err == nil || !strings.Contains(err.Error(), "version 999") || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestRefusesOtherEncodings(t *testing.T) {
	database(t)
	if _, err := shared.Query(t.Context(), "postgres", "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0"); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Open(t.Context(), postgres.Options{URL: shared.URL("latin")}); err == nil || !strings.Contains(err.Error(), "UTF8") {
		t.Errorf("got %v", err)
	}
}

func exec(t *testing.T, url, query string) {
	t.Helper()
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), query); err != nil {
		t.Fatal(err)
	}
}

func TestAuditCannotBeChanged(t *testing.T) {
	url := database(t)
	s := open(t, url)
	err := s.Update(t.Context(), func(tx store.Tx) error { _, err := tx.Audit().Append(store.AuditRecord{}); return err })
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("UPDATE audit SET time = 1"); err == nil || !strings.Contains(err.Error(), "never changed") {
		t.Errorf("changed: %v", err)
	}
}

func TestUnixSocketAndPassfile(t *testing.T) {
	database(t)
	name, err := shared.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	url := shared.SocketURL(name)
	open(t, url).Close()
	file := filepath.Join(t.TempDir(), "pgpass")
	line := strings.Join([]string{"127.0.0.1", strconv.Itoa(shared.Port), name, "postgres", shared.Password}, ":")
	if err := os.WriteFile(file, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGPASSFILE", file)
	open(t, strings.Replace(shared.URL(name), ":"+shared.Password+"@", "@", 1)).Close()
}

// TestErrorsShowNoPassword whatever is wrong with the URL or the server.
func TestErrorsShowNoPassword(t *testing.T) {
	database(t)
	const secret = "s3cret-pa55"
	for _, url := range []string{
		"postgres://u:" + secret + "@127.0.0.1:1/db?sslmode=disable",
		"postgres://u:" + secret + "@127.0.0.1:notaport/db",
		"postgres://u:" + secret + "%zz@127.0.0.1/db",
		"postgres://u:" + secret + "@127.0.0.1/db?sslmode=perhaps",
		"mysql://u:" + secret + "@127.0.0.1/db",
		"postgres://u:" + secret + "@127.0.0.1/db?connect_timeout=soon&sslmode=disable",
		"postgres://postgres:" + secret + "@127.0.0.1:" + strconv.Itoa(shared.Port) + "/postgres?sslmode=disable",
		"postgres://u:" + secret + "@127.0.0.1:" + strconv.Itoa(shared.Port) + "/postgres?sslmode=verify-full",
	} {
		_, err := postgres.Open(t.Context(), postgres.Options{URL: url})
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", url, err)
		}
		t.Log(err)
	}
}

// TestOrdinaryUser: the owner of the database needs no other rights.
func TestOrdinaryUser(t *testing.T) {
	database(t)
	for _, query := range []string{"CREATE ROLE remuda LOGIN PASSWORD 'pa''ss'", "CREATE DATABASE ordinary OWNER remuda"} {
		if _, err := shared.Query(t.Context(), "postgres", query); err != nil {
			t.Fatal(err)
		}
	}
	url := strings.Replace(shared.URL("ordinary"), "postgres:"+shared.Password+"@", "remuda:pa%27ss@", 1)
	s := open(t, url)
	fillWarm(t, s, 1)
	if err := provision(t.Context(), s, "i"); err != nil {
		t.Error(err)
	}
	l, err := s.Lock(t.Context(), "x", false)
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}
