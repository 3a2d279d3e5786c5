package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/remuda/remuda/broker/osbapi"
)

// buildCrashing builds the broker with crash points: REMUDA_CRASH_AT=N ends the
// process with SIGKILL at its N-th persisted step.
func buildCrashing(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "remuda-crash")
	cmd := exec.Command("go", "build", "-tags", "crashpoints", "-o", bin, "github.com/remuda/remuda/cmd/remuda")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// TestKillAtEveryPersistedStep runs one life of an instance again and again, each
// time killing the broker one persisted step later, until a life has no more
// steps. After each kill a new broker must bring everything in order.
func TestKillAtEveryPersistedStep(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute or two; run without -short")
	}
	binary := buildCrashing(t)
	// With keep 0 every life also makes a group and closes one.
	t.Run("warm", func(t *testing.T) {
		killEverywhere(t, newHost(t, binary, "offerings: [redis]\npools: {default: {keep: 0s}, redis/medium: {floor: 0}}"), 1)
	})
	// Without warm groups every instance waits for one.
	t.Run("cold", func(t *testing.T) {
		killEverywhere(t, newHost(t, binary, "offerings: [redis]\npools: {default: {floor: 0, keep: 0s}}"), 0)
	})
}

func killEverywhere(t *testing.T, h *host, floor int) {
	h.floor = floor
	bystander := startBystander(t, h)
	for step := 1; ; step++ {
		if step > 200 {
			t.Fatal("a life has more than 200 steps")
		}
		killed := h.lifeKilledAt(step, bystander)
		if t.Failed() {
			t.Fatalf("at step %d", step)
		}
		if !killed {
			t.Logf("a life has %d persisted steps", step-1)
			break
		}
	}
}

// bystander is an instance of another tenant with an open connection that no
// crash may break.
type bystander struct {
	conn  *redis.Client
	group osbapi.Group
}

func startBystander(t *testing.T, h *host) *bystander {
	t.Helper()
	h.start()
	h.settled(time.Minute, h.floor)
	p := h.plan("redis", "small")
	h.want("provision", h.provision("bystander", p), 201, 202)
	h.provisioned("bystander", p)
	c, res := h.bind("bystander", "b", p)
	h.want("bind", res, 201)
	o, err := redis.ParseURL(c["uri"].(string))
	if err != nil {
		t.Fatal(err)
	}
	o.PoolSize, o.MaxRetries = 1, -1 // one connection, never another
	dials := 0
	dial := redis.NewDialer(o)
	o.Dialer = func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		if dials++; dials > 1 {
			return nil, fmt.Errorf("the open connection was broken")
		}
		return dial(ctx, network, addr)
	}
	by := &bystander{conn: redis.NewClient(o), group: h.groupOf("bystander")}
	t.Cleanup(func() { by.conn.Close() })
	if err := by.conn.Set(t.Context(), "here", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	h.kill()
	return by
}

// lifeKilledAt lets a broker live through an instance's life and die at the
// step, starts another one, and checks what it makes of it. It returns false
// when the life ended before that step.
func (h *host) lifeKilledAt(step int, by *bystander) (killed bool) {
	t := h.t
	id := "life-" + strconv.Itoa(step)
	p := h.live(id, step)
	killed = h.dead()
	h.kill()
	if !h.start() {
		t.Error("the next broker does not start")
		return killed
	}
	h.settled(time.Minute, h.floor)
	if err := by.conn.Get(context.Background(), "here").Err(); err != nil {
		t.Errorf("step %d: bystander: %v", step, err)
	}
	if now := h.groupOf("bystander"); now.ID != by.group.ID || now.Members[0].PID != by.group.Members[0].PID {
		t.Errorf("step %d: bystander's group was %+v, is %+v", step, by.group, now)
	}
	if p != (plan{}) {
		h.takeUp(id, p)
	}
	h.consistent(step)
	h.kill()
	return killed
}

