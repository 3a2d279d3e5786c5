package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/remuda/remuda/store"
)

// Bounds of what clients can make long in an audit record, in bytes.
const (
	maxIdentity       = 4 << 10
	maxIdentityMember = 512
)

// auditCall is a state-changing call on its way through a use case.
type auditCall struct {
	record  store.AuditRecord
	written atomic.Int64 // status in the record that was written with the change, 0 for none
}

type auditKey struct{}

// Audited is the context for a call that changes something. r says who asks
// for what. A use case that makes its change in one transaction writes the
// record with it; Record writes it for all others.
func Audited(ctx context.Context, r store.AuditRecord) context.Context {
	return context.WithValue(ctx, auditKey{}, &auditCall{record: r})
}

// audit writes the record of the call, if it is one of that kind, in the
// transaction that makes its change. status and result are what the answer will
// be unless something fails later.
func audit(ctx context.Context, tx store.Tx, kind store.OperationKind, inst store.Instance, operationID string, status int, result string) error {
	call, ok := ctx.Value(auditKey{}).(*auditCall)
	if !ok || call.record.Operation != string(kind) {
		return nil
	}
	r := call.record
	r.InstanceID, r.ServiceID, r.PlanID = inst.ID, inst.ServiceID, inst.PlanID
	r.OperationID, r.Status, r.Result = operationID, status, result
	call.written.Store(int64(status)) // the answer is another one if this transaction fails
	_, err := tx.Audit().Append(r)
	return err
}

// Record writes how the call of ctx (see Audited) is answered, unless its use
// case has written just that. When it returns nil the record is on disk.
func (b *Broker) Record(ctx context.Context, r store.AuditRecord) error {
	if call, ok := ctx.Value(auditKey{}).(*auditCall); ok && int(call.written.Load()) == r.Status {
		return nil
	}
	ctx, cancel := b.detached(ctx)
	defer cancel()
	err := b.o.Store.Update(ctx, func(tx store.Tx) error {
		_, err := tx.Audit().Append(r)
		return err
	})
	if err != nil {
		return fmt.Errorf("write audit record: %w", err)
	}
	return nil
}

// auditEnd records the end of work that somebody polls for.
func auditEnd(tx store.Tx, op store.Operation) error {
	if !op.Async {
		return nil
	}
	_, err := tx.Audit().Append(store.AuditRecord{
		Time: op.FinishedAt, Operation: string(op.Kind), InstanceID: op.InstanceID, BindingID: op.BindingID,
		ServiceID: op.ServiceID, PlanID: op.PlanID, OperationID: op.ID, Result: string(op.State),
	})
	return err
}

// maxAuditPage is how many records one call of Audit returns at most.
const maxAuditPage = 1000

// Audit returns records of who changed what, the newest first. A limit of 0 or
// too many means as many as there may be in one page.
func (b *Broker) Audit(ctx context.Context, q store.AuditQuery) ([]store.AuditRecord, error) {
	if q.Limit <= 0 || q.Limit > maxAuditPage {
		q.Limit = maxAuditPage
	}
	var page []store.AuditRecord
	err := b.o.Store.View(ctx, func(tx store.Tx) (err error) {
		page, err = tx.Audit().Page(q)
		return err
	})
	return page, failureOrNil(err, "The audit records could not be read.")
}

// forgetAudit removes records that are older than Options.AuditKeep.
func (b *Broker) forgetAudit(ctx context.Context) error {
	for n := maxAuditPage; n == maxAuditPage; {
		err := b.o.Store.Update(ctx, func(tx store.Tx) (err error) {
			n, err = tx.Audit().RemoveBefore(now().Add(-b.o.AuditKeep), maxAuditPage)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// BoundIdentity is the JSON object of an originating identity in one form and
// in bounds: of one that is too long only its short members are kept.
func BoundIdentity(object json.RawMessage) (json.RawMessage, error) {
	m, err := decodeObject(object)
	if err != nil || m == nil {
		return nil, errors.New("not a JSON object")
	}
	whole, err := json.Marshal(m)
	if err != nil || len(whole) <= maxIdentity {
		return whole, err
	}
	kept, size := map[string]any{"truncated": true}, 0
	for _, key := range slices.Sorted(maps.Keys(m)) {
		member, err := json.Marshal(map[string]any{key: m[key]})
		if err != nil {
			return nil, err
		}
		if size += len(member); len(member) > maxIdentityMember || size > maxIdentity-64 {
			size -= len(member)
			continue
		}
		kept[key] = m[key]
	}
	return json.Marshal(kept)
}
