package sqlstore

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/remuda/remuda/store"
)

// layout says how records of one kind lie in their table.
type layout[T any] struct {
	name   string
	values func(T) []any // of the id and the looked-up columns, in order

	get, put, delete, list string // SQL
}

func newLayout[T any](name string, columns []string, values func(T) []any) *layout[T] {
	all := append(columns, "body")
	var set []string
	for _, c := range all[1:] {
		set = append(set, c+" = excluded."+c)
	}
	return &layout[T]{
		name:   name,
		values: values,
		get:    "SELECT body FROM " + name + " WHERE id = ?",
		put: fmt.Sprintf("INSERT INTO %s (%s) VALUES (?%s) ON CONFLICT (id) DO UPDATE SET %s",
			name, strings.Join(all, ", "), strings.Repeat(", ?", len(all)-1), strings.Join(set, ", ")),
		delete: "DELETE FROM " + name + " WHERE id = ?",
		list:   "SELECT body FROM " + name + " ORDER BY id",
	}
}

var (
	definitions = newLayout("definitions", []string{"id"},
		func(d store.Definition) []any { return []any{d.Fingerprint} })
	groups = newLayout("groups", []string{"id", "fingerprint", "state", "since", "created"},
		func(g store.Group) []any {
			return []any{g.ID, g.Fingerprint, string(g.State), nanos(g.Since), nanos(g.CreatedAt)}
		})
	instances = newLayout("instances", []string{"id", "fingerprint", "state", "group_id", "created", "service_id", "plan_id", "org", "space"},
		func(i store.Instance) []any {
			return []any{i.ID, i.Fingerprint, string(i.State), i.GroupID, nanos(i.CreatedAt), i.ServiceID, i.PlanID, i.OrgGUID, i.SpaceGUID}
		})
	bindings = newLayout("bindings", []string{"id", "instance_id", "state", "created", "expires"},
		func(b store.Binding) []any {
			return []any{b.ID, b.InstanceID, string(b.State), nanos(b.CreatedAt), nanos(b.ExpiresAt)}
		})
	operations = newLayout("operations", []string{"id", "instance_id", "binding_id", "state", "started", "finished"},
		func(o store.Operation) []any {
			return []any{o.ID, o.InstanceID, o.BindingID, string(o.State), nanos(o.StartedAt), nanos(o.FinishedAt)}
		})
)

// nanos since 1970; the zero time is 0.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// table is a store.Table.
type table[T any] struct {
	t *Tx
	l *layout[T]
}

func (t table[T]) Get(id string) (record T, err error) {
	body, err := t.t.body(t.l.get, id, t.key(id))
	switch {
	case err != nil:
		return record, err
	case body == nil:
		return record, store.ErrNotFound
	}
	if err := json.Unmarshal(body, &record); err != nil {
		return record, fmt.Errorf("record in %s: %w", t.l.name, err)
	}
	return record, nil
}

// key names a record among those of all tables.
func (t table[T]) key(id string) string { return t.l.name + "/" + id }

func (t table[T]) Put(record T) error {
	body, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("put into %s: %w", t.l.name, err)
	}
	values := append(t.l.values(record), body)
	if err := t.t.Write(t.l.put, values...); err != nil {
		return err
	}
	t.t.touch(t.key(values[0].(string)))
	return nil
}

func (t table[T]) Delete(id string) error {
	n, err := t.t.Change(t.l.delete, id)
	t.t.touch(t.key(id))
	if err == nil && n == 0 {
		return store.ErrNotFound
	}
	return err
}

func (t table[T]) List() ([]T, error) { return t.all(t.l.list) }

// first returns the first record that the query finds.
func (t table[T]) first(query string, args ...any) (record T, err error) {
	all, err := t.all(query, args...)
	if err == nil && len(all) == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return record, err
	}
	return all[0], nil
}

// all returns the records whose bodies the query selects.
func (t table[T]) all(query string, args ...any) ([]T, error) {
	var records []T
	var body sql.RawBytes
	err := t.t.Rows(func(r *sql.Rows) error {
		if err := r.Scan(&body); err != nil {
			return err
		}
		var record T
		if err := json.Unmarshal(body, &record); err != nil {
			return fmt.Errorf("record in %s: %w", t.l.name, err)
		}
		records = append(records, record)
		return nil
	}, query, args...)
	return records, err
}

// number returns the one number that the query selects.
func (t table[T]) number(query string, args ...any) (n int, err error) {
	err = t.t.Rows(func(r *sql.Rows) error { return r.Scan(&n) }, query, args...)
	return n, err
}

// inState returns the records in a state in the order of their creation. All
// but "ready" have an index.
func (t table[T]) inState(state string) ([]T, error) {
	query := "SELECT body FROM " + t.l.name + " WHERE state = ? AND state <> 'ready' ORDER BY created, id"
	if state == "ready" {
		query = "SELECT body FROM " + t.l.name + " WHERE state = ? ORDER BY created, id"
	}
	return t.all(query, state)
}
