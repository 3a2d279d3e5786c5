package provisioner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/remuda/remuda/store"
)

// Level is how the pool of one definition stands.
type Level struct {
	Offering   string `json:"offering"`
	Plan       string `json:"plan"`
	Definition string `json:"definition"` // fingerprint
	Warm       int    `json:"warm"`
	Claimed    int    `json:"claimed"`
	Creating   int    `json:"creating"`
	Resetting  int    `json:"resetting"`
	Closing    int    `json:"closing"`
	Waiting    int    `json:"waiting"` // instances
	Floor      int    `json:"floor"`
	Target     int    `json:"target"`
	Ceiling    int    `json:"ceiling"`
	Trouble    string `json:"trouble,omitempty"`
}

// Levels says how the pools stand, by offering and plan. Of definitions that
// are not current any more only those with groups or waiting instances are there.
func (p *Pool) Levels() []Level {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	p.mu.Lock()
	lanes := make([]*lane, 0, len(p.lanes))
	for _, l := range p.lanes {
		lanes = append(lanes, l)
	}
	p.mu.Unlock()
	var out []Level
	led := p.leaderStatus(ctx)
	for _, l := range lanes {
		var counts map[store.GroupState]int
		var waiting int
		err := p.o.Store.View(ctx, func(tx store.Tx) (err error) {
			if counts, err = tx.Groups().Count(l.fingerprint); err != nil {
				return err
			}
			waiting, err = tx.Instances().CountWaiting(l.fingerprint)
			return err
		})
		p.mu.Lock()
		if err != nil { // as it was when last read
			counts, waiting = l.counts, l.waiting
		}
		level := l.level(counts, waiting)
		if led != nil {
			level.Target, level.Trouble = led[l.fingerprint].Target, led[l.fingerprint].Trouble
		}
		if l.current || waiting > 0 || len(counts) > 0 {
			out = append(out, level)
		}
		p.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Level) int {
		return strings.Compare(a.Offering+"/"+a.Plan+"/"+a.Definition, b.Offering+"/"+b.Plan+"/"+b.Definition)
	})
	return out
}

func (l *lane) level(counts map[store.GroupState]int, waiting int) Level {
	return Level{
		Offering: l.definition.Offering, Plan: l.definition.Plan, Definition: l.fingerprint,
		Warm: counts[store.GroupWarm], Claimed: counts[store.GroupClaimed], Creating: counts[store.GroupCreating],
		Resetting: counts[store.GroupResetting], Closing: counts[store.GroupClosing], Waiting: waiting,
		Floor: l.limits.Floor, Target: l.target(time.Now()), Ceiling: l.limits.Ceiling, Trouble: l.trouble,
	}
}

// GroupView is a group as operators see it.
type GroupView struct {
	ID          string           `json:"id"`
	Fingerprint string           `json:"fingerprint"`
	Offering    string           `json:"offering"`
	Plan        string           `json:"plan"`
	State       store.GroupState `json:"state"`
	Generation  int              `json:"generation"`
	InstanceID  string           `json:"instance_id,omitempty"`
	Address     string           `json:"address,omitempty"` // host:port of the main endpoint, while claimed
	Reason      string           `json:"reason,omitempty"`
	Members     []MemberView     `json:"members"`
	CreatedAt   time.Time        `json:"created_at"`
	ClaimedAt   time.Time        `json:"claimed_at,omitzero"`
}

// MemberView is a member as operators see it.
type MemberView struct {
	ID        string    `json:"id"`
	Role      string    `json:"role"`
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"started_at"`
	Healthy   bool      `json:"healthy"`
	Reason    string    `json:"reason,omitempty"`
}

// Groups returns all groups of the store, oldest first, with what the back end
// shows of them.
func (p *Pool) Groups(ctx context.Context) ([]GroupView, error) {
	var rows []store.Group
	err := p.o.Store.View(ctx, func(tx store.Tx) (err error) {
		rows, err = tx.Groups().List()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	sort.SliceStable(rows, func(i, j int) bool { return rows[i].CreatedAt.Before(rows[j].CreatedAt) })
	seen, listErr := p.list(ctx)
	p.mu.Lock()
	if listErr != nil { // what was seen last is better than nothing
		seen = p.seen
	}
	views := make([]GroupView, 0, len(rows))
	for _, row := range rows {
		views = append(views, p.view(row, seen[row.ID]))
	}
	p.mu.Unlock()
	return views, nil
}

// view joins a row with what was seen of the group. p.mu is held.
func (p *Pool) view(row store.Group, o Observation) GroupView {
	v := GroupView{ID: row.ID, Fingerprint: row.Fingerprint, State: row.State, Generation: row.Generation,
		InstanceID: row.InstanceID, Reason: row.Reason, CreatedAt: row.CreatedAt, Members: []MemberView{}}
	if l := p.lanes[row.Fingerprint]; l != nil {
		v.Offering, v.Plan = l.definition.Offering, l.definition.Plan
	}
	if row.State == store.GroupClaimed {
		v.ClaimedAt = row.Since
		if len(row.Endpoints) > 0 {
			e := row.Endpoints[0]
			v.Address = net.JoinHostPort(e.Host, strconv.Itoa(e.Port))
		}
	}
	for _, m := range o.Members {
		v.Members = append(v.Members, MemberView(m))
	}
	return v
}

// CloseAll closes every group of the store, also those of tenants, and every
// other one of the back end. No pool may run on them at the same time.
func (p *Pool) CloseAll(ctx context.Context) error {
	rows, _, err := p.rows(ctx)
	if err != nil {
		return fmt.Errorf("close all groups: %w", err)
	}
	ids := map[string]bool{}
	for _, row := range rows {
		ids[row.ID] = true
	}
	err = p.o.Store.Update(ctx, func(tx store.Tx) error {
		for _, row := range rows {
			row.State, row.Since, row.Reason = store.GroupClosing, time.Now(), "all groups are closed"
			if err := tx.Groups().Put(row); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("close all groups: %w", err)
	}
	seen, err := p.list(ctx)
	errs := []error{err}
	for id := range seen {
		ids[id] = true
	}
	for id := range ids {
		if err := p.finish(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("close group %q: %w", id, err))
		}
	}
	return errors.Join(errs...)
}
