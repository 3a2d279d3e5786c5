package sqlstore

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/remuda/remuda/store"
)

func (t *Tx) Definitions() store.Table[store.Definition] {
	return table[store.Definition]{t, definitions}
}
func (t *Tx) Groups() store.Groups { return groupTable{table[store.Group]{t, groups}} }
func (t *Tx) Instances() store.Instances {
	return instanceTable{table[store.Instance]{t, instances}}
}
func (t *Tx) Bindings() store.Bindings { return bindingTable{table[store.Binding]{t, bindings}} }
func (t *Tx) Operations() store.Operations {
	return operationTable{table[store.Operation]{t, operations}}
}

type groupTable struct{ table[store.Group] }

// nextWarm finds the groups that have been warm longest.
const nextWarm = "SELECT body FROM groups WHERE fingerprint = ? AND state = 'warm' ORDER BY since, id LIMIT ?"

// LikelyClaim is the definition of which warm groups were claimed last, "" when
// none were.
func (m *Memory) LikelyClaim() string {
	if m.warm == nil {
		return ""
	}
	return m.warm.fingerprint
}

// Warm reads, ahead of a claim, up to n warm groups of a definition. done is to be
// called when each has got all rows.
func (m *Memory) Warm(fingerprint string, n int) (query string, args []any, each func(*sql.Rows) error, done func()) {
	found := &ahead{fingerprint: fingerprint}
	each = func(r *sql.Rows) error {
		var body sql.RawBytes
		if err := r.Scan(&body); err != nil {
			return err
		}
		var g store.Group
		if err := json.Unmarshal(body, &g); err != nil {
			return fmt.Errorf("record in groups: %w", err)
		}
		found.groups = append(found.groups, g)
		return nil
	}
	return nextWarm, []any{fingerprint, n}, each, func() { m.warm = found }
}

// ahead is what was read of the warm groups of a definition.
type ahead struct {
	fingerprint string
	groups      []store.Group
}

func (t groupTable) ClaimWarm(fingerprint, instanceID string, now time.Time) (store.Group, error) {
	if t.t.readOnly {
		return store.Group{}, errReadOnly
	}
	t.t.begin()
	g, err := t.nextWarm(fingerprint)
	if err != nil {
		return store.Group{}, err
	}
	g.State, g.InstanceID, g.Since = store.GroupClaimed, instanceID, now
	body, err := json.Marshal(g)
	if err != nil {
		return store.Group{}, err
	}
	// Not Put: this leaves alone the indexes whose columns do not change.
	t.t.touch(t.key(g.ID))
	return g, t.t.Write("UPDATE groups SET state = 'claimed', since = ?, body = ? WHERE id = ?", nanos(now), body, g.ID)
}

func (t groupTable) nextWarm(fingerprint string) (store.Group, error) {
	if t.t.readAhead <= 1 {
		return t.first(nextWarm, fingerprint, 1)
	}
	known := t.t.memory.warm
	if known == nil || known.fingerprint != fingerprint || len(known.groups) == 0 {
		groups, err := t.all(nextWarm, fingerprint, t.t.readAhead)
		if err != nil {
			return store.Group{}, err
		}
		if len(groups) == 0 {
			return store.Group{}, store.ErrNotFound
		}
		known = &ahead{fingerprint, groups}
	}
	// A new value: what an Undo goes back to must stay as it is.
	t.t.memory.warm = &ahead{fingerprint, known.groups[1:]}
	return known.groups[0], nil
}

// Put and Delete may change which groups are warm.
func (t groupTable) Put(g store.Group) error {
	t.t.begin()
	t.t.memory.warm = nil
	return t.table.Put(g)
}

func (t groupTable) Delete(id string) error {
	t.t.begin()
	t.t.memory.warm = nil
	return t.table.Delete(id)
}

func (t groupTable) Of(fingerprint string) ([]store.Group, error) {
	return t.all("SELECT body FROM groups WHERE fingerprint = ? ORDER BY created, id", fingerprint)
}

func (t groupTable) Count(fingerprint string) (map[store.GroupState]int, error) {
	counts := map[store.GroupState]int{}
	err := t.t.Rows(func(r *sql.Rows) error {
		var state string
		var n int
		err := r.Scan(&state, &n)
		counts[store.GroupState(state)] = n
		return err
	}, "SELECT state, n FROM group_counts WHERE fingerprint = ? AND n > 0", fingerprint)
	return counts, err
}

type instanceTable struct{ table[store.Instance] }

// Waiting is the condition for instances that wait for a group.
const Waiting = "fingerprint = ? AND state = 'creating' AND group_id = ''"

func (t instanceTable) Waiting(fingerprint string, limit int) ([]store.Instance, error) {
	return t.all("SELECT body FROM instances WHERE "+Waiting+" ORDER BY created, id LIMIT ?", fingerprint, max(limit, 0))
}

func (t instanceTable) CountWaiting(fingerprint string) (int, error) {
	return t.number("SELECT count(*) FROM instances WHERE "+Waiting, fingerprint)
}

func (t instanceTable) InState(s store.InstanceState) ([]store.Instance, error) {
	return t.inState(string(s))
}

func (t instanceTable) Page(after string, limit int) ([]store.Instance, error) {
	return t.all("SELECT body FROM instances WHERE id > ? ORDER BY id LIMIT ?", after, max(limit, 0))
}

// CountIn begins the query that counts instances.
const CountIn = "SELECT coalesce(sum(n), 0) FROM instance_counts WHERE "

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
	return t.number(CountIn+where, args...)
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
	n, err := t.t.Change("DELETE FROM operations WHERE state <> 'in progress' AND finished < ?", nanos(before))
	t.t.touch(everything)
	return n, err
}
