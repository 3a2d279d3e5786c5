package main

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/broker/osbapi"
)

func TestDashboardFaultsHaveTheirPlace(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := DefaultConfig()
	err := c.decode("x.yaml", []byte("dashboard:\n  url: broker\n  link_lifetime: 1m\n  oauth2:\n    authorization_url: x\n    token_url: https://login/token\n    permissions_url: https://api/permissions\n    client_secret_file: "+secret+"\n"))
	err = errors.Join(err, c.Validate(), c.readClientSecret())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"x.yaml:2: dashboard.url", "x.yaml:3: dashboard.link_lifetime", "x.yaml:5: dashboard.oauth2.authorization_url",
		"x.yaml:7: dashboard.oauth2.permissions_url must contain {instance_id}", "x.yaml:4: dashboard.oauth2.client_id", "x.yaml:8: dashboard.oauth2.client_secret_file: " + secret + " has mode 0644",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	if err := os.Chmod(secret, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.readClientSecret(); err != nil || c.clientSecret != "s" {
		t.Errorf("%q, %v", c.clientSecret, err)
	}
}

func TestDashboardURL(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080", "0.0.0.0:80": "http://db.example.com:80", ":80": "http://db.example.com:80", "[::1]:80": "http://[::1]:80",
	} {
		c := DefaultConfig()
		c.Listen, c.Publish.Host = listen, "db.example.com"
		if got := c.dashboardURL(); got != want {
			t.Errorf("%s: %q, want %q", listen, got, want)
		}
	}
}

// From the answer to the platform to the page, through all that serve connects.
func TestDashboardOfARealInstance(t *testing.T) {
	c := DefaultConfig()
	p := &parts{config: c, signing: [][]byte{make([]byte, 32)}}
	links, err := p.dashboardLinks()
	if err != nil {
		t.Fatal(err)
	}
	f := brokertest.New(t, func(o *broker.Options) { o.Links = brokerLinks(links) })
	f.Pool.Warm(t, 1)
	o := osbapi.Options{Broker: f.Broker, Username: "u", Password: "p", Logger: slog.New(slog.DiscardHandler)}
	if err := serveDashboards(&o, links, c, f.Pool.Pool); err != nil {
		t.Fatal(err)
	}
	api, err := osbapi.New(o)
	if err != nil {
		t.Fatal(err)
	}
	do := func(method, path, body string, status int, cookies ...*http.Cookie) *http.Response {
		t.Helper()
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("X-Broker-API-Version", "2.17")
		if !strings.HasPrefix(path, "/dashboard/") {
			r.SetBasicAuth("u", "p")
		}
		for _, c := range cookies {
			r.AddCookie(c)
		}
		rec := httptest.NewRecorder()
		api.ServeHTTP(rec, r)
		if rec.Code != status {
			t.Fatalf("%s %s: %d %s", method, path, rec.Code, rec.Body)
		}
		return rec.Result()
	}
	const ids = `"service_id":"` + brokertest.ServiceID + `","plan_id":"` + brokertest.SmallID + `"`
	var made struct {
		DashboardURL string `json:"dashboard_url"`
	}
	res := do("PUT", "/v2/service_instances/a", `{`+ids+`,"organization_guid":"o","space_guid":"s"}`, 201)
	if err := json.NewDecoder(res.Body).Decode(&made); err != nil {
		t.Fatal(err)
	}
	var bound struct {
		Credentials struct{ Username, Password string }
	}
	res = do("PUT", "/v2/service_instances/a/service_bindings/b1", `{`+ids+`}`, 201)
	if err := json.NewDecoder(res.Body).Decode(&bound); err != nil || bound.Credentials.Password == "" {
		t.Fatal(bound, err)
	}
	page := strings.TrimPrefix(made.DashboardURL, "http://127.0.0.1:8080")
	do("GET", "/dashboard/instances/a", "", 403)
	res = do("GET", page, "", 303)
	res = do("GET", res.Header.Get("Location"), "", 200, res.Cookies()...)
	text, _ := io.ReadAll(res.Body)
	for _, want := range []string{"box small", "48 MiB of 64 MiB", "server-0", "b1", "provision"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	for _, secret := range []string{bound.Credentials.Password, bound.Credentials.Username} {
		if strings.Contains(string(text), secret) {
			t.Error("the page shows a login")
		}
	}
	if link, err := o.DashboardLink(t.Context(), "a"); err != nil || !strings.HasPrefix(link, "http://127.0.0.1:8080/dashboard/instances/a?token=") {
		t.Errorf("%q, %v", link, err)
	}
}

func TestDashboardCommand(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.EscapedPath() != "/admin/v1/instances/a%20b/dashboard" {
			http.Error(w, `{"description":"There is no such service instance."}`, http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte(`{"dashboard_url":"http://x/?token=1.a"}`))
	}))
	defer server.Close()
	t.Setenv("REMUDA_LISTEN", strings.TrimPrefix(server.URL, "http://"))
	t.Setenv("REMUDA_PASSWORD", "x")
	if code, out, errs := runCommand(t, "dashboard", "a b"); code != 0 || out != "http://x/?token=1.a\n" {
		t.Errorf("%d %q %s", code, out, errs)
	}
	if code, _, errs := runCommand(t, "dashboard", "none"); code != 1 || !strings.Contains(errs, "no such service instance") {
		t.Errorf("%d %s", code, errs)
	}
	if code, _, _ := runCommand(t, "dashboard"); code != 2 {
		t.Errorf("no id: %d", code)
	}
}
