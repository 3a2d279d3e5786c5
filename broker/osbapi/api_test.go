package osbapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/broker/osbapi"
	"github.com/remuda/remuda/store"
)

func TestMain(m *testing.M) {
	if os.Getenv(processDatabase) != "" {
		fmt.Fprintln(os.Stderr, brokerProcess())
		os.Exit(1)
	}
	brokertest.Main(m)
}

const (
	user     = "remuda"
	password = "secret-of-the-broker"
)

// world is an API and what is behind it.
type world struct {
	*brokertest.Fixture
	api *osbapi.API
	log *logBuffer
}

// logBuffer is a bytes.Buffer for several goroutines.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newWorld(t testing.TB, change func(*osbapi.Options), broke func(*broker.Options)) *world {
	t.Helper()
	w := &world{log: &logBuffer{}}
	logger := slog.New(slog.NewJSONHandler(w.log, nil))
	w.Fixture = brokertest.New(t, func(o *broker.Options) {
		o.Logger = logger
		if broke != nil {
			broke(o)
		}
	})
	o := osbapi.Options{Broker: w.Broker, Username: user, Password: password, Logger: logger}
	if change != nil {
		change(&o)
	}
	api, err := osbapi.New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.api = api
	return w
}

// request makes one that is right in all that a test does not change.
func request(method, target, body string) *http.Request {
	r := httptest.NewRequest(method, "/", strings.NewReader(body))
	if body == "" {
		r.Body = http.NoBody
	}
	path, query, _ := strings.Cut(target, "?")
	r.URL.Path, r.URL.RawPath, r.URL.RawQuery = unescape(path), path, query
	r.SetBasicAuth(user, password)
	r.Header.Set("X-Broker-API-Version", "2.17")
	return r
}

func unescape(path string) string {
	r, err := http.NewRequest("GET", "http://x"+path, nil)
	if err != nil {
		return path
	}
	return r.URL.Path
}

func (w *world) do(r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	w.api.ServeHTTP(rec, r)
	return rec
}

func (w *world) call(method, target, body string) *httptest.ResponseRecorder {
	return w.do(request(method, target, body))
}

const (
	plan      = `"service_id":"service-box","plan_id":"plan-small"`
	provision = `{` + plan + `,"organization_guid":"org","space_guid":"space"}`
	bind      = `{` + plan + `}`
	deletion  = "?service_id=service-box&plan_id=plan-small"
	instance  = "/v2/service_instances/i1"
	binding   = instance + "/service_bindings/b1"
)

