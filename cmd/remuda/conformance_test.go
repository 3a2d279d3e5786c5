package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/remuda/remuda/conformance/faulty"
)

const brokerPassword = "only-the-broker-knows"

func TestConformance(t *testing.T) {
	t.Setenv("REMUDA_PASSWORD", brokerPassword)
	t.Setenv("REMUDA_USERNAME", "")
	serve := func(fault string) string {
		server := httptest.NewServer(faulty.New(faulty.Options{Username: "admin", Password: brokerPassword, Fault: fault}))
		t.Cleanup(server.Close)
		return server.URL
	}
	right, wrong, lax := serve(""), serve("unbind-repeat-200"), serve("version-ignored")
	isJSON := func(s string) bool { return json.Valid([]byte(s)) }
	isXML := func(s string) bool { var v struct{ XMLName xml.Name }; return xml.Unmarshal([]byte(s), &v) == nil }
	says := func(what string) func(string) bool { return func(s string) bool { return strings.Contains(s, what) } }
	for name, test := range map[string]struct {
		args   []string
		code   int
		stdout func(string) bool
	}{
		"right":          {[]string{"--url", right}, 0, says(" 0 failed")},
		"old":            {[]string{"--url", right, "--api-version", "2.13", "--parameters", `{"colour":"red"}`}, 0, says("OSB 2.13")},
		"wrong":          {[]string{"--url", wrong}, 1, says("FAIL  unbind.repeat")},
		"warning":        {[]string{"--url", lax}, 0, says("WARN  version.unsupported")},
		"strict":         {[]string{"--url", lax, "--strict"}, 1, says("FAIL  version.unsupported")},
		"json":           {[]string{"--url", right, "-o", "json"}, 0, isJSON},
		"junit":          {[]string{"--url", wrong, "-o", "junit"}, 1, isXML},
		"wrong password": {[]string{"--url", right, "--password", "x"}, 1, says("FAIL  catalog.status")},
		"no plan":        {[]string{"--url", right, "--plan", "huge"}, 1, says("no such plan")},
		"output":         {[]string{"--url", right, "-o", "yaml"}, 2, nil},
		"no URL":         {nil, 2, nil},
		"parameters":     {[]string{"--url", right, "--parameters", `{"secret":"x"`}, 2, nil},
		"version":        {[]string{"--url", right, "--api-version", "3.0"}, 2, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			args := append([]string{"conformance", "--username", "admin"}, test.args...)
			if code := run(t.Context(), args, &stdout, &stderr); code != test.code {
				t.Errorf("exit code %d: %s", code, stderr.String())
			}
			if test.stdout != nil && !test.stdout(stdout.String()) {
				t.Errorf("stdout: %s", stdout.String())
			}
			if out := stdout.String() + stderr.String(); strings.Contains(out, brokerPassword) || strings.Contains(out, "secret\":\"x") {
				t.Error("a secret was printed")
			}
		})
	}
}

// Ctrl-C ends the check, and what it made is deleted.
func TestConformanceInterrupted(t *testing.T) {
	t.Setenv("REMUDA_PASSWORD", brokerPassword)
	broker := faulty.New(faulty.Options{Username: "admin", Password: brokerPassword, Async: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		broker.ServeHTTP(w, r)
		if broker.Left() > 2 {
			cancel()
		}
	}))
	defer server.Close()
	var stdout, stderr strings.Builder
	code := run(ctx, []string{"conformance", "--username", "admin", "--url", server.URL}, &stdout, &stderr)
	if code != 1 || broker.Left() != 0 || !strings.Contains(stdout.String(), "incomplete: the check was interrupted") {
		t.Errorf("exit code %d, %d left: %s", code, broker.Left(), stderr.String())
	}
}
