// Package e2e runs the built broker as a user would: as a process, over HTTP,
// with real clients. It has tests only.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/remuda/remuda/broker/osbapi"
	"github.com/remuda/remuda/provisioner/backendtest"
)

// host is a broker's place on this machine: state folder, address, password. The
// broker may be started and killed many times.
type host struct {
	t        testing.TB
	binary   string
	state    string
	listen   string
	password string
	config   string
	floor    int // of warm groups, where a test needs it
	cmd      *exec.Cmd
	ended    chan struct{} // closed when cmd has ended
	log      *os.File      // of all brokers
}

// newHost prepares a place and removes all that brokers made there at the end.
func newHost(t testing.TB, binary, config string) *host {
	t.Helper()
	backendtest.NeedRoot(t)
	dir := t.TempDir()
	h := &host{t: t, binary: binary, state: filepath.Join(dir, "state"), listen: freeAddress(t), password: "test-password"}
	h.config = filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(h.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	h.log = log
	t.Cleanup(func() {
		defer log.Close()
		var pools string
		if t.Failed() && h.cmd != nil {
			pools, _ = h.run("pools")
		}
		h.kill()
		if out, err := h.run("groups", "close", "--all"); err != nil {
			t.Errorf("close all groups: %v\n%s", err, out)
		}
		if t.Failed() {
			t.Logf("pools at the end:\n%s", pools)
			said, _ := os.ReadFile(log.Name())
			t.Logf("the broker said:\n%s", tail(withoutPolls(string(said)), 12000))
		}
	})
	return h
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (h *host) env(more ...string) []string {
	return append(os.Environ(), append([]string{
		"REMUDA_STATE_DIR=" + h.state, "REMUDA_LISTEN=" + h.listen, "REMUDA_PASSWORD=" + h.password,
		"REMUDA_CONFIG=" + h.config, "REMUDA_IMAGE_DIR=" + backendtest.ImageDir(),
	}, more...)...)
}

// run runs another command of the binary.
func (h *host) run(args ...string) (string, error) {
	cmd := exec.Command(h.binary, args...)
	cmd.Env = h.env()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// start starts the broker and waits until it serves. It may die before that
// when it is told to crash: then false.
func (h *host) start(env ...string) bool {
	h.t.Helper()
	cmd := exec.Command(h.binary, "serve")
	cmd.Env = h.env(env...)
	cmd.Stdout, cmd.Stderr = h.log, h.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended := make(chan struct{})
	h.cmd, h.ended = cmd, ended
	go func() { _ = cmd.Wait(); close(ended) }()
	deadline := time.Now().Add(3 * time.Minute) // the first start of a host makes the image
	for time.Now().Before(deadline) {
		select {
		case <-ended:
			return false
		case <-time.After(5 * time.Millisecond):
		}
		res, err := http.Get("http://" + h.listen + "/readyz")
		if err != nil {
			continue
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return true
		}
	}
	h.t.Fatal("the broker does not become ready")
	return false
}

func (h *host) kill()      { h.signal(syscall.SIGKILL) }
func (h *host) terminate() { h.signal(syscall.SIGTERM) }

func (h *host) signal(s syscall.Signal) {
	if h.cmd == nil {
		return
	}
	_ = h.cmd.Process.Signal(s)
	select {
	case <-h.ended:
		h.cmd = nil
	case <-time.After(20 * time.Second):
		h.t.Error("the broker does not end")
	}
}

// dead says whether the broker has ended.
func (h *host) dead() bool {
	if h.cmd == nil {
		return true
	}
	select {
	case <-h.ended:
		return true
	default:
		return false
	}
}

// answer of the broker.
type answer struct {
	status int
	body   map[string]any
	raw    string
	// retryAfter is the header of that name.
	retryAfter string
}

// call sends a request with the usual headers. A broker that is gone gives
// status 0.
func (h *host) call(method, path string, body any) answer {
	h.t.Helper()
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			h.t.Fatal(err)
		}
		r = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+h.listen+path, r)
	if err != nil {
		h.t.Fatal(err)
	}
	req.SetBasicAuth("remuda", h.password)
	req.Header.Set("X-Broker-API-Version", "2.17")
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{raw: err.Error()}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{raw: err.Error()}
	}
	a := answer{status: res.StatusCode, raw: string(b), retryAfter: res.Header.Get("Retry-After")}
	if err := json.Unmarshal(b, &a.body); err != nil {
		h.t.Errorf("%s %s answered %d with what is no JSON object: %s", method, path, res.StatusCode, b)
	}
	return a
}

