package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strconv"
	"strings"
)

// Migration is one step of the schema.
type Migration struct {
	Version int // from the file name: 0001_tables.sql
	SQL     string
}

// ReadMigrations reads the folder "migrations".
func ReadMigrations(fsys fs.FS) ([]Migration, error) {
	names, err := fs.Glob(fsys, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	sort.Strings(names)
	var all []Migration
	for i, name := range names {
		number, _, _ := strings.Cut(path.Base(name), "_")
		v, err := strconv.Atoi(number)
		if err != nil || v != i+1 {
			return nil, fmt.Errorf("migration %q is not number %d", name, i+1)
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		all = append(all, Migration{v, string(text)})
	}
	return all, nil
}

// Migrate brings the schema up to date, each step in its own transaction. begin
// is run first in each, so that it can keep others from doing the same.
func Migrate(ctx context.Context, c *sql.Conn, fsys fs.FS, begin string) error {
	all, err := ReadMigrations(fsys)
	if err != nil {
		return err
	}
	err = within(ctx, c, begin, func(t *sql.Tx) error {
		_, err := t.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)`)
		return err
	})
	if err != nil {
		return fmt.Errorf("make schema_version: %w", err)
	}
	for _, m := range all {
		have, err := m.Apply(ctx, c, begin)
		if err != nil {
			return fmt.Errorf("migrate to schema version %d: %w", m.Version, err)
		}
		if have > len(all) {
			return fmt.Errorf("its schema has version %d, and this program knows only up to %d: use a newer program", have, len(all))
		}
	}
	return nil
}

// Apply does the step unless it has been done, and says what version the schema
// had before.
func (m Migration) Apply(ctx context.Context, c *sql.Conn, begin string) (have int, err error) {
	err = within(ctx, c, begin, func(t *sql.Tx) error {
		if err := t.QueryRowContext(ctx, `SELECT coalesce(max(version), 0) FROM schema_version`).Scan(&have); err != nil {
			return fmt.Errorf("read schema version: %w", err)
		}
		if have >= m.Version {
			return nil
		}
		if _, err := t.ExecContext(ctx, m.SQL); err != nil {
			return err
		}
		_, err := t.ExecContext(ctx, fmt.Sprintf(`INSERT INTO schema_version VALUES (%d)`, m.Version))
		return err
	})
	return have, err
}

func within(ctx context.Context, c *sql.Conn, begin string, do func(*sql.Tx) error) error {
	t, err := c.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer t.Rollback() //nolint:errcheck // after a commit it does nothing
	if begin != "" {
		if _, err := t.ExecContext(ctx, begin); err != nil {
			return err
		}
	}
	if err := do(t); err != nil {
		return err
	}
	return t.Commit()
}