func TestStatuses(t *testing.T) {
	w := newWorld(t, nil, nil)
	w.Pool.Warm(t, 1)
	long := strings.Repeat("a", 300)
	const v2 = "/v2/service_instances/"
	tests := []struct {
		name, method, target, body string
		status                     int
		says                       string
	}{
		{"control character", "PUT", v2 + "a%0Ab", provision, 400, "control"},
		{"zero byte", "PUT", v2 + "a%00b", provision, 400, "control"},
		{"escaped slash", "PUT", v2 + "a%2Fb", provision, 400, "instance_id"},
		{"dots", "PUT", v2 + "..", provision, 400, "instance_id"},
		{"escaped dots", "PUT", v2 + "%2e%2e", provision, 400, "instance_id"},
		{"long", "PUT", v2 + long, provision, 400, "255"},
		{"not UTF-8", "PUT", v2 + "a%ff", provision, 400, "UTF-8"},
		{"slash", "PUT", v2 + "a/b", provision, 404, "path"},
		{"no id", "PUT", v2, provision, 404, "path"},
		{"double slash", "GET", "//v2/catalog", "", 404, "path"},
		{"trailing slash", "GET", "/v2/catalog/", "", 404, "path"},
		{"binding id", "PUT", v2 + "a/service_bindings/%2e%2e", bind, 400, "binding_id"},
		{"fetch id", "GET", v2 + "a%2Fb", "", 400, "instance_id"},
		{"poll id", "GET", v2 + "a%0Db/last_operation", "", 400, "control"},
		{"delete id", "DELETE", v2 + "a%2Fb" + deletion, "", 400, "instance_id"},
		{"unbind id", "DELETE", v2 + "a/service_bindings/b%2Fc" + deletion, "", 400, "binding_id"},

		{"no body", "PUT", v2 + "a", "", 400, "body"},
		{"spaces", "PUT", v2 + "a", " \n", 400, "body"},
		{"malformed", "PUT", v2 + "a", `{"service_id":`, 400, "JSON"},
		{"trailing garbage", "PUT", v2 + "a", provision + "x", 400, "JSON"},
		{"second object", "PUT", v2 + "a", provision + provision, 400, "JSON"},
		{"array", "PUT", v2 + "a", `[]`, 400, "object"},
		{"null", "PUT", v2 + "a", `null`, 400, "object"},
		{"string", "PUT", v2 + "a", `"x"`, 400, "object"},
		{"deep", "PUT", v2 + "a", strings.Repeat(`{"a":`, 20000), 400, "JSON"},
		{"service id number", "PUT", v2 + "a", `{"service_id":1}`, 400, "service_id"},
		{"plan id object", "PUT", v2 + "a", `{"service_id":"service-box","plan_id":{}}`, 400, "plan_id"},
		{"other letter case", "PUT", v2 + "a", strings.ToUpper(provision), 400, "service_id"},
		{"no org", "PUT", v2 + "a", `{` + plan + `,"space_guid":"s"}`, 400, "organization_guid"},
		{"empty space", "PUT", v2 + "a", `{` + plan + `,"organization_guid":"o","space_guid":""}`, 400, "space_guid"},
		{"null org", "PUT", v2 + "a", `{` + plan + `,"space_guid":"s","organization_guid":null}`, 400, "organization_guid"},
		{"parameters string", "PUT", v2 + "a", strings.Replace(provision, "{", `{"parameters":"x",`, 1), 400, "parameters"},
		{"context list", "PUT", v2 + "a", strings.Replace(provision, "{", `{"context":[],`, 1), 400, "context"},
		{"maintenance string", "PUT", v2 + "a", strings.Replace(provision, "{", `{"maintenance_info":"1",`, 1), 400, "maintenance_info"},
		{"maintenance without version", "PUT", v2 + "a", strings.Replace(provision, "{", `{"maintenance_info":{},`, 1), 400, "version"},
		{"accepts 1", "PUT", v2 + "a?accepts_incomplete=1", provision, 400, "accepts_incomplete"},
		{"accepts twice", "PUT", v2 + "a?accepts_incomplete=true&accepts_incomplete=false", provision, 400, "accepts_incomplete"},
		{"query", "PUT", v2 + "a?x=%zz", provision, 400, "query"},
		{"query semicolon", "PUT", v2 + "a?x=1;y=2", provision, 400, "query"},
		{"too large", "PUT", v2 + "a", `{"x":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "1 MiB"},

		{"bind no body", "PUT", v2 + "a/service_bindings/b", "", 400, "body"},
		{"bind absent", "PUT", v2 + "a/service_bindings/b", bind, 404, "service instance"},
		{"bind resource", "PUT", v2 + "a/service_bindings/b", `{` + plan + `,"bind_resource":"x"}`, 400, "bind_resource"},
		{"bind app number", "PUT", v2 + "a/service_bindings/b", `{` + plan + `,"app_guid":1}`, 400, "app_guid"},
		{"bind resource app number", "PUT", v2 + "a/service_bindings/b", `{` + plan + `,"bind_resource":{"app_guid":1}}`, 400, "app_guid"},
		{"delete without plan", "DELETE", v2 + "a?service_id=service-box", "", 400, "plan_id"},
		{"delete empty service", "DELETE", v2 + "a?service_id=&plan_id=plan-small", "", 400, "service_id"},
		{"delete absent", "DELETE", v2 + "a" + deletion, "", 410, "service instance"},
		{"unbind absent", "DELETE", v2 + "a/service_bindings/b" + deletion, "", 410, "binding"},
		{"fetch absent", "GET", v2 + "a", "", 404, "service instance"},
		{"fetch empty hint", "GET", v2 + "a?plan_id=", "", 400, "plan_id"},
		{"fetch absent binding", "GET", v2 + "a/service_bindings/b", "", 404, "binding"},
		{"poll absent", "GET", v2 + "a/last_operation", "", 404, "service instance"},
		{"poll absent binding", "GET", v2 + "a/service_bindings/b/last_operation", "", 404, "binding"},
		{"poll empty operation", "GET", v2 + "a/last_operation?operation=", "", 400, "operation"},
		{"poll long operation", "GET", v2 + "a/last_operation?operation=" + strings.Repeat("x", 10001), "", 400, "operation"},
		{"patch malformed", "PATCH", v2 + "a", `{`, 400, "JSON"},
		{"catalog put", "PUT", "/v2/catalog", "{}", 405, "GET"},
		{"poll put", "PUT", v2 + "a/last_operation", "{}", 405, "GET"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rec := w.call(test.method, test.target, test.body)
			wantRefusal(t, rec, test.status, test.says)
		})
	}
	w.View(t, func(tx store.Tx) error {
		page, err := tx.Instances().Page("", 10)
		if len(page) != 0 {
			t.Errorf("stored: %v", page)
		}
		g, gErr := tx.Groups().Count(brokertest.Small)
		if g[store.GroupWarm] != 1 {
			t.Errorf("groups: %v, %v", g, gErr)
		}
		return err
	})
	w.Pool.Warm(t, 3)
	for name, body := range map[string]string{
		"plain":          provision,
		"unknown fields": strings.Replace(provision, "{", `{"x":{"y":[1]},`, 1),
		"equal keys":     strings.Replace(provision, "{", `{"plan_id":"other",`, 1),
		"nulls":          strings.Replace(provision, "{", `{"context":null,"parameters":null,"maintenance_info":null,`, 1),
	} {
		rec := w.call("PUT", v2+"a", body)
		if rec.Code != http.StatusCreated {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
		if rec := w.call("DELETE", v2+"a"+deletion, ""); rec.Code != 200 || strings.TrimSpace(rec.Body.String()) != "{}" {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
}

// wantRefusal checks that an answer is a JSON object whose description says so.
func wantRefusal(t *testing.T, rec *httptest.ResponseRecorder, status int, says string) {
	t.Helper()
	var body struct{ Description string }
	if err := json.Unmarshal(rec.Body.Bytes(), &body); err != nil || body.Description == "" {
		t.Fatalf("body %q: %v", rec.Body, err)
	}
	if rec.Code != status || !strings.Contains(body.Description, says) {
		t.Errorf("%d %q, want %d and %q", rec.Code, body.Description, status, says)
	}
	if ct := rec.Header().Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type %q", ct)
	}
}

// An id may have anything that can be printed.
func TestStrangeID(t *testing.T) {
	w := newWorld(t, nil, nil)
	w.Pool.Warm(t, 1)
	const target = "/v2/service_instances/a%20b%3F%25%C3%A9~"
	if rec := w.call("PUT", target, provision); rec.Code != 201 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	w.View(t, func(tx store.Tx) error {
		_, err := tx.Instances().Get("a b?%é~")
		return err
	})
	if rec := w.call("DELETE", target+deletion, ""); rec.Code != 200 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

// Korifi binds to no application like this.
func TestEmptyApp(t *testing.T) {
	w := newWorld(t, nil, nil)
	w.Pool.Warm(t, 1)
	w.call("PUT", instance, provision)
	empty := `{` + plan + `,"app_guid":"","bind_resource":{"app_guid":""},"parameters":null}`
	for n, want := range []int{http.StatusCreated, http.StatusOK} {
		if rec := w.call("PUT", binding, []string{empty, bind}[n]); rec.Code != want {
			t.Errorf("%d %s, want %d", rec.Code, rec.Body, want)
		}
	}
}

// Korifi says in the body of a DELETE what belongs into its query, and has polls with bodies. It
// takes nothing but 201 for finished and then polls for an operation that has no name.
func TestKorifi(t *testing.T) {
	w := newWorld(t, nil, nil)
	w.Pool.Warm(t, 1)
	korifi := func(method, target, body string, status int, says string) {
		t.Helper()
		r := request(method, target, body)
		r.Header.Del("Content-Type")
		if rec := w.do(r); rec.Code != status || !strings.Contains(rec.Body.String(), says) {
			t.Errorf("%s %s with %s: %d %s, want %d", method, target, body, rec.Code, rec.Body, status)
		}
	}
	const incomplete = "?accepts_incomplete=true"
	ids := `{` + plan + `}`
	korifi("PUT", instance+incomplete, `{`+plan+`,"space_guid":"s","organization_guid":"o","parameters":null}`, 201, "{")
	korifi("GET", instance+"/last_operation", `{`+plan+`,"operation":""}`, 200, "succeeded")
	korifi("PUT", binding+incomplete, `{`+plan+`,"app_guid":"","bind_resource":{"app_guid":""},"parameters":null}`, 201, "credentials")
	korifi("GET", binding, "", 200, "credentials")
	for _, at := range []string{binding, instance} {
		for body, says := range map[string]string{
			"": "service_id", "{}": "service_id", `{"service_id":"service-box"}`: "plan_id", `{"service_id":1}`: "string", "null": "object", "{": "JSON",
			`{"service_id":"other","plan_id":"plan-small"}`: "service_id", strings.Repeat(" ", 2<<20): "1 MiB",
		} {
			status := 400
			if says == "1 MiB" {
				status = 413
			}
			korifi("DELETE", at+incomplete, body, status, says)
		}
		korifi("DELETE", at+incomplete+"&service_id=service-box", ids, 400, "plan_id")
		korifi("DELETE", at+incomplete, ids, 200, "{}")
		korifi("DELETE", at+incomplete, ids, 410, "{")
	}
	w.View(t, func(tx store.Tx) error {
		records, err := tx.Audit().Page(store.AuditQuery{Limit: 100})
		if !slices.ContainsFunc(records, func(r store.AuditRecord) bool {
			return r.Operation == "deprovision" && r.Status == 200 && r.ServiceID == "service-box" && r.PlanID == "plan-small"
		}) {
			t.Errorf("the audit has %+v", records)
		}
		return err
	})
}

// curl -d without a Content-Type sends a form's; the body counts all the same.
func TestFormContentType(t *testing.T) {
	w := newWorld(t, nil, nil)
	w.Pool.Warm(t, 1)
	for _, step := range []struct{ target, body string }{{instance, provision}, {binding, bind}} {
		r := request("PUT", step.target, step.body)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if rec := w.do(r); rec.Code != 201 {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
	}
	r := request("PUT", instance, "a=1&b=2")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	wantRefusal(t, w.do(r), 400, "JSON")
	r = request("PUT", instance, provision)
	r.Header.Set("Content-Encoding", "gzip")
	wantRefusal(t, w.do(r), 400, "gzip")
}

func TestPanic(t *testing.T) {
	w := newWorld(t, func(o *osbapi.Options) {
		o.Pools = func(context.Context) ([]osbapi.Pool, error) { panic("oops") }
		o.Groups = func(context.Context) ([]osbapi.Group, error) { return nil, io.ErrUnexpectedEOF }
	}, nil)
	r := request("GET", "/admin/v1/pools", "")
	r.Header.Set("X-Broker-API-Request-Identity", "my-request")
	rec := w.do(r)
	wantRefusal(t, rec, 500, "unexpected")
	if strings.Contains(rec.Body.String(), "oops") {
		t.Errorf("the client sees %s", rec.Body)
	}
	if log := w.log.String(); !strings.Contains(log, "oops") || !strings.Contains(log, "my-request") {
		t.Errorf("log: %s", log)
	}
	rec = w.call("GET", "/admin/v1/groups", "")
	wantRefusal(t, rec, 500, "unexpected")
	if strings.Contains(rec.Body.String(), "EOF") || !strings.Contains(w.log.String(), "unexpected EOF") {
		t.Errorf("body %s, log %s", rec.Body, w.log.String())
	}
}
