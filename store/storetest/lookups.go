package storetest

import (
	"fmt"
	"testing"

	"github.com/remuda/remuda/store"
)

func ids[T any](records []T, id func(T) string) []string {
	out := []string{}
	for _, r := range records {
		out = append(out, id(r))
	}
	return out
}

func groupIDs(g []store.Group) []string { return ids(g, func(g store.Group) string { return g.ID }) }
func instanceIDs(i []store.Instance) []string {
	return ids(i, func(i store.Instance) string { return i.ID })
}
func operationIDs(o []store.Operation) []string {
	return ids(o, func(o store.Operation) string { return o.ID })
}

func groupLookups(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error {
		return first(
			tx.Groups().Put(group("old", "f", store.GroupWarm, 1)),
			tx.Groups().Put(group("new", "f", store.GroupCreating, 9)),
			tx.Groups().Put(group("mid", "f", store.GroupClaimed, 5)),
			tx.Groups().Put(group("mid2", "f", store.GroupClaimed, 5)),
			tx.Groups().Put(group("other", "f2", store.GroupWarm, 0)),
		)
	})
	view(t, s, func(tx store.Tx) error {
		of, err := tx.Groups().Of("f")
		same(t, "of", groupIDs(of), []string{"old", "mid", "mid2", "new"}, err)
		of, err = tx.Groups().Of("none")
		same(t, "of none", len(of), 0, err)
		n, err := tx.Groups().Count("f")
		same(t, "count", n, map[store.GroupState]int{store.GroupWarm: 1, store.GroupCreating: 1, store.GroupClaimed: 2}, err)
		n, err = tx.Groups().Count("none")
		same(t, "count none", len(n), 0, err)
		return nil
	})
}

// countersAddUp: Count agrees with Of whatever was done, also what was undone.
func countersAddUp(t *testing.T, s store.Store) {
	check := func(when string) {
		t.Helper()
		view(t, s, func(tx store.Tx) error {
			for _, f := range []string{"f", "f2"} {
				of, err := tx.Groups().Of(f)
				want := map[store.GroupState]int{}
				for _, g := range of {
					want[g.State]++
				}
				same(t, when, len(of) >= 0, true, err)
				n, err := tx.Groups().Count(f)
				same(t, when+" "+f, n, want, err)
			}
			return nil
		})
	}
	for i := range 6 {
		update(t, s, func(tx store.Tx) error { return tx.Groups().Put(group(fmt.Sprint(i), "f", store.GroupWarm, i)) })
	}
	check("put")
	update(t, s, func(tx store.Tx) error { _, err := tx.Groups().ClaimWarm("f", "i", at(9)); return err })
	check("claimed")
	update(t, s, func(tx store.Tx) error { return tx.Groups().Put(group("1", "f2", store.GroupWarm, 1)) })
	check("moved to another definition")
	update(t, s, func(tx store.Tx) error { return tx.Groups().Put(group("2", "f", store.GroupWarm, 77)) })
	check("put again")
	update(t, s, func(tx store.Tx) error { return tx.Groups().Delete("3") })
	check("deleted")
	_ = s.Update(t.Context(), func(tx store.Tx) error {
		return first(tx.Groups().Delete("4"), tx.Groups().Put(group("9", "f", store.GroupClosing, 1)), fmt.Errorf("no"))
	})
	check("undone")
}

