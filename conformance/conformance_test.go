package conformance_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/remuda/remuda/conformance"
	"github.com/remuda/remuda/conformance/faulty"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	user     = "platform"
	password = "the-broker's-\"password\""
)

func serve(t *testing.T, h http.Handler) conformance.Options {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return conformance.Options{
		URL: server.URL, Username: user, Password: password, Strict: true,
		Timeout: 10 * time.Second, RequestTimeout: 5 * time.Second, PollInterval: time.Millisecond,
	}
}

func check(t *testing.T, o conformance.Options) *conformance.Report {
	t.Helper()
	report, err := conformance.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func result(t *testing.T, r *conformance.Report, id string) conformance.Result {
	t.Helper()
	for _, x := range r.Results {
		if x.ID == id {
			return x
		}
	}
	t.Fatalf("there is no rule %q", id)
	return conformance.Result{}
}

// A broker that is right passes, whatever its version, manner and plan.
func TestRight(t *testing.T) {
	for _, async := range []bool{false, true} {
		for minor := 13; minor <= 17; minor++ {
			for _, service := range []string{"", faulty.BareID, faulty.RoutesID} {
				t.Run(fmt.Sprintf("async=%v/2.%d/%s", async, minor, service), func(t *testing.T) {
					t.Parallel()
					broker := faulty.New(faulty.Options{Username: user, Password: password, Async: async})
					o := serve(t, broker)
					o.Version, o.Service = fmt.Sprintf("2.%d", minor), service
					report := check(t, o)
					for _, x := range report.Results {
						if x.Status == conformance.Fail {
							t.Errorf("%s: sent %s, expected %s, got %s", x.ID, x.Sent, x.Expected, x.Got)
						}
						if x.Status == conformance.Skip && x.Since <= minor && service == "" && x.Reason == "the situation did not arise" {
							t.Logf("%s did not arise", x.ID)
						}
					}
					if left := broker.Left(); left != 0 {
						t.Errorf("%d instances and bindings are left", left)
					}
				})
			}
		}
	}
}

// Every fault is found, at the rule that it breaks.
func TestFaults(t *testing.T) {
	for _, f := range faulty.Faults {
		t.Run(f.Name+"/"+f.Rule, func(t *testing.T) {
			t.Parallel()
			broker := faulty.New(faulty.Options{Username: user, Password: password, Async: f.Async, Fault: f.Name})
			report := check(t, serve(t, broker))
			x := result(t, report, f.Rule)
			for n := 0; n < 4 && strings.HasSuffix(f.Name, "-race") && x.Status != conformance.Fail; n++ {
				report = check(t, serve(t, broker)) // two requests must have met
				x = result(t, report, f.Rule)
			}
			if x.Status != conformance.Fail {
				var failed []string
				for _, x := range report.Results {
					if x.Status == conformance.Fail {
						failed = append(failed, x.ID)
					}
				}
				t.Fatalf("%s: %s %s; failed: %v", x.ID, x.Status, x.Reason, failed)
			}
			if x.Sent == "" || x.Expected == "" || x.Got == "" {
				t.Errorf("not explained: %+v", x)
			}
			wantNoSecrets(t, report)
			if left := broker.Left(); left != 0 && !strings.HasSuffix(f.Name, "-remains") && !strings.HasSuffix(f.Name, "-fails") {
				t.Errorf("%d instances and bindings are left", left)
			}
		})
	}
}

// Every rule is broken by a fault. A broker that does not answer is another test.
func TestRulesHaveFaults(t *testing.T) {
	broken := map[string]bool{"general.answers": true}
	for _, f := range faulty.Faults {
		broken[f.Rule] = true
	}
	seen := map[string]bool{}
	for _, r := range conformance.Rules() {
		if !broken[r.ID] {
			t.Errorf("no fault breaks %s", r.ID)
		}
		if seen[r.ID] {
			t.Errorf("%s is there twice", r.ID)
		}
		seen[r.ID] = true
	}
}

func wantNoSecrets(t *testing.T, r *conformance.Report) {
	t.Helper()
	var b strings.Builder
	for _, write := range []func() error{
		func() error { return r.WriteText(&b) },
		func() error { return r.WriteJSON(&b) },
		func() error { return r.WriteJUnit(&b) },
	} {
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	for _, secret := range []string{password, "the-broker's", "the-same-for-all", "dashboard-secret", "syslog://"} {
		if strings.Contains(b.String(), secret) {
			t.Errorf("the report has %q", secret)
		}
	}
}

// When interrupted, the check cleans up.
func TestInterrupt(t *testing.T) {
	for n := 20; n < 220; n += 40 {
		broker := faulty.New(faulty.Options{Username: user, Password: password, Async: n%3 == 0})
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		o := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if calls++; calls == n {
				cancel()
			}
			broker.ServeHTTP(w, r)
		}))
		report, err := conformance.Run(ctx, o)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if left := broker.Left(); left != 0 {
			t.Errorf("after %d calls: %d instances and bindings are left", n, left)
		}
		if report.Failed() {
			_ = report.WriteText(t.Output())
			t.Errorf("after %d calls: an interruption is no failure", n)
		}
	}
}

