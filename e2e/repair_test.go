package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/remuda/remuda/broker/osbapi"
	"github.com/remuda/remuda/provisioner/backendtest"
)

// tenant is a claimed instance with a value in it.
func (h *host) tenant(offering, id string) (c map[string]any, p plan) {
	h.t.Helper()
	p = h.plan(offering, "small")
	h.want("provision", h.provision(id, p), 201, 202)
	h.provisioned(id, p)
	c, res := h.bind(id, "b-"+id, p)
	h.want("bind", res, 201)
	if err := use(offering, c, "kept"); err != nil {
		h.t.Fatal(err)
	}
	return c, p
}

// rows counts what the tenant has in its table.
func rows(c map[string]any, value string) (n int, err error) {
	db, err := openMySQL(c)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err = db.QueryRowContext(ctx, "SELECT count(*) FROM used WHERE v = '"+value+"'").Scan(&n)
	return n, err
}

func (h *host) keepsData(c map[string]any) {
	h.t.Helper()
	eventually(h.t, 30*time.Second, func() error {
		n, err := rows(c, "kept")
		if err == nil && n != 1 {
			err = fmt.Errorf("%d rows, want 1", n)
		}
		return err
	})
}

const oneMySQL = "offerings: [mysql]\npools: {mysql/medium: {floor: 0}}"

// A member that dies is noticed within 5 s and comes back with its data at the
// same address; a warm one is replaced.
func TestMemberDies(t *testing.T) {
	h := newHost(t, backendtest.Binary(t), oneMySQL)
	h.start()
	h.settled(2*time.Minute, 1)
	c, _ := h.tenant("mysql", "shop")
	h.settled(time.Minute, 1)
	claimed := h.groupOf("shop")
	var warm osbapi.Group
	for _, g := range h.groups() {
		if g.State == "warm" {
			warm = g
		}
	}
	for _, g := range []osbapi.Group{claimed, warm} {
		backendtest.Kill(t, g.ID, g.Members[0].PID)
	}
	eventually(t, 5*time.Second, func() error {
		for _, g := range h.groups() {
			if g.ID == warm.ID && g.State == "warm" {
				return fmt.Errorf("the dead warm group is still there")
			}
		}
		return nil
	})
	h.keepsData(c)
	now := h.groupOf("shop")
	if now.ID != claimed.ID || now.Generation != claimed.Generation || now.Address != claimed.Address {
		t.Errorf("group was %+v, is %+v", claimed, now)
	}
	if now.Members[0].PID == claimed.Members[0].PID {
		t.Error("the member has the PID of the dead one")
	}
	h.settled(time.Minute, 1)
}

// After a reboot claimed instances come back with their data. The reboot is
// made by ending broker and containers.
func TestHostReboot(t *testing.T) {
	h := newHost(t, backendtest.Binary(t), oneMySQL)
	h.start()
	h.settled(2*time.Minute, 1)
	c, p := h.tenant("mysql", "shop")
	groups := h.groups()
	h.kill()
	for _, g := range groups {
		for _, m := range g.Members {
			if m.PID > 0 {
				_ = syscall.Kill(m.PID, syscall.SIGKILL)
			}
		}
	}
	h.start()
	h.keepsData(c)
	h.settled(time.Minute, 1)
	h.want("unbind", h.unbind("shop", "b-shop", p), 200)
	h.want("deprovision", h.deprovision("shop", p), 200)
	h.settled(time.Minute, 1)
}