func waiting(t *testing.T, s store.Store) {
	i := func(id, f string, st store.InstanceState, g string, created int) store.Instance {
		return store.Instance{ID: id, Fingerprint: f, State: st, GroupID: g, CreatedAt: at(created)}
	}
	update(t, s, func(tx store.Tx) error {
		return first(
			tx.Instances().Put(i("late", "f", store.InstanceCreating, "", 9)),
			tx.Instances().Put(i("early", "f", store.InstanceCreating, "", 1)),
			tx.Instances().Put(i("given", "f", store.InstanceCreating, "g", 0)),
			tx.Instances().Put(i("ready", "f", store.InstanceReady, "g2", 0)),
			tx.Instances().Put(i("failed", "f", store.InstanceFailed, "", 0)),
			tx.Instances().Put(i("other", "f2", store.InstanceCreating, "", 0)),
		)
	})
	view(t, s, func(tx store.Tx) error {
		w, err := tx.Instances().Waiting("f", 10)
		same(t, "waiting", instanceIDs(w), []string{"early", "late"}, err)
		w, err = tx.Instances().Waiting("f", 1)
		same(t, "first waiting", instanceIDs(w), []string{"early"}, err)
		w, err = tx.Instances().Waiting("f", 0)
		same(t, "limit 0", instanceIDs(w), []string{}, err)
		n, err := tx.Instances().CountWaiting("f")
		same(t, "count", n, 2, err)
		w, err = tx.Instances().InState(store.InstanceCreating)
		same(t, "creating", instanceIDs(w), []string{"given", "other", "early", "late"}, err)
		w, err = tx.Instances().InState(store.InstanceReady)
		same(t, "ready", instanceIDs(w), []string{"ready"}, err)
		return nil
	})
	update(t, s, func(tx store.Tx) error { return tx.Instances().Put(i("early", "f", store.InstanceCreating, "g3", 1)) })
	view(t, s, func(tx store.Tx) error {
		n, err := tx.Instances().CountWaiting("f")
		same(t, "count after one was given a group", n, 1, err)
		return nil
	})
}

func pages(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error {
		for n := range 7 {
			if err := tx.Instances().Put(store.Instance{ID: fmt.Sprintf("i%d", n), State: store.InstanceReady, CreatedAt: at(9 - n)}); err != nil {
				return err
			}
		}
		return nil
	})
	view(t, s, func(tx store.Tx) error {
		var got []string
		after := ""
		for {
			page, err := tx.Instances().Page(after, 3)
			if err != nil {
				return err
			}
			if len(page) == 0 {
				break
			}
			got = append(got, instanceIDs(page)...)
			after = page[len(page)-1].ID
		}
		same(t, "pages", got, []string{"i0", "i1", "i2", "i3", "i4", "i5", "i6"}, nil)
		return nil
	})
}

// instanceCounts: CountIn agrees with List whatever was done, also what was
// undone.
func instanceCounts(t *testing.T, s store.Store) {
	i := func(id, org, space, service, plan string) store.Instance {
		return store.Instance{ID: id, OrgGUID: org, SpaceGUID: space, ServiceID: service, PlanID: plan, State: store.InstanceReady, CreatedAt: at(1)}
	}
	any := func(want, have string) bool { return want == "" || want == have }
	check := func(when string) {
		t.Helper()
		view(t, s, func(tx store.Tx) error {
			all, err := tx.Instances().List()
			for _, scope := range []store.InstanceScope{
				{}, {ServiceID: "s"}, {ServiceID: "s", PlanID: "p"}, {ServiceID: "s", PlanID: "q"}, {ServiceID: "none"},
				{OrgGUID: "o"}, {OrgGUID: "o2"}, {OrgGUID: "o", ServiceID: "s"}, {OrgGUID: "o", ServiceID: "s", PlanID: "p"},
				{OrgGUID: "o", SpaceGUID: "x"}, {OrgGUID: "o2", SpaceGUID: "x"}, {OrgGUID: "o", SpaceGUID: "x", ServiceID: "s", PlanID: "p"},
			} {
				want := 0
				for _, inst := range all {
					if any(scope.OrgGUID, inst.OrgGUID) && any(scope.SpaceGUID, inst.SpaceGUID) && any(scope.ServiceID, inst.ServiceID) && any(scope.PlanID, inst.PlanID) {
						want++
					}
				}
				n, countErr := tx.Instances().CountIn(scope)
				same(t, fmt.Sprintf("%s: %+v", when, scope), n, want, first(err, countErr))
			}
			return nil
		})
	}
	check("empty")
	update(t, s, func(tx store.Tx) error {
		return first(
			tx.Instances().Put(i("1", "o", "x", "s", "p")), tx.Instances().Put(i("2", "o", "x", "s", "p")),
			tx.Instances().Put(i("3", "o", "y", "s", "q")), tx.Instances().Put(i("4", "o2", "x", "s2", "p2")),
			tx.Instances().Put(i("5", "", "", "s", "p")),
		)
	})
	check("put")
	update(t, s, func(tx store.Tx) error {
		failed := i("1", "o", "x", "s", "p")
		failed.State = store.InstanceFailed
		return tx.Instances().Put(failed)
	})
	check("failed")
	update(t, s, func(tx store.Tx) error { return tx.Instances().Put(i("2", "o", "x", "s", "q")) })
	check("another plan")
	update(t, s, func(tx store.Tx) error { return first(tx.Instances().Delete("3"), tx.Instances().Delete("4")) })
	check("deleted")
	_ = s.Update(t.Context(), func(tx store.Tx) error {
		return first(tx.Instances().Delete("1"), tx.Instances().Put(i("9", "o", "x", "s", "p")), fmt.Errorf("no"))
	})
	check("undone")
	update(t, s, func(tx store.Tx) error { return tx.Instances().Put(i("4", "o2", "x", "s", "p")) })
	check("made again")
}