// Parameters can hold passwords, so they are in no report.
func TestSecretParameters(t *testing.T) {
	for _, fault := range []string{"catalog-open", "provision-malformed-crash", "types-ignored", "bind-malformed-422", "conflict-422", "bind-conflict-422", "errors-text"} {
		broker := faulty.New(faulty.Options{Username: user, Password: password, Fault: fault})
		o := serve(t, broker)
		o.Parameters, o.BindParameters = map[string]any{"colour": "blue"}, map[string]any{"colour": "blue"}
		report := check(t, o)
		wantNoSecrets(t, report)
		var b strings.Builder
		if err := report.WriteText(&b); err != nil || !report.Failed() || strings.Contains(b.String(), "blue") {
			t.Errorf("%s: %v\n%s", fault, err, b.String())
		}
	}
}

func TestTLS(t *testing.T) {
	server := httptest.NewTLSServer(faulty.New(faulty.Options{Username: user, Password: password}))
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	for _, insecure := range []bool{false, true} {
		report := check(t, conformance.Options{URL: server.URL + "/", Username: user, Password: password, Insecure: insecure})
		if report.Failed() == insecure {
			t.Errorf("insecure %v: %s", insecure, report.Summary())
		}
	}
}

// A broker that asks for no login has no rules of logins.
func TestNoLogin(t *testing.T) {
	broker := faulty.New(faulty.Options{})
	o := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("a login was sent")
		}
		broker.ServeHTTP(w, r)
	}))
	o.Username, o.Password = "", ""
	report := check(t, o)
	if report.Failed() || result(t, report, "auth.catalog").Status != conformance.Skip {
		_ = report.WriteText(t.Output())
		t.Error("failed")
	}
}

// Options name what to use, by id or name.
func TestChoice(t *testing.T) {
	for name, test := range map[string]struct {
		change     func(*conformance.Options)
		plan       string
		incomplete bool
	}{
		"default":        {func(*conformance.Options) {}, "small", false},
		"plan":           {func(o *conformance.Options) { o.Plan = "large" }, "large", false},
		"plan id":        {func(o *conformance.Options) { o.Service, o.Plan = "full", faulty.LargeID }, "large", false},
		"update plan":    {func(o *conformance.Options) { o.UpdatePlan = faulty.LargeID }, "small", false},
		"no such plan":   {func(o *conformance.Options) { o.Plan = "huge" }, "", true},
		"no such update": {func(o *conformance.Options) { o.UpdatePlan = "huge" }, "small", true},
	} {
		o := serve(t, faulty.New(faulty.Options{Username: user, Password: password}))
		test.change(&o)
		report := check(t, o)
		if report.Failed() || report.Plan != test.plan || (report.Incomplete != "") != test.incomplete {
			t.Errorf("%s: plan %q, incomplete %q, %s", name, report.Plan, report.Incomplete, report.Summary())
		}
		want := conformance.Pass
		if name == "no such plan" || name == "no such update" {
			want = conformance.Skip
		}
		if x := result(t, report, "update.plan"); x.Status != want {
			t.Errorf("%s: %s %s", name, x.ID, x.Status)
		}
	}
}

// Rules that the code names exist.
func TestRuleNames(t *testing.T) {
	areas, known := map[string]bool{}, map[string]bool{}
	for _, r := range conformance.Rules() {
		area, _, _ := strings.Cut(r.ID, ".")
		areas[area], known[r.ID] = true, true
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"([a-z0-9-]+)\.[a-z0-9-]+"`).FindAllStringSubmatch(string(text), -1) {
			if id := strings.Trim(m[0], `"`); areas[m[1]] && !known[id] && !strings.HasSuffix(id, "-") {
				t.Errorf("%s names %s", file, id)
			}
		}
	}
}
