package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/remuda/remuda/provisioner/backendtest"
)

// Many tenants at once: every one gets an instance of its own and finds it
// empty, and in the end no group is lost or lent twice.
func TestManyTenantsAtOnce(t *testing.T) {
	const workers, rounds = 8, 4
	h := newHost(t, backendtest.Binary(t), "offerings: [redis]\npools: {redis/small: {floor: 4, ceiling: 12}, redis/medium: {floor: 0}}")
	h.start()
	h.settled(2*time.Minute, 4)
	p := h.plan("redis", "small")
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for round := range rounds {
				if err := h.oneTenant(fmt.Sprintf("t-%d-%d", w, round), p); err != nil {
					t.Errorf("worker %d, round %d: %v", w, round, err)
					return
				}
			}
		})
	}
	wg.Wait()
	h.settled(time.Minute, 4)
	groups := h.groups()
	if len(groups) > 12 {
		t.Errorf("%d groups, but the ceiling is 12", len(groups))
	}
	for _, g := range groups {
		if g.State != "warm" || g.InstanceID != "" {
			t.Errorf("group %s is %s for %q at the end", g.ID, g.State, g.InstanceID)
		}
	}
}

// oneTenant takes an instance, checks that nobody was there before, leaves a
// mark and gives it back.
func (h *host) oneTenant(id string, p plan) error {
	if a := h.provision(id, p); a.status != http.StatusCreated && a.status != http.StatusAccepted {
		return fmt.Errorf("provision answered %d %s", a.status, a.raw)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		a := h.call("GET", instancePath(id)+"/last_operation"+p.query(), nil)
		if a.body["state"] == "succeeded" {
			break
		}
		if time.Now().After(end) || a.status != http.StatusOK {
			return fmt.Errorf("last operation: %d %s", a.status, a.raw)
		}
	}
	c, a := h.bind(id, "b-"+id, p)
	if a.status != http.StatusCreated {
		return fmt.Errorf("bind answered %d %s", a.status, a.raw)
	}
	if err := alone(c, id); err != nil {
		return err
	}
	if a := h.deprovision(id, p); a.status != http.StatusOK {
		return fmt.Errorf("deprovision answered %d %s", a.status, a.raw)
	}
	return nil
}

func alone(c map[string]any, id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	o, err := redis.ParseURL(c["uri"].(string))
	if err != nil {
		return err
	}
	r := redis.NewClient(o)
	defer r.Close()
	keys, err := r.Keys(ctx, "*").Result()
	if err != nil {
		return err
	}
	if len(keys) > 0 {
		return fmt.Errorf("a new instance has the keys %q", keys)
	}
	if err := r.Set(ctx, id, "mark", 0).Err(); err != nil {
		return err
	}
	if keys, err = r.Keys(ctx, "*").Result(); err == nil && (len(keys) != 1 || keys[0] != id) {
		err = fmt.Errorf("the keys are %q, somebody else is there", keys)
	}
	return err
}