func operation(id, instance, binding string, st store.OperationState, started int) store.Operation {
	return store.Operation{ID: id, Kind: store.OpProvision, State: st, InstanceID: instance, BindingID: binding, StartedAt: at(started)}
}

func latest(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error {
		_, err := tx.Operations().Latest("i", "")
		notFound(t, "latest of nothing", err)
		return first(
			tx.Operations().Put(operation("3", "i", "", store.OpSucceeded, 1)),
			tx.Operations().Put(operation("2", "i", "", store.OpInProgress, 5)),
			tx.Operations().Put(operation("1", "i", "", store.OpFailed, 3)),
			tx.Operations().Put(operation("4", "i", "b", store.OpInProgress, 9)),
			tx.Operations().Put(operation("5", "j", "", store.OpInProgress, 8)),
			// At the same time: the one that came later is newer.
			tx.Operations().Put(operation("y", "k", "", store.OpFailed, 1)),
			tx.Operations().Put(operation("x", "k", "", store.OpFailed, 1)),
		)
	})
	view(t, s, func(tx store.Tx) error {
		for _, c := range []struct{ instance, binding, want string }{{"i", "", "2"}, {"i", "b", "4"}, {"j", "", "5"}, {"k", "", "x"}} {
			o, err := tx.Operations().Latest(c.instance, c.binding)
			same(t, "latest", o.ID, c.want, err)
		}
		_, err := tx.Operations().Latest("j", "b")
		notFound(t, "latest of another binding", err)
		r, err := tx.Operations().Running()
		same(t, "running", operationIDs(r), []string{"2", "5", "4"}, err)
		return nil
	})
}

func oldOperations(t *testing.T, s store.Store) {
	end := func(o store.Operation, finished int) store.Operation {
		o.FinishedAt = at(finished)
		return o
	}
	update(t, s, func(tx store.Tx) error {
		return first(
			tx.Operations().Put(end(operation("old", "i", "", store.OpSucceeded, 1), 2)),
			tx.Operations().Put(end(operation("old2", "i", "", store.OpFailed, 1), 3)),
			tx.Operations().Put(end(operation("new", "i", "", store.OpSucceeded, 1), 5)),
			tx.Operations().Put(operation("running", "i", "", store.OpInProgress, 0)),
		)
	})
	update(t, s, func(tx store.Tx) error {
		n, err := tx.Operations().DeleteFinishedBefore(at(5))
		same(t, "deleted", n, 2, err)
		return err
	})
	view(t, s, func(tx store.Tx) error {
		all, err := tx.Operations().List()
		same(t, "left", operationIDs(all), []string{"new", "running"}, err)
		return nil
	})
}
