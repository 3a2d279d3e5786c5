package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/backendtest"
	"github.com/remuda/remuda/store/postgres/postgrestest"
)

// TestStoreInPostgreSQL: a broker that keeps its records in PostgreSQL outlives
// its own death and the database's, tells nobody the database's password, and is
// the only one there.
func TestStoreInPostgreSQL(t *testing.T) {
	backendtest.NeedRoot(t)
	server, name := postgrestest.ForTest(t)
	url := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(url, []byte(server.URL(name)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, backendtest.Binary(t), "offerings: [redis]\npools: {redis/medium: {floor: 0}}\ndatabase_url_file: "+url)
	h.start()
	p := h.plan("redis", "small")
	eventually(t, time.Minute, func() error {
		if a := h.provision("one", p); a.status != 201 && a.status != 200 {
			return fmt.Errorf("%d %s", a.status, a.raw)
		}
		return nil
	})
	credentials, a := h.bind("one", "b", p)
	h.want("bind", a, 201)
	group := h.groupOf("one")

	h.kill()
	h.start()
	if again := h.groupOf("one"); again.ID != group.ID || again.Members[0].PID != group.Members[0].PID {
		t.Errorf("after the broker's death: %+v, before %+v", again, group)
	}
	fetched := h.call("GET", bindingPath("one", "b"), nil)
	h.want("fetch", fetched, 200)
	if got := fmt.Sprint(fetched.body["credentials"]); got != fmt.Sprint(credentials) {
		t.Error("the credentials are others")
	}

	server.Stop(syscall.SIGQUIT)
	h.want("ready without the database", h.call("GET", "/readyz", nil), 503)
	h.want("delete without the database", h.call("DELETE", instancePath("one")+p.query(), nil), 503)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	h.want("delete", h.deprovision("one", p), 200)
	h.want("ready", h.call("GET", "/readyz", nil), 200)

	other := newHost(t, h.binary, "offerings: [redis]\ndatabase_url_file: "+url)
	if other.start() {
		t.Error("two brokers of the local back end use one database")
	}
	said, _ := os.ReadFile(other.log.Name())
	if !strings.Contains(string(said), "another broker uses this database") {
		t.Errorf("it said %s", said)
	}
	for _, log := range []*os.File{h.log, other.log} {
		if said, _ := os.ReadFile(log.Name()); strings.Contains(string(said), server.Password) {
			t.Error("the database's password is in the log")
		}
	}
	if err := os.WriteFile(other.config, []byte("offerings: [redis]"), 0o600); err != nil { // to clean up without it
		t.Fatal(err)
	}
}
