package sqlite

import (
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/remuda/remuda/store"
)

func (t *tx) Audit() store.Audit { return auditTable{t} }

type auditTable struct{ t *tx }

const (
	auditLast   = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1"
	auditPage   = "SELECT body, hash FROM audit WHERE seq < ? ORDER BY seq DESC LIMIT ?"
	auditOf     = "SELECT body, hash FROM audit WHERE instance_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
	auditRemove = "DELETE FROM audit WHERE time < ? AND seq IN (SELECT seq FROM audit WHERE seq < (SELECT max(seq) FROM audit) ORDER BY seq LIMIT ?)"
)

func (a auditTable) Append(r store.AuditRecord) (store.AuditRecord, error) {
	if a.t.readOnly {
		return r, errReadOnly
	}
	last, err := a.last()
	if err != nil {
		return r, err
	}
	r, body, err := r.Chain(last)
	if err != nil {
		return r, err
	}
	hash, err := hex.DecodeString(r.Hash)
	if err != nil {
		return r, err
	}
	_, err = a.t.exec("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", r.Seq, r.InstanceID, nanos(r.Time), hash, body)
	if err == nil {
		a.t.c.auditHead = &r
	}
	return r, err
}

// last is the newest record, as far as a chain needs it. The only connection
// that writes remembers what it wrote, until something of it is undone.
func (a auditTable) last() (last store.AuditRecord, err error) {
	if a.t.c.auditHead != nil {
		return *a.t.c.auditHead, nil
	}
	var hash []byte
	err = a.t.rows(func(r *sql.Rows) error { return r.Scan(&last.Seq, &hash) }, auditLast)
	last.Hash = hex.EncodeToString(hash)
	return last, err
}

// Page stops at the first record that is too old, since times follow the order
// of records but for steps of the clock.
func (a auditTable) Page(q store.AuditQuery) ([]store.AuditRecord, error) {
	if q.Before <= 0 {
		q.Before = math.MaxInt64
	}
	query, args := auditPage, []any{q.Before, max(q.Limit, 0)}
	if q.InstanceID != "" {
		query, args = auditOf, []any{q.InstanceID, q.Before, max(q.Limit, 0)}
	}
	var page []store.AuditRecord
	old := false
	var body, hash sql.RawBytes
	err := a.t.rows(func(rows *sql.Rows) error {
		if err := rows.Scan(&body, &hash); err != nil || old {
			return err
		}
		var r store.AuditRecord
		if err := json.Unmarshal(body, &r); err != nil {
			return fmt.Errorf("audit record: %w", err)
		}
		r.Hash = hex.EncodeToString(hash)
		if old = r.Time.Before(q.Since); !old {
			page = append(page, r)
		}
		return nil
	}, query, args...)
	return page, err
}

func (a auditTable) RemoveBefore(t time.Time, limit int) (int, error) {
	return a.t.exec(auditRemove, nanos(t), max(limit, 0))
}
