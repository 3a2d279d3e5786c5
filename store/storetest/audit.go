package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remuda/remuda/store"
)

func auditRecord(instance string, second int) store.AuditRecord {
	return store.AuditRecord{Time: at(second), RequestID: "r", User: "u", Address: "::1", Forwarded: "1.2.3.4", Platform: "cloudfoundry",
		Identity: []byte(`{"n":1.50,"user":"<a>&é\u0000"}`), Operation: "provision", InstanceID: instance, BindingID: "b", ServiceID: "s", PlanID: "p",
		OperationID: "o", Status: 422, Code: "refused", Result: "refused"}
}

func seqs(records []store.AuditRecord) []int64 {
	out := []int64{}
	for _, r := range records {
		out = append(out, r.Seq)
	}
	return out
}

func audit(t *testing.T, s store.Store) {
	var written []store.AuditRecord
	for n, instance := range []string{"a", "b", "a", "", "a"} {
		update(t, s, func(tx store.Tx) error {
			r, err := tx.Audit().Append(auditRecord(instance, n))
			written = append(written, r)
			return err
		})
	}
	view(t, s, func(tx store.Tx) error {
		all, err := tx.Audit().Page(store.AuditQuery{Limit: 10})
		want := []store.AuditRecord{}
		for n := range written {
			want = append(want, written[len(written)-1-n])
		}
		same(t, "all", all, want, err)
		for _, c := range []struct {
			q    store.AuditQuery
			want []int64
		}{
			{store.AuditQuery{Limit: 2}, []int64{5, 4}},
			{store.AuditQuery{Limit: 2, Before: 4}, []int64{3, 2}},
			{store.AuditQuery{Limit: 0}, []int64{}},
			{store.AuditQuery{Limit: 9, InstanceID: "a"}, []int64{5, 3, 1}},
			{store.AuditQuery{Limit: 9, InstanceID: "a", Before: 5}, []int64{3, 1}},
			{store.AuditQuery{Limit: 9, Since: at(3)}, []int64{5, 4}},
			{store.AuditQuery{Limit: 9, InstanceID: "a", Since: at(1)}, []int64{5, 3}},
			{store.AuditQuery{Limit: 9, InstanceID: "none"}, []int64{}},
		} {
			got, err := tx.Audit().Page(c.q)
			same(t, fmt.Sprintf("%+v", c.q), seqs(got), c.want, err)
		}
		return nil
	})
	if err := s.View(t.Context(), func(tx store.Tx) error { _, err := tx.Audit().Append(auditRecord("a", 1)); return err }); err == nil {
		t.Error("appended in a View")
	}
}

// auditChain: the chain holds whatever was undone or went on at the same time,
// and what is changed shows.
func auditChain(t *testing.T, s store.Store) {
	var wg sync.WaitGroup
	for n := range 40 {
		wg.Go(func() {
			_ = s.Update(t.Context(), func(tx store.Tx) error {
				if _, err := tx.Audit().Append(auditRecord(fmt.Sprint(n), n)); err != nil || n%4 > 0 {
					return err
				}
				return errors.New("no")
			})
		})
	}
	wg.Wait()
	var all []store.AuditRecord
	view(t, s, func(tx store.Tx) (err error) {
		all, err = tx.Audit().Page(store.AuditQuery{Limit: 100})
		return err
	})
	verify := func(records []store.AuditRecord) error {
		var v store.AuditVerifier
		for _, r := range records {
			if err := v.Check(r); err != nil {
				return err
			}
		}
		return nil
	}
	if err := verify(all); err != nil || len(all) != 30 || all[29].Seq != 1 || all[29].Previous != "" {
		t.Fatalf("%d records, %v", len(all), err)
	}
	changed := append([]store.AuditRecord{}, all...)
	changed[7].InstanceID = "another"
	if err := verify(changed); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("a changed record: %v", err)
	}
	changed[7], _, _ = changed[7].Chain(changed[8]) // with a hash that is right for it
	if err := verify(changed); err == nil {
		t.Error("a changed record with a new hash was not noticed")
	}
	if err := verify(append(append([]store.AuditRecord{}, all[:5]...), all[6:]...)); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a missing record: %v", err)
	}
}

func oldAudit(t *testing.T, s store.Store) {
	remove := func(before time.Time, limit, want int) {
		t.Helper()
		update(t, s, func(tx store.Tx) error {
			n, err := tx.Audit().RemoveBefore(before, limit)
			same(t, "removed", n, want, err)
			return nil
		})
	}
	remove(at(9), 10, 0)
	for n := range 6 {
		update(t, s, func(tx store.Tx) error { _, err := tx.Audit().Append(auditRecord("a", n)); return err })
	}
	remove(at(3), 2, 2)
	remove(at(3), 10, 1)
	remove(at(59), 10, 2) // the newest stays
	remove(at(59), 10, 0)
	update(t, s, func(tx store.Tx) error { _, err := tx.Audit().Append(auditRecord("a", 7)); return err })
	view(t, s, func(tx store.Tx) error {
		left, err := tx.Audit().Page(store.AuditQuery{Limit: 10})
		same(t, "left", seqs(left), []int64{7, 6}, err)
		same(t, "chain", left[0].Previous, left[1].Hash, nil)
		return nil
	})
}
