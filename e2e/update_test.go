package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jlaffaye/ftp"
	"github.com/redis/go-redis/v9"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner/backendtest"
)

// Every offering changes its plan and back: data, logins, address and container
// stay. On the way: a reader that cannot write, a successor of a binding, and a
// login that ends by itself.
func TestUpdateEveryOffering(t *testing.T) {
	h := newHost(t, backendtest.Binary(t), "offerings: [mysql, postgresql, redis, ftp, http]"+onlySmall)
	h.start()
	h.settled(3*time.Minute, 5)
	for _, offering := range []string{"mysql", "postgresql", "redis", "ftp", "http"} {
		t.Run(offering, func(t *testing.T) {
			h.t = t
			small, medium := h.plan(offering, "small"), h.plan(offering, "medium")
			id := "u-" + offering
			h.want("provision", h.provision(id, small), 201)
			first := h.groupOf(id)
			a, res := h.bind(id, "a-"+offering, small)
			h.want("bind", res, 201)
			if err := use(offering, a, "before"); err != nil {
				t.Fatal(err)
			}
			if offering != "http" {
				h.readerOf(id, offering, small)
			}
			h.want("change to medium", h.patch(id, small, map[string]any{"plan_id": medium.plan}), 200)
			if err := find(offering, a, "before"); err != nil {
				t.Errorf("after the change: %v", err)
			}
			if err := use(offering, a, "after"); err != nil {
				t.Errorf("after the change: %v", err)
			}
			now := h.groupOf(id)
			if now.ID != first.ID || now.Address != first.Address || now.Members[0].PID != first.Members[0].PID || now.Plan != "medium" {
				t.Errorf("the group was %+v and is %+v", first, now)
			}
			h.want("delete with the old plan", h.unbind(id, "a-"+offering, small), 400)
			h.want("rotation", h.call("PUT", bindingPath(id, "s-"+offering), map[string]any{"predecessor_binding_id": "a-" + offering}), 201)
			h.want("delete the predecessor", h.unbind(id, "a-"+offering, medium), 200)
			s := h.call("GET", bindingPath(id, "s-"+offering), nil)
			c, _ := s.body["credentials"].(map[string]any)
			if err := use(offering, c, "successor"); err != nil {
				t.Errorf("the successor: %v", err)
			}
			h.want("change back", h.patch(id, medium, map[string]any{"plan_id": small.plan}), 200)
			if err := find(offering, c, "successor"); err != nil {
				t.Errorf("after the change back: %v", err)
			}
			h.expires(id, offering, small)
			h.want("deprovision", h.deprovision(id, small), 200)
			h.reused(first)
		})
	}
	h.t = t
}

func (h *host) patch(id string, p plan, more map[string]any) answer {
	body := map[string]any{"service_id": p.service}
	for k, v := range more {
		body[k] = v
	}
	return h.call("PATCH", instancePath(id), body)
}

// readerOf binds a reader: it sees what is there and changes nothing.
func (h *host) readerOf(id, offering string, p plan) {
	h.t.Helper()
	a := h.call("PUT", bindingPath(id, "r-"+offering), p.body(map[string]any{"parameters": map[string]any{"role": "reader"}}))
	h.want("bind a reader", a, 201)
	c, _ := a.body["credentials"].(map[string]any)
	if err := find(offering, c, "before"); err != nil {
		h.t.Errorf("the reader cannot read: %v", err)
	}
	if err := use(offering, c, "by the reader"); err == nil {
		h.t.Error("the reader can write")
	}
	if err := find(offering, c, "before"); err != nil {
		h.t.Errorf("the reader has changed something: %v", err)
	}
	h.want("unbind the reader", h.unbind(id, "r-"+offering, p), 200)
	if err := find(offering, c, "before"); err == nil {
		h.t.Error("a deleted reader can read")
	}
}

// expires binds for two seconds.
func (h *host) expires(id, offering string, p plan) {
	h.t.Helper()
	a := h.call("PUT", bindingPath(id, "e-"+offering), p.body(map[string]any{"parameters": map[string]any{"lifetime_seconds": 2}}))
	h.want("bind for two seconds", a, 201)
	c, _ := a.body["credentials"].(map[string]any)
	metadata, _ := a.body["metadata"].(map[string]any)
	expires, err := time.Parse("2006-01-02T15:04:05.0Z", fmt.Sprint(metadata["expires_at"]))
	if err != nil {
		h.t.Fatalf("expires_at: %v in %s", err, a.raw)
	}
	if err := use(offering, c, "in time"); err != nil {
		h.t.Errorf("before it expires: %v", err)
	}
	time.Sleep(time.Until(expires))
	eventually(h.t, 5*time.Second, func() error {
		if use(offering, c, "late") == nil {
			return errors.New("an expired login works")
		}
		return nil
	})
	h.want("unbind what has expired", h.unbind(id, "e-"+offering, p), 200)
}

