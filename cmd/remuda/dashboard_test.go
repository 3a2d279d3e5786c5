package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
