package sqlstore

import (
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/remuda/remuda/store"
)

func (t *Tx) Audit() store.Audit { return auditTable{t} }

type auditTable struct{ t *Tx }

// Queries of audit records.
const (
	AuditPage   = "SELECT body, hash FROM audit WHERE seq < ? ORDER BY seq DESC LIMIT ?"
	AuditOf     = "SELECT body, hash FROM audit WHERE instance_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
	AuditRemove = "DELETE FROM audit WHERE time < ? AND seq IN (SELECT seq FROM audit WHERE seq < (SELECT max(seq) FROM audit) ORDER BY seq LIMIT ?)"
)

func (a auditTable) Append(r store.AuditRecord) (store.AuditRecord, error) {
	if a.t.readOnly {
		return r, errReadOnly
	}
	a.t.begin()
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
	err = a.t.Write("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", r.Seq, r.InstanceID, nanos(r.Time), Hash(hash), body)
	if err == nil {
		a.t.memory.head = &r
	}
	return r, err
}

// Hash is a value that is no text.
type Hash []byte

// AuditLast finds the newest record, as far as a chain needs it.
const AuditLast = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1"

// last is the newest record, which is remembered as long as nobody else can
// write another.
func (a auditTable) last() (store.AuditRecord, error) {
	if a.t.memory.head != nil {
		return *a.t.memory.head, nil
	}
	var seq int64
	var hash []byte
	err := a.t.Rows(func(r *sql.Rows) error { return r.Scan(&seq, &hash) }, AuditLast)
	return *newHead(seq, hash), err
}

func newHead(seq int64, hash []byte) *store.AuditRecord {
	return &store.AuditRecord{Seq: seq, Hash: hex.EncodeToString(hash)}
}

// Page stops at the first record that is too old, since times follow the order
// of records but for steps of the clock.
func (a auditTable) Page(q store.AuditQuery) ([]store.AuditRecord, error) {
	if q.Before <= 0 {
		q.Before = math.MaxInt64
	}
	query, args := AuditPage, []any{q.Before, max(q.Limit, 0)}
	if q.InstanceID != "" {
		query, args = AuditOf, []any{q.InstanceID, q.Before, max(q.Limit, 0)}
	}
	var page []store.AuditRecord
	old := false
	var body, hash sql.RawBytes
	err := a.t.Rows(func(rows *sql.Rows) error {
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
	return a.t.Change(AuditRemove, nanos(t), max(limit, 0))
}