// plan is one plan of the catalog by its ids.
type plan struct{ service, plan string }

func (h *host) plan(offering, name string) plan {
	h.t.Helper()
	a := h.call("GET", "/v2/catalog", nil)
	for _, s := range list(a.body["services"]) {
		for _, p := range list(s["plans"]) {
			if s["name"] == offering && p["name"] == name {
				return plan{s["id"].(string), p["id"].(string)}
			}
		}
	}
	h.t.Fatalf("no plan %s/%s in the catalog: %d %s", offering, name, a.status, a.raw)
	return plan{}
}

func list(v any) []map[string]any {
	var out []map[string]any
	items, _ := v.([]any)
	for _, item := range items {
		m, _ := item.(map[string]any)
		out = append(out, m)
	}
	return out
}

func (p plan) body(more map[string]any) map[string]any {
	b := map[string]any{"service_id": p.service, "plan_id": p.plan, "organization_guid": "org", "space_guid": "space"}
	for k, v := range more {
		b[k] = v
	}
	return b
}

func (p plan) query() string { return "?service_id=" + p.service + "&plan_id=" + p.plan }

func instancePath(id string) string         { return "/v2/service_instances/" + id }
func bindingPath(id, binding string) string { return instancePath(id) + "/service_bindings/" + binding }

func (h *host) provision(id string, p plan) answer {
	return h.call("PUT", instancePath(id)+"?accepts_incomplete=true", p.body(nil))
}

// provisioned waits until the instance's create has succeeded.
func (h *host) provisioned(id string, p plan) {
	h.t.Helper()
	eventually(h.t, time.Minute, func() error {
		last := h.call("GET", instancePath(id)+"/last_operation"+p.query(), nil)
		if last.status == 200 && last.body["state"] != "succeeded" {
			return fmt.Errorf("last operation: %s", last.raw)
		}
		return nil
	})
}

// bind binds and returns the credentials.
func (h *host) bind(id, binding string, p plan) (map[string]any, answer) {
	a := h.call("PUT", bindingPath(id, binding), map[string]any{"service_id": p.service, "plan_id": p.plan})
	c, _ := a.body["credentials"].(map[string]any)
	return c, a
}

func (h *host) unbind(id, binding string, p plan) answer {
	return h.call("DELETE", bindingPath(id, binding)+p.query(), nil)
}

func (h *host) deprovision(id string, p plan) answer {
	return h.call("DELETE", instancePath(id)+p.query(), nil)
}

// want fails the test unless the answer has one of the statuses.
func (h *host) want(what string, a answer, statuses ...int) {
	h.t.Helper()
	for _, s := range statuses {
		if a.status == s {
			return
		}
	}
	h.t.Fatalf("%s answered %d %s, want %v", what, a.status, a.raw, statuses)
}

func (h *host) groups() []osbapi.Group {
	h.t.Helper()
	a := h.call("GET", "/admin/v1/groups", nil)
	var out struct{ Groups []osbapi.Group }
	if err := json.Unmarshal([]byte(a.raw), &out); err != nil {
		h.t.Fatalf("groups: %v: %s", err, a.raw)
	}
	return out.Groups
}

// groupOf is the group that serves an instance.
func (h *host) groupOf(instance string) osbapi.Group {
	h.t.Helper()
	for _, g := range h.groups() {
		if g.InstanceID == instance {
			return g
		}
	}
	h.t.Fatalf("no group serves instance %q", instance)
	return osbapi.Group{}
}

// eventually waits until check says nothing more against it.
func eventually(t testing.TB, bound time.Duration, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("after %s: %v", bound, err)
}

// settled waits until n groups are warm and none is on its way.
func (h *host) settled(bound time.Duration, n int) {
	h.t.Helper()
	eventually(h.t, bound, func() error {
		warm := 0
		for _, g := range h.groups() {
			switch g.State {
			case "warm":
				warm++
			case "claimed":
			default:
				return fmt.Errorf("group %s is %s", g.ID, g.State)
			}
		}
		if warm < n {
			return fmt.Errorf("%d groups are warm, want %d", warm, n)
		}
		return nil
	})
}

// withoutPolls leaves out what the test itself asks for many times a second.
func withoutPolls(log string) string {
	var b strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `"operation":"admin_`) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return strings.TrimSpace(s)
}
