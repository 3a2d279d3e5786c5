package sqlite

import (
	"database/sql"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/internal/sqlstore"
)

func TestRefusesNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("INSERT INTO schema_version VALUES (999)"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "version 999") {
		t.Errorf("got %v", err)
	}
}

func TestMigrationIsAllOrNothing(t *testing.T) {
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := sqlstore.Migrate(t.Context(), c, migrations, ""); err != nil {
		t.Fatal(err)
	}
	bad := sqlstore.Migration{Version: 99, SQL: "CREATE TABLE half (a); CREATE TABLE groups (again);"}
	if _, err := bad.Apply(t.Context(), c, ""); err == nil {
		t.Fatal("applied")
	}
	var n int
	if err := c.QueryRowContext(t.Context(), "SELECT count(*) FROM sqlite_master WHERE name = 'half'").Scan(&n); err != nil || n != 0 {
		t.Errorf("half of a migration stayed: %d, %v", n, err)
	}
}

func TestMigrationsAreNumbered(t *testing.T) {
	for _, files := range [][]string{{"migrations/0002_x.sql"}, {"migrations/x.sql"}, {"migrations/0001_a.sql", "migrations/0001_b.sql"}} {
		fsys := fstest.MapFS{}
		for _, f := range files {
			fsys[f] = &fstest.MapFile{}
		}
		if _, err := sqlstore.ReadMigrations(fsys); err == nil {
			t.Errorf("%v accepted", files)
		}
	}
}

// TestLookupsUseIndexes: what requests read must stay flat.
func TestLookupsUseIndexes(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := <-s.readers
	defer func() { s.readers <- c }()
	for query, index := range map[string]string{
		"SELECT body FROM groups WHERE id = ?":                                                                         "sqlite_autoindex_groups_1",
		"SELECT body FROM instances WHERE id = ?":                                                                      "sqlite_autoindex_instances_1",
		"SELECT body FROM groups WHERE fingerprint = ? AND state = 'warm' ORDER BY since, id LIMIT 1":                  "groups_warm",
		"SELECT body FROM groups WHERE fingerprint = ? ORDER BY created, id":                                           "groups_age",
		"SELECT state, n FROM group_counts WHERE fingerprint = ? AND n > 0":                                            "PRIMARY KEY",
		"SELECT body FROM instances WHERE " + sqlstore.Waiting + " ORDER BY created, id LIMIT ?":                       "instances_waiting",
		"SELECT count(*) FROM instances WHERE " + sqlstore.Waiting:                                                     "instances_waiting",
		"SELECT body FROM instances WHERE state = ? AND state <> 'ready' ORDER BY created, id":                         "instances_unready",
		sqlstore.CountIn + "level = 1 AND org = ? AND service_id = ?":                                                  "PRIMARY KEY (level=? AND org=?)",
		sqlstore.CountIn + "level = 1 AND org = ? AND space = ?":                                                       "PRIMARY KEY (level=? AND org=? AND space=?)",
		sqlstore.CountIn + "level = 0 AND org = '' AND space = '' AND service_id = ? AND plan_id = ?":                  "PRIMARY KEY (level=? AND org=? AND space=? AND service_id=? AND plan_id=?)",
		"SELECT body FROM bindings WHERE instance_id = ? ORDER BY created, id":                                         "bindings_instance",
		"SELECT body FROM operations WHERE instance_id = ? AND binding_id = ? ORDER BY started DESC, seq DESC LIMIT 1": "operations_subject",
		"SELECT body FROM operations WHERE state = 'in progress' ORDER BY started, seq":                                "operations_running",
		sqlstore.AuditPage:   "PRIMARY KEY (rowid<?)",
		sqlstore.AuditOf:     "audit_instance",
		sqlstore.AuditRemove: "PRIMARY KEY (rowid=?)",
		"DELETE FROM operations WHERE state <> 'in progress' AND finished < ?": "operations_finished",
	} {
		rows, err := c.c.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, make([]any, strings.Count(query, "?"))...)
		if err != nil {
			t.Fatal(err)
		}
		var plan string
		for rows.Next() {
			var a, b, n int
			var line string
			if err := rows.Scan(&a, &b, &n, &line); err != nil {
				t.Fatal(err)
			}
			plan += line + "; "
		}
		rows.Close()
		if !strings.Contains(plan, index) || strings.Contains(plan, "SCAN groups;") || strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("%s\n plan: %s", query, plan)
		}
	}
}

// TestMigrationCountsWhatIsThere: instances of an older schema are counted too.
func TestMigrationCountsWhatIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	all, err := sqlstore.ReadMigrations(migrations)
	if err != nil {
		t.Fatal(err)
	}
	c, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ExecContext(t.Context(), "CREATE TABLE schema_version (version INTEGER NOT NULL)"); err != nil {
		t.Fatal(err)
	}
	if _, err := all[0].Apply(t.Context(), c, ""); err != nil {
		t.Fatal(err)
	}
	for _, i := range []store.Instance{{ID: "a", ServiceID: "s", PlanID: "p", OrgGUID: "o", SpaceGUID: "x"}, {ID: "b", ServiceID: "s", PlanID: "q"}} {
		body, _ := json.Marshal(i)
		if _, err := c.ExecContext(t.Context(), "INSERT INTO instances (id, fingerprint, state, group_id, created, body) VALUES (?, '', 'ready', '', 0, ?)", i.ID, body); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	db.Close()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.View(t.Context(), func(tx store.Tx) error {
		for scope, want := range map[store.InstanceScope]int{{}: 2, {ServiceID: "s"}: 2, {OrgGUID: "o", SpaceGUID: "x", ServiceID: "s", PlanID: "p"}: 1, {OrgGUID: "o"}: 1} {
			if n, err := tx.Instances().CountIn(scope); err != nil || n != want {
				t.Errorf("%+v: %d, %v", scope, n, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAuditCannotBeChanged(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.Update(t.Context(), func(tx store.Tx) error { _, err := tx.Audit().Append(store.AuditRecord{}); return err })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.Exec("UPDATE audit SET time = 1"); err == nil || !strings.Contains(err.Error(), "never changed") {
		t.Errorf("changed: %v", err)
	}
}