// find reads what use wrote.
func find(offering string, c map[string]any, value string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	query := func(db *sql.DB) error {
		defer db.Close()
		var n int
		err := db.QueryRowContext(ctx, "SELECT count(*) FROM used WHERE v = '"+value+"'").Scan(&n)
		if err == nil && n == 0 {
			err = errors.New("it is not in the table")
		}
		return err
	}
	switch offering {
	case "mysql":
		db, err := openMySQL(c)
		if err != nil {
			return err
		}
		return query(db)
	case "postgresql":
		db, err := sql.Open("postgres", c["uri"].(string)+"?sslmode=disable")
		if err != nil {
			return err
		}
		return query(db)
	case "redis":
		o, err := redis.ParseURL(c["uri"].(string))
		if err != nil {
			return err
		}
		r := redis.NewClient(o)
		defer r.Close()
		got, err := r.Get(ctx, "used").Result()
		if err == nil && got != value {
			err = fmt.Errorf("got %q", got)
		}
		return err
	case "ftp":
		conn, err := ftp.Dial(address(c), ftp.DialWithTimeout(5*time.Second))
		if err != nil {
			return err
		}
		defer conn.Quit()
		if err := conn.Login(c["username"].(string), c["password"].(string)); err != nil {
			return err
		}
		r, err := conn.Retr("used.txt")
		if err != nil {
			return err
		}
		defer r.Close()
		return sameText(r, value)
	}
	return nil // its use reads
}

// What a tenant has does not fit into a smaller plan: 422, and all goes on.
func TestUpdateTooSmall(t *testing.T) {
	h := newHost(t, backendtest.Binary(t), "offerings: [redis]\npools: {redis/small: {floor: 0}, redis/medium: {floor: 1}}")
	h.start()
	h.settled(3*time.Minute, 1)
	small, medium := h.plan("redis", "small"), h.plan("redis", "medium")
	h.want("provision", h.provision("full", medium), 201)
	c, res := h.bind("full", "b", medium)
	h.want("bind", res, 201)
	o, err := redis.ParseURL(c["uri"].(string))
	if err != nil {
		t.Fatal(err)
	}
	r := redis.NewClient(o)
	defer r.Close()
	block := string(bytes.Repeat([]byte("x"), 1<<20-200))
	for i := range 250 {
		if err := r.Set(t.Context(), fmt.Sprint("block", i), block, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	a := h.patch("full", medium, map[string]any{"plan_id": small.plan})
	h.want("change to a plan with too little memory", a, 422)
	if a.body["instance_usable"] != true || !strings.Contains(fmt.Sprint(a.body["description"]), "memory") {
		t.Errorf("the answer is %s", a.raw)
	}
	if n, err := r.DBSize(t.Context()).Result(); err != nil || n != 250 {
		t.Errorf("after the refusal: %d keys, %v", n, err)
	}
	// Its log still has all that was written, and reading it takes the memory again:
	// that is found out by trying, and taken back.
	if err := r.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	a = h.patch("full", medium, map[string]any{"plan_id": small.plan})
	h.want("change after everything was deleted", a, 200, 422)
	if err := use("redis", c, "goes on"); err != nil {
		t.Errorf("after that: %v", err)
	}
	now := medium
	if a.status == 200 {
		now = small
	}
	h.want("deprovision", h.deprovision("full", now), 200)
}

// A recipe's next version: instances show what they run, and a PATCH upgrades
// them with their data and logins.
func TestMaintenanceUpgrade(t *testing.T) {
	dir := t.TempDir()
	text, err := fs.ReadFile(catalog.BuiltinFiles(), "redis.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write := func(version, clients string) {
		own := string(text)
		for _, r := range [][2]string{
			{"name: redis\nversion: 1.1.0", "name: keys\nversion: " + version}, {"maxclients 1000", "maxclients " + clients},
			{"f6d20644-68e9-4f59-8e16-300630a5717f", "f6d20644-68e9-4f59-8e16-300630a57170"},
			{"91ef7c69-6d9d-4858-ada4-0a66d5cc1572", "91ef7c69-6d9d-4858-ada4-0a66d5cc1570"},
			{"8a5480e1-cc49-4849-abe0-da0e3eff9be5", "8a5480e1-cc49-4849-abe0-da0e3eff9be0"},
		} {
			if !strings.Contains(own, r[0]) {
				t.Fatalf("the recipe has no %q any more", r[0])
			}
			own = strings.ReplaceAll(own, r[0], r[1])
		}
		if err := os.WriteFile(filepath.Join(dir, "keys.yaml"), []byte(own), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("1.1.0", "1000")
	h := newHost(t, backendtest.Binary(t), "recipes: ["+dir+"]\nofferings: [keys]\npools: {keys/medium: {floor: 0}}")
	h.start()
	h.settled(3*time.Minute, 1)
	p := h.plan("keys", "small")
	h.want("provision", h.provision("up", p), 201)
	c, res := h.bind("up", "b", p)
	h.want("bind", res, 201)
	if err := use("redis", c, "kept"); err != nil {
		t.Fatal(err)
	}
	h.terminate()
	write("1.2.0", "900")
	h.start()
	version := func() any {
		info, _ := h.call("GET", instancePath("up"), nil).body["maintenance_info"].(map[string]any)
		return info["version"]
	}
	if v := version(); v != "1.1.0" {
		t.Errorf("before the upgrade the instance shows %v", v)
	}
	maintenance := func(v string) map[string]any {
		return map[string]any{"maintenance_info": map[string]any{"version": v}}
	}
	wrong := h.patch("up", p, maintenance("1.1.0"))
	h.want("upgrade to a wrong version", wrong, 422)
	if wrong.body["error"] != "MaintenanceInfoConflict" {
		t.Errorf("the answer is %s", wrong.raw)
	}
	h.want("upgrade", h.patch("up", p, maintenance("1.2.0")), 200)
	if v := version(); v != "1.2.0" {
		t.Errorf("after the upgrade the instance shows %v", v)
	}
	if err := find("redis", c, "kept"); err != nil {
		t.Errorf("after the upgrade: %v", err)
	}
	h.want("deprovision", h.deprovision("up", p), 200)
}
