package sqlite

import (
	"database/sql"
	"encoding/json"
	"time"

	"github.com/remuda/remuda/store"
)

func (t *tx) Definitions() store.Table[store.Definition] {
	return table[store.Definition]{t, definitions}
}
func (t *tx) Groups() store.Groups { return groupTable{table[store.Group]{t, groups}} }
func (t *tx) Instances() store.Instances {
	return instanceTable{table[store.Instance]{t, instances}}
}
func (t *tx) Bindings() store.Bindings { return bindingTable{table[store.Binding]{t, bindings}} }
func (t *tx) Operations() store.Operations {
	return operationTable{table[store.Operation]{t, operations}}
}

type groupTable struct{ table[store.Group] }

func (t groupTable) ClaimWarm(fingerprint, instanceID string, now time.Time) (store.Group, error) {
	if t.t.readOnly {
		return store.Group{}, errReadOnly
	}
	g, err := t.first("SELECT body FROM groups WHERE fingerprint = ? AND state = 'warm' ORDER BY since, id LIMIT 1", fingerprint)
	if err != nil {
		return store.Group{}, err
	}
	g.State, g.InstanceID, g.Since = store.GroupClaimed, instanceID, now
	body, err := json.Marshal(g)
	if err != nil {
		return store.Group{}, err
	}
	// Not Put: this leaves alone the indexes whose columns do not change.
	_, err = t.t.exec("UPDATE groups SET state = 'claimed', since = ?, body = ? WHERE id = ?", nanos(now), body, g.ID)
	return g, err
}

func (t groupTable) Of(fingerprint string) ([]store.Group, error) {
	return t.all("SELECT body FROM groups WHERE fingerprint = ? ORDER BY created, id", fingerprint)
}

func (t groupTable) Count(fingerprint string) (map[store.GroupState]int, error) {
	counts := map[store.GroupState]int{}
	err := t.t.rows(func(r *sql.Rows) error {
		var state string
		var n int
		err := r.Scan(&state, &n)
		counts[store.GroupState(state)] = n
		return err
	}, "SELECT state, n FROM group_counts WHERE fingerprint = ? AND n > 0", fingerprint)
	return counts, err
}

type instanceTable struct{ table[store.Instance] }

const waiting = "fingerprint = ? AND state = 'creating' AND group_id = ''"

func (t instanceTable) Waiting(fingerprint string, limit int) ([]store.Instance, error) {
	return t.all("SELECT body FROM instances WHERE "+waiting+" ORDER BY created, id LIMIT ?", fingerprint, max(limit, 0))
}

func (t instanceTable) CountWaiting(fingerprint string) (int, error) {
	return t.number("SELECT count(*) FROM instances WHERE "+waiting, fingerprint)
}

func (t instanceTable) InState(s store.InstanceState) ([]store.Instance, error) {
	return t.inState(string(s))
}

func (t instanceTable) Page(after string, limit int) ([]store.Instance, error) {
	return t.all("SELECT body FROM instances WHERE id > ? ORDER BY id LIMIT ?", after, max(limit, 0))
}

const countIn = "SELECT coalesce(sum(n), 0) FROM instance_counts WHERE "

func (t instanceTable) CountIn(s store.InstanceScope) (int, error) {
	where, args := "level = 0 AND org = '' AND space = ''", []any(nil)
	if s.OrgGUID != "" {
		where, args = "level = 1 AND org = ?", []any{s.OrgGUID}
		if s.SpaceGUID != "" {
			where, args = where+" AND space = ?", append(args, s.SpaceGUID)
		}
	}
	if s.ServiceID != "" {
		where, args = where+" AND service_id = ?", append(args, s.ServiceID)
		if s.PlanID != "" {
			where, args = where+" AND plan_id = ?", append(args, s.PlanID)
		}
	}
	return t.number(countIn+where, args...)
}

type bindingTable struct{ table[store.Binding] }

func (t bindingTable) Of(instanceID string) ([]store.Binding, error) {
	return t.all("SELECT body FROM bindings WHERE instance_id = ? ORDER BY created, id", instanceID)
}

func (t bindingTable) InState(s store.BindingState) ([]store.Binding, error) {
	return t.inState(string(s))
}

func (t bindingTable) Expiring(before time.Time, limit int) ([]store.Binding, error) {
	return t.all("SELECT body FROM bindings WHERE expires > 0 AND expires < ? AND state = 'ready' ORDER BY expires, id LIMIT ?",
		nanos(before), max(limit, 0))
}

type operationTable struct{ table[store.Operation] }

func (t operationTable) Latest(instanceID, bindingID string) (store.Operation, error) {
	return t.first("SELECT body FROM operations WHERE instance_id = ? AND binding_id = ? ORDER BY started DESC, seq DESC LIMIT 1",
		instanceID, bindingID)
}

func (t operationTable) Running() ([]store.Operation, error) {
	return t.all("SELECT body FROM operations WHERE state = 'in progress' ORDER BY started, seq")
}

func (t operationTable) DeleteFinishedBefore(before time.Time) (int, error) {
	return t.t.exec("DELETE FROM operations WHERE state <> 'in progress' AND finished < ?", nanos(before))
}
