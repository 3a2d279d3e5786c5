package sqlite_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/sqlite"
	"github.com/remuda/remuda/store/storetest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(crashPath); path != "" {
		writeUntilKilled(path)
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, filepath.Join(t.TempDir(), "store.db")) })
}

func TestReopen(t *testing.T) {
	storetest.RunReopen(t, func(t *testing.T) func() store.Store {
		path := filepath.Join(t.TempDir(), "a ? # % dir", "store.db")
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		return func() store.Store { return open(t, path) }
	})
}

func TestFilesArePrivate(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "store.db"))
	defer s.Close()
	if err := s.Update(t.Context(), func(tx store.Tx) error { return tx.Groups().Put(store.Group{ID: "g"}) }); err != nil {
		t.Fatal(err)
	}
	files, _ := os.ReadDir(dir)
	if len(files) < 3 { // with WAL and lock
		t.Errorf("only %d files", len(files))
	}
	for _, f := range files {
		if info, _ := f.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
	}
}

func TestOnlyOneMayOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	_, err := sqlite.Open(t.Context(), path)
	if err == nil || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("second open: %v", err)
	}
	s.Close()
	open(t, path).Close()
}

func TestRefusesWhatIsNoStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the lock was let go
		if _, err := sqlite.Open(t.Context(), path); err == nil || strings.Contains(err.Error(), "in use") {
			t.Errorf("got %v", err)
		}
	}
	if _, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "no", "dir", "store.db")); err == nil {
		t.Error("opened where no directory is")
	}
}

// A store that was closed is one file: nothing is left for the next to catch up with.
func TestCloseLeavesOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	err := s.Update(t.Context(), func(tx store.Tx) error { return tx.Definitions().Put(store.Definition{Fingerprint: "f"}) })
	if err == nil {
		err = s.View(t.Context(), func(tx store.Tx) error { _, err := tx.Definitions().Get("f"); return err })
	}
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, ending := range []string{"-wal", "-shm"} {
		if _, err := os.Stat(path + ending); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", ending, err)
		}
	}
}