// live does everything a platform does with an instance, as far as the broker lives.
func (h *host) live(id string, step int) (p plan) {
	if !h.start("REMUDA_CRASH_AT=" + strconv.Itoa(step)) {
		return p
	}
	a := h.call("GET", "/v2/catalog", nil)
	if a.status != 200 {
		return p
	}
	p = h.plan("redis", "small")
	h.provision(id, p)
	for !h.dead() {
		if a := h.call("GET", instancePath(id)+"/last_operation"+p.query(), nil); a.body["state"] != "in progress" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	c, _ := h.bind(id, "b-"+id, p)
	if c != nil {
		_ = use("redis", c, id)
	}
	h.unbind(id, "b-"+id, p)
	h.deprovision(id, p)
	for range 100 { // until what it left behind is in order, or it is dead
		if h.dead() {
			return p
		}
		all := h.call("GET", "/admin/v1/pools", nil)
		busy := 0.0
		for _, pool := range list(all.body["pools"]) {
			busy += pool["creating"].(float64) + pool["resetting"].(float64)
		}
		if all.status == 200 && busy == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return p
}

// takeUp does what a platform does that got no answer: it repeats, then deletes.
func (h *host) takeUp(id string, p plan) {
	h.t.Helper()
	a := h.provision(id, p)
	h.want("provision again", a, 200, 201, 202)
	h.provisioned(id, p)
	// An unbind that was cut off is finished first: until then the broker says
	// ConcurrencyError, and the platform comes again.
	var c map[string]any
	var res answer
	eventually(h.t, 20*time.Second, func() error {
		if c, res = h.bind(id, "b-"+id, p); res.body["error"] == "ConcurrencyError" {
			return fmt.Errorf("bind again answered %d %s", res.status, res.raw)
		}
		return nil
	})
	h.want("bind again", res, 200, 201)
	if err := use("redis", c, id); err != nil {
		h.t.Errorf("use after the crash: %v", err)
	}
	h.want("unbind", h.unbind(id, "b-"+id, p), 200)
	h.want("deprovision", h.deprovision(id, p), 200)
	h.settled(time.Minute, h.floor)
}

// consistent waits until the host holds just what the broker knows: surplus
// groups may still be closing.
func (h *host) consistent(step int) {
	h.t.Helper()
	eventually(h.t, 20*time.Second, func() error {
		if err := h.compare(); err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		return nil
	})
}

func (h *host) compare() error {
	known := map[string]bool{}
	serving := map[string]string{}
	for _, g := range h.groups() {
		known[g.ID] = true
		if other, twice := serving[g.InstanceID]; g.InstanceID != "" && twice {
			return fmt.Errorf("instance %s has groups %s and %s", g.InstanceID, other, g.ID)
		}
		serving[g.InstanceID] = g.ID
	}
	for _, folder := range []string{"groups", "runc"} {
		entries, err := os.ReadDir(filepath.Join(h.state, folder))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if id, _, _ := strings.Cut(e.Name(), "."); !known[id] {
				inside, _ := filepath.Glob(filepath.Join(h.state, folder, e.Name(), "*"))
				return fmt.Errorf("%s/%s (with %q) belongs to no group", folder, e.Name(), inside)
			}
		}
		if len(entries) != len(known) {
			return fmt.Errorf("%d in %s, %d groups", len(entries), folder, len(known))
		}
	}
	return nil
}

// TestKillDuringUpdate kills the broker at every persisted step of a plan change,
// there and back. The next broker finishes what was begun, and the tenant's data,
// login and address are there whatever happened.
func TestKillDuringUpdate(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute; run without -short")
	}
	h := newHost(t, buildCrashing(t), "offerings: [redis]\npools: {default: {floor: 0, keep: 0s}}")
	h.start()
	plans := []plan{h.plan("redis", "small"), h.plan("redis", "medium")}
	now := 0
	h.want("provision", h.provision("u", plans[now]), 202)
	h.provisioned("u", plans[now])
	c, res := h.bind("u", "b", plans[now])
	h.want("bind", res, 201)
	h.kill()
	for step := 1; ; step++ {
		if step > 60 {
			t.Fatal("an update has more than 60 steps")
		}
		value := fmt.Sprint("before ", step)
		next := 1 - now
		killed := true
		if h.start("REMUDA_CRASH_AT=" + strconv.Itoa(step)) {
			_ = use("redis", c, value) // while the broker may be dying
			killed = h.patch("u", plans[now], map[string]any{"plan_id": plans[next].plan}).status == 0
		}
		h.kill()
		if !h.start() {
			t.Fatal("the next broker does not start")
		}
		if err := find("redis", c, value); err != nil && !killed {
			t.Errorf("step %d: %v", step, err)
		}
		eventually(t, 30*time.Second, func() error {
			a := h.patch("u", plans[now], map[string]any{"plan_id": plans[next].plan})
			if a.status != 200 {
				return fmt.Errorf("the update again: %d %s", a.status, a.raw)
			}
			return nil
		})
		now = next
		eventually(t, 10*time.Second, func() error { return use("redis", c, value) })
		if g := h.groupOf("u"); len(h.groups()) != 1 || g.Plan != []string{"small", "medium"}[now] {
			t.Errorf("step %d: groups are %+v", step, h.groups())
		}
		h.kill()
		if t.Failed() {
			t.Fatalf("at step %d", step)
		}
		if !killed {
			t.Logf("an update has %d persisted steps", step-1)
			break
		}
	}
	h.start()
	h.want("deprovision", h.deprovision("u", plans[now]), 200)
	h.settled(time.Minute, 0)
}
