// Package storetest is the conformance suite of the store: what every
// implementation does, whatever it is made of.
package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/remuda/remuda/store"
)

// Factory returns an empty store; the suite closes it.
type Factory func(t *testing.T) store.Store

// Reopenable returns a function that opens the same store each time it is
// called. The suite closes one before it opens the next.
type Reopenable func(t *testing.T) (open func() store.Store)

// Run checks the contract on stores of the factory.
func Run(t *testing.T, f Factory) {
	for name, check := range map[string]func(*testing.T, store.Store){
		"definitions":         definitions,
		"groups":              groups,
		"instances":           instances,
		"bindings":            bindings,
		"operations":          operations,
		"strange ids":         strangeIDs,
		"big records":         bigRecords,
		"rollback":            rollback,
		"rollback of one":     rollbackOfOne,
		"view is a snapshot":  snapshot,
		"view does not write": readOnly,
		"claim order":         claimOrder,
		"claims exclude":      claimsExclude,
		"counters add up":     countersAddUp,
		"instance counts":     instanceCounts,
		"lost updates":        lostUpdates,
		"cancellation":        cancellation,
		"panic":               panics,
		"goexit":              goexits,
		"group lookups":       groupLookups,
		"waiting":             waiting,
		"pages":               pages,
		"latest operation":    latest,
		"old operations":      oldOperations,
		"audit":               audit,
		"audit chain":         auditChain,
		"old audit":           oldAudit,
		"closed":              closed,
	} {
		t.Run(name, func(t *testing.T) {
			s := f(t)
			t.Cleanup(func() { s.Close() })
			check(t, s)
		})
	}
}

// RunReopen checks what must outlive a store value.
func RunReopen(t *testing.T, f Reopenable) {
	open := f(t)
	s := open()
	g := group("g1", "f", store.GroupWarm, 1)
	o := store.Operation{ID: "o", Kind: store.OpBind, State: store.OpFailed, InstanceID: "i", BindingID: "b", Description: "why", StartedAt: at(1), FinishedAt: at(2)}
	update(t, s, func(tx store.Tx) error {
		return first(
			tx.Definitions().Put(store.Definition{Fingerprint: "f", Body: []byte(`{"a":1}`), CreatedAt: at(1)}),
			tx.Groups().Put(g),
			tx.Instances().Put(store.Instance{ID: "i", Fingerprint: "f", State: store.InstanceCreating, CreatedAt: at(1)}),
			tx.Bindings().Put(store.Binding{ID: "b", InstanceID: "i", State: store.BindingCreating, Sealed: []byte{0, 1, 255}, CreatedAt: at(1)}),
			tx.Operations().Put(o),
			errorOf(tx.Audit().Append(auditRecord("i", 1))),
		)
	})
	for range 3 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open()
		view(t, s, func(tx store.Tx) error {
			d, err := tx.Definitions().Get("f")
			same(t, "definition", string(d.Body), `{"a":1}`, err)
			got, err := tx.Groups().Get("g1")
			same(t, "group", got, g, err)
			n, err := tx.Groups().Count("f")
			same(t, "count", n, map[store.GroupState]int{store.GroupWarm: 1}, err)
			w, err := tx.Instances().CountWaiting("f")
			same(t, "waiting", w, 1, err)
			b, err := tx.Bindings().Get("b")
			same(t, "sealed", b.Sealed, []byte{0, 1, 255}, err)
			last, err := tx.Operations().Latest("i", "b")
			same(t, "operation", last, o, err)
			audit, err := tx.Audit().Page(store.AuditQuery{Limit: 5})
			same(t, "audit", seqs(audit), []int64{1}, err)
			return nil
		})
	}
	s.Close()
}

// at is a time in the suite's own calendar.
func at(second int) time.Time {
	return time.Date(2020, 1, 1, 0, 0, second, 123456789, time.UTC)
}

func group(id, fingerprint string, s store.GroupState, since int) store.Group {
	return store.Group{ID: id, Fingerprint: fingerprint, State: s, Generation: 1, CreatedAt: at(since), Since: at(since),
		Endpoints: []store.Endpoint{{Name: "main", Host: "h", Port: 1}}}
}

func update(t *testing.T, s store.Store, fn func(store.Tx) error) {
	t.Helper()
	if err := s.Update(context.Background(), fn); err != nil {
		t.Fatalf("update: %v", err)
	}
}

func view(t *testing.T, s store.Store, fn func(store.Tx) error) {
	t.Helper()
	if err := s.View(context.Background(), fn); err != nil {
		t.Fatalf("view: %v", err)
	}
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func errorOf[T any](_ T, err error) error { return err }
