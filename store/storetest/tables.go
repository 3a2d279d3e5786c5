package storetest

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/remuda/remuda/store"
)

// same compares by the JSON form: that is what a store keeps.
func same(t *testing.T, what string, got, want any, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if !reflect.DeepEqual(g, w) {
		t.Errorf("%s\n got %s\nwant %s", what, g, w)
	}
}

func notFound(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%s: got %v, want ErrNotFound", what, err)
	}
}

// crud checks one table with two records a and b (ids in that order), and
// other, which replaces a.
func crud[T any](t *testing.T, s store.Store, table func(store.Tx) store.Table[T], ids [2]string, a, b, other T) {
	t.Helper()
	update(t, s, func(tx store.Tx) error {
		all, err := table(tx).List()
		same(t, "empty list", len(all), 0, err)
		_, err = table(tx).Get(ids[0])
		notFound(t, "get of nothing", err)
		notFound(t, "delete of nothing", table(tx).Delete(ids[0]))
		if err := first(table(tx).Put(b), table(tx).Put(a)); err != nil {
			return err
		}
		got, err := table(tx).Get(ids[0])
		same(t, "own write", got, a, err)
		return nil
	})
	view(t, s, func(tx store.Tx) error {
		got, err := table(tx).Get(ids[0])
		same(t, "get", got, a, err)
		all, err := table(tx).List()
		same(t, "list", all, []T{a, b}, err)
		return nil
	})
	update(t, s, func(tx store.Tx) error { return table(tx).Put(other) })
	view(t, s, func(tx store.Tx) error {
		all, err := table(tx).List()
		same(t, "list after replacing", all, []T{other, b}, err)
		return nil
	})
	update(t, s, func(tx store.Tx) error { return table(tx).Delete(ids[1]) })
	view(t, s, func(tx store.Tx) error {
		_, err := table(tx).Get(ids[1])
		notFound(t, "get of deleted", err)
		all, err := table(tx).List()
		same(t, "list after deleting", all, []T{other}, err)
		return nil
	})
}

func definitions(t *testing.T, s store.Store) {
	a := store.Definition{Fingerprint: "a", Offering: "mysql", Plan: "small", Body: []byte(`{"z":[1,2.50,"<&>"],"a":null}`), CreatedAt: at(1)}
	b := store.Definition{Fingerprint: "b", Body: []byte(`{}`), CreatedAt: at(1)}
	other := a
	other.Plan = "large"
	crud(t, s, func(tx store.Tx) store.Table[store.Definition] { return tx.Definitions() }, [2]string{"a", "b"}, a, b, other)
}

func groups(t *testing.T, s store.Store) {
	a := group("a", "f", store.GroupClaimed, 5)
	a.InstanceID, a.Reason, a.ReturnedAt = "i", "why", at(3)
	a.Endpoints = []store.Endpoint{{Name: "x", Host: "::1", Port: 65535, Count: 3}, {Name: "y"}}
	other := group("a", "f2", store.GroupWarm, 6)
	crud(t, s, func(tx store.Tx) store.Table[store.Group] { return tx.Groups() }, [2]string{"a", "b"},
		a, group("b", "f", store.GroupCreating, 1), other)
}

func instances(t *testing.T, s store.Store) {
	a := store.Instance{ID: "a", ServiceID: "s", PlanID: "p", Fingerprint: "f", State: store.InstanceReady, GroupID: "g", Prepared: true,
		OrgGUID: "o", SpaceGUID: "sp", Context: []byte(`{"platform":"x"}`), Sealed: []byte{0, 255, 1}, Digest: "d", DashboardURL: "http://x/?a=1&b=2", CreatedAt: at(1)}
	other := a
	other.State, other.Sealed, other.GroupID = store.InstanceFailed, nil, ""
	crud(t, s, func(tx store.Tx) store.Table[store.Instance] { return tx.Instances() }, [2]string{"a", "b"},
		a, store.Instance{ID: "b", State: store.InstanceCreating, CreatedAt: at(2)}, other)
}

func bindings(t *testing.T, s store.Store) {
	a := store.Binding{ID: "a", InstanceID: "i", State: store.BindingReady, Username: "u", Sealed: []byte{1}, AppGUID: "app", CreatedAt: at(1)}
	b := store.Binding{ID: "b", InstanceID: "i", State: store.BindingDeleting, CreatedAt: at(0)}
	other := a
	other.State = store.BindingDeleting
	update(t, s, func(tx store.Tx) error { return first(tx.Bindings().Put(a), tx.Bindings().Put(b)) })
	view(t, s, func(tx store.Tx) error {
		of, err := tx.Bindings().Of("i")
		same(t, "of", of, []store.Binding{b, a}, err)
		of, err = tx.Bindings().Of("j")
		same(t, "of another", len(of), 0, err)
		in, err := tx.Bindings().InState(store.BindingReady)
		same(t, "ready", in, []store.Binding{a}, err)
		in, err = tx.Bindings().InState(store.BindingDeleting)
		same(t, "deleting", in, []store.Binding{b}, err)
		return nil
	})
	update(t, s, func(tx store.Tx) error { return first(tx.Bindings().Delete("a"), tx.Bindings().Delete("b")) })
	crud(t, s, func(tx store.Tx) store.Table[store.Binding] { return tx.Bindings() }, [2]string{"a", "b"}, a, b, other)
}

func operations(t *testing.T, s store.Store) {
	a := store.Operation{ID: "a", Kind: store.OpProvision, State: store.OpInProgress, InstanceID: "i", ServiceID: "s", PlanID: "p", StartedAt: at(1)}
	other := a
	other.State, other.Description, other.FinishedAt = store.OpSucceeded, "done", at(2)
	crud(t, s, func(tx store.Tx) store.Table[store.Operation] { return tx.Operations() }, [2]string{"a", "b"},
		a, store.Operation{ID: "b", BindingID: "x", StartedAt: at(2)}, other)
}

func strangeIDs(t *testing.T, s store.Store) {
	ids := []string{"'", `"`, `\`, "%", "_", "a'; DROP TABLE instances; --", "ä", "日本", "\u200b", " ", "a/b?c#d", "{{.}}",
		"A", "a", strings.Repeat("long", 1000), "null", "0", "00"}
	update(t, s, func(tx store.Tx) error {
		for _, id := range ids {
			if err := tx.Instances().Put(store.Instance{ID: id, Fingerprint: id, State: store.InstanceCreating, CreatedAt: at(1)}); err != nil {
				return err
			}
		}
		return nil
	})
	view(t, s, func(tx store.Tx) error {
		for _, id := range ids {
			got, err := tx.Instances().Get(id)
			same(t, "get", got.ID, id, err)
			w, err := tx.Instances().Waiting(id, 10)
			same(t, "waiting", len(w), 1, err)
		}
		all, err := tx.Instances().List()
		var got []string
		for _, i := range all {
			got = append(got, i.ID)
		}
		slices.Sort(ids) // by bytes
		same(t, "order", got, ids, err)
		return nil
	})
}

func bigRecords(t *testing.T, s store.Store) {
	i := store.Instance{ID: "big", State: store.InstanceReady, CreatedAt: at(1)}
	i.Sealed = make([]byte, 1<<20)
	for n := range i.Sealed {
		i.Sealed[n] = byte(n * 7)
	}
	update(t, s, func(tx store.Tx) error { return tx.Instances().Put(i) })
	view(t, s, func(tx store.Tx) error {
		got, err := tx.Instances().Get("big")
		same(t, "big record", got, i, err)
		return nil
	})
}
