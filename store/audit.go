package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Audit is the record of who changed what. Nothing in it can be changed; what
// is old can be removed from its beginning.
type Audit interface {
	// Append puts the record behind all others. It sets Seq, Previous and Hash,
	// and returns the record with them.
	Append(AuditRecord) (AuditRecord, error)
	// Page returns records that the query asks for, the newest first.
	Page(AuditQuery) ([]AuditRecord, error)
	// RemoveBefore removes up to limit of the oldest records, as far as they are
	// from before t, and says how many. The newest record stays in any case: the
	// next one is chained to it.
	RemoveBefore(t time.Time, limit int) (int, error)
}

// AuditQuery says which records are wanted; a zero field is any.
type AuditQuery struct {
	InstanceID string
	Since      time.Time // not from before it
	Before     int64     // Seq is less; for the next page
	Limit      int       // at most so many
}

// AuditRecord says who asked for a change, and what became of it. It holds no
// parameters, no credentials, and no text that a client has chosen but ids and
// the originating identity.
type AuditRecord struct {
	Seq         int64           `json:"seq"` // 1, 2, 3 … without a gap
	Time        time.Time       `json:"time"`
	RequestID   string          `json:"request_id,omitempty"`
	User        string          `json:"user,omitempty"`      // of basic authentication
	Address     string          `json:"address,omitempty"`   // of the client or the last proxy
	Forwarded   string          `json:"forwarded,omitempty"` // X-Forwarded-For, which a client can make up
	Platform    string          `json:"platform,omitempty"`  // of the originating identity
	Identity    json.RawMessage `json:"identity,omitempty"`  // its JSON object
	Operation   string          `json:"operation"`           // an OperationKind
	InstanceID  string          `json:"instance_id,omitempty"`
	BindingID   string          `json:"binding_id,omitempty"`
	ServiceID   string          `json:"service_id,omitempty"`
	PlanID      string          `json:"plan_id,omitempty"`
	OperationID string          `json:"operation_id,omitempty"` // of asynchronous work: the same when it began and ended
	Status      int             `json:"status,omitempty"`       // of the HTTP answer; 0 for the end of asynchronous work
	Code        string          `json:"code,omitempty"`         // kind of refusal or failure
	Result      string          `json:"result"`                 // one word
	Previous    string          `json:"previous"`               // Hash of the record before; "" for the first
	Hash        string          `json:"hash,omitempty"`         // SHA-256 of the JSON form without Hash, in hex
}

// Chain makes the record the next one after last (the zero record for the
// first), and returns it with its JSON form without Hash.
func (r AuditRecord) Chain(last AuditRecord) (AuditRecord, []byte, error) {
	r.Seq, r.Previous, r.Hash = last.Seq+1, last.Hash, ""
	r.Time = r.Time.UTC()
	body, err := json.Marshal(r)
	if err != nil {
		return r, nil, fmt.Errorf("write audit record: %w", err)
	}
	sum := sha256.Sum256(body)
	r.Hash = hex.EncodeToString(sum[:])
	return r, body, nil
}

// AuditVerifier checks that records are as they were written and that none is
// missing between two of them. It cannot know whether the newest ones are
// missing: note the last hash elsewhere for that.
type AuditVerifier struct {
	Newest AuditRecord // the first that was checked
	Oldest AuditRecord // the last that was checked
}

// Check takes the records one after the other, the newest first.
func (v *AuditVerifier) Check(r AuditRecord) error {
	sealed, _, err := r.Chain(AuditRecord{Seq: r.Seq - 1, Hash: r.Previous})
	switch {
	case err != nil:
		return err
	case sealed.Hash != r.Hash:
		return fmt.Errorf("audit record %d was changed", r.Seq)
	case v.Oldest.Seq == 0:
		v.Newest = r
	case v.Oldest.Seq != r.Seq+1 || v.Oldest.Previous != r.Hash:
		return fmt.Errorf("between audit records %d and %d something is missing or was changed", r.Seq, v.Oldest.Seq)
	}
	v.Oldest = r
	return nil
}
