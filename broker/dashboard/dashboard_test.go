package dashboard_test

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/dashboard"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write the golden files anew")

var birth = time.Date(2026, 3, 1, 12, 0, 0, 123, time.UTC)

// world is a dashboard over records in memory, at a time of the test's own.
type world struct {
	*dashboard.Handler
	links     *dashboard.Links
	server    *httptest.Server
	browser   *http.Client // keeps cookies, follows no redirect
	now       time.Time
	instances map[string]broker.Details
	look      func() (provisioner.Inspection, error)
}

func newWorld(t *testing.T, oauth *dashboard.OAuth) *world {
	t.Helper()
	w := &world{now: birth.Add(time.Hour), instances: map[string]broker.Details{}}
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.ServeHTTP(rw, r) }))
	t.Cleanup(w.server.Close)
	w.links = newLinks(t, dashboard.LinkOptions{Base: w.server.URL, Login: oauth != nil, Now: func() time.Time { return w.now }})
	var err error
	w.Handler, err = dashboard.New(dashboard.Options{
		Links: w.links, OAuth: oauth, Logger: slog.New(slog.DiscardHandler),
		Broker:  reader(func(id string) (d broker.Details, ok bool) { d, ok = w.instances[id]; return d, ok }),
		Inspect: func(context.Context, string) (provisioner.Inspection, error) { return w.look() },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.look = func() (provisioner.Inspection, error) { return inspection("ready\n"), nil }
	w.browser = w.newBrowser(t)
	w.instances["shop"] = details("shop")
	w.instances["other"] = details("other")
	return w
}

// reader is a dashboard.Broker over a function.
type reader func(id string) (broker.Details, bool)

func (r reader) Brief(_ context.Context, id string) (broker.Details, error) {
	d, ok := r(id)
	if !ok {
		return d, &broker.Error{Code: broker.NotFound, Message: "no"}
	}
	return broker.Details{Instance: d.Instance, Offering: d.Offering, Plan: d.Plan}, nil
}

func (r reader) Details(_ context.Context, id string) (broker.Details, error) {
	d, ok := r(id)
	if !ok {
		return d, &broker.Error{Code: broker.NotFound, Message: "no"}
	}
	return d, nil
}

func newLinks(t testing.TB, o dashboard.LinkOptions) *dashboard.Links {
	t.Helper()
	if o.Keys == nil {
		o.Keys = [][]byte{make([]byte, 32)}
	}
	l, err := dashboard.NewLinks(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (w *world) newBrowser(t *testing.T) *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func details(id string) broker.Details {
	return broker.Details{
		Instance: store.Instance{ID: id, State: store.InstanceReady, GroupID: "g", CreatedAt: birth},
		Offering: "mysql", Plan: "small",
		Endpoints: []store.Endpoint{{Name: "mysql", Host: "db.example.com", Port: 30000}, {Name: "passive", Host: "::1", Port: 30001, Count: 10}},
		Bindings: []broker.BindingDetails{
			{ID: "b1", State: store.BindingReady, AppGUID: "app-1", CreatedAt: birth.Add(time.Minute)},
			{ID: "b2", State: store.BindingDeleting, CreatedAt: birth.Add(2 * time.Minute), ExpiresAt: birth.Add(99 * time.Hour)},
		},
		More: 3,
		History: []broker.HistoryEntry{
			{Time: birth.Add(time.Minute), Operation: "bind", BindingID: "b1", Result: "created"},
			{Time: birth, Operation: "provision", Result: "refused"},
		},
	}
}

func inspection(log string) provisioner.Inspection {
	well := provisioner.MemberObservation{ID: "c1", Role: "server", PID: 7, StartedAt: birth, Healthy: true}
	dead := provisioner.MemberObservation{ID: "c2", Role: "replica", Reason: "its container has ended"}
	unknown := provisioner.Usage{Used: -1, Limit: 64 << 20}
	return provisioner.Inspection{Members: []provisioner.MemberInspection{
		{MemberObservation: well, Name: "server-0", Memory: provisioner.Usage{Used: 62 << 20, Limit: 64 << 20},
			Disk: provisioner.Usage{Used: 800 << 20, Limit: 1 << 30}, CPU: provisioner.Usage{Used: 123, Limit: 500}, Log: log},
		{MemberObservation: dead, Name: "replica-0", Memory: unknown, Disk: unknown, CPU: unknown},
	}}
}

// get asks for an address and returns answer and body.
func (w *world) get(t *testing.T, address string) (*http.Response, string) {
	t.Helper()
	if strings.HasPrefix(address, "/") {
		address = w.server.URL + address
	}
	res, err := w.browser.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// open follows an instance's link to its page.
func (w *world) open(t *testing.T, id string) (*http.Response, string) {
	t.Helper()
	res, _ := w.get(t, w.links.Make(w.instances[id].Instance))
	if res.StatusCode != http.StatusSeeOther {
		t.Fatalf("link: %s", res.Status)
	}
	// Not by the jar: unlike browsers, it compares a cookie's path with the
	// unescaped one.
	req, err := http.NewRequest("GET", w.server.URL+res.Header.Get("Location"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.AddCookie(res.Cookies()[0])
	page, err := w.newBrowser(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer page.Body.Close()
	body, err := io.ReadAll(page.Body)
	if err != nil {
		t.Fatal(err)
	}
	return page, string(body)
}

func TestPage(t *testing.T) {
	w := newWorld(t, nil)
	res, body := w.open(t, "shop")
	if res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	golden(t, "page.html", body)
	for header, want := range map[string]string{
		"Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex, nofollow, noarchive", "Cache-Control": "no-store",
		"X-Content-Type-Options": "nosniff", "Content-Type": "text/html; charset=utf-8", "X-Frame-Options": "DENY",
	} {
		if got := res.Header.Get(header); got != want {
			t.Errorf("%s is %q, want %q", header, got, want)
		}
	}
	policy := res.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
		t.Errorf("policy %q", policy)
	}
	for _, not := range []string{"<script", "style=", "onclick", "src=", "href="} {
		if strings.Contains(body, not) {
			t.Errorf("the page has %q", not)
		}
	}
}

func TestOtherStates(t *testing.T) {
	w := newWorld(t, nil)
	for _, test := range []struct {
		name   string
		change func(*broker.Details)
		says   []string
	}{
		{"failed", func(d *broker.Details) {
			d.Instance.State, d.Instance.GroupID, d.Failure = store.InstanceFailed, "", "It did not become ready in time."
		},
			[]string{"It did not become ready in time.", `<span class="badge bad">failed</span>`, "There are none to be shown."}},
		{"creating", func(d *broker.Details) {
			d.Instance.State, d.Instance.GroupID, d.Endpoints, d.Bindings, d.History = store.InstanceCreating, "", nil, nil, nil
		},
			[]string{"is being created", `<dd>none yet</dd>`, "There are none.", "None are known any more."}},
		{"blind", func(*broker.Details) {
			w.look = func() (provisioner.Inspection, error) { return provisioner.Inspection{}, errors.New("SECRET") }
		},
			[]string{"cannot be looked at just now"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := details("shop")
			test.change(&d)
			w.instances["shop"] = d
			_, body := w.open(t, "shop")
			for _, says := range test.says {
				if !strings.Contains(body, says) {
					t.Errorf("the page does not say %q", says)
				}
			}
			if strings.Contains(body, "SECRET") {
				t.Error("internal text is shown")
			}
		})
	}
}

// However many pages are asked for, groups are looked into a few at a time.
func TestLooksAreBounded(t *testing.T) {
	w := newWorld(t, nil)
	var mu sync.Mutex
	at, most := 0, 0
	w.look = func() (provisioner.Inspection, error) {
		mu.Lock()
		at++
		most = max(most, at)
		mu.Unlock()
		time.Sleep(5 * time.Millisecond)
		mu.Lock()
		at--
		mu.Unlock()
		return inspection(""), nil
	}
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if res, body := w.open(t, "shop"); res.StatusCode != 200 || strings.Contains(body, "just now.") {
				t.Error(res.Status)
			}
		})
	}
	wg.Wait()
	if most > 8 {
		t.Errorf("%d at a time", most)
	}
}

func TestNothingIsTakenForHTML(t *testing.T) {
	w := newWorld(t, nil)
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>`
	id := `i">` + "<script>alert(1)<\u2215script> ;Path=x"
	d := details(id)
	d.Offering, d.Plan, d.Failure = evil, evil, evil
	d.Endpoints = []store.Endpoint{{Name: evil, Host: evil, Port: 1}}
	d.Bindings = []broker.BindingDetails{{ID: evil, State: evil, AppGUID: evil}}
	d.History = []broker.HistoryEntry{{Operation: evil, BindingID: evil, Result: evil}}
	w.instances[id] = d
	w.look = func() (provisioner.Inspection, error) {
		seen := inspection("</pre>" + evil)
		seen.Members[0].Name, seen.Members[0].Role = evil, evil
		seen.Members[1].Reason = evil
		return seen, nil
	}
	res, body := w.open(t, id)
	if res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	for _, not := range []string{"<script", "<img", "</pre>\"", "onerror=alert(1)>"} {
		if strings.Contains(body, not) {
			t.Errorf("the page has %q", not)
		}
	}
	if n := strings.Count(body, "&lt;script&gt;"); n < 12 {
		t.Errorf("only %d of the texts are shown", n)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := "testdata/" + name
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not as before; run with -update and look at the difference:\n%s", name, got)
	}
}

func wantForbidden(t *testing.T, what string, res *http.Response, body string) {
	t.Helper()
	if res.StatusCode != http.StatusForbidden || !strings.Contains(body, "remuda dashboard") {
		t.Errorf("%s: %s %s", what, res.Status, body)
	}
	if res.Header.Get("Set-Cookie") != "" {
		t.Errorf("%s: a cookie was set", what)
	}
}

func TestTokens(t *testing.T) {
	w := newWorld(t, nil)
	shop := w.instances["shop"].Instance
	good := w.links.Make(shop)
	token := good[strings.Index(good, "=")+1:]
	page := w.server.URL + "/dashboard/instances/shop"
	expired := w.links.Make(shop)
	foreign := newLinks(t, dashboard.LinkOptions{Base: w.server.URL, Keys: [][]byte{[]byte(strings.Repeat("k", 32))}, Now: func() time.Time { return w.now }})
	reborn := shop
	reborn.CreatedAt = birth.Add(time.Nanosecond)
	for name, address := range map[string]string{
		"no token":           page,
		"empty":              page + "?token=",
		"cut":                page + "?token=" + token[:len(token)-1],
		"longer":             page + "?token=" + token + "A",
		"later expiry":       page + "?token=9" + token,
		"expiry with a plus": page + "?token=%2B" + token,
		"expiry with a zero": page + "?token=0" + token,
		"other instance":     strings.Replace(good, "/shop", "/other", 1),
		"no instance":        strings.Replace(good, "/shop", "/none", 1),
		"foreign key":        foreign.Make(shop),
		"former instance":    w.links.Make(reborn),
		"garbage":            page + "?token=.",
	} {
		res, body := w.get(t, address)
		wantForbidden(t, name, res, body)
	}
	for _, path := range []string{"/dashboard/", "/dashboard/instances/", "/dashboard/instances", "/dashboard/callback", "/dashboard/instances/shop/x", "/dashboard/instances/a%2Fb", "/dashboard/../x"} {
		res, body := w.get(t, path)
		wantForbidden(t, path, res, body)
	}
	w.now = w.now.Add(30 * 24 * time.Hour)
	res, body := w.get(t, expired)
	wantForbidden(t, "expired", res, body)
}

func TestSession(t *testing.T) {
	w := newWorld(t, nil)
	link := w.links.Make(w.instances["shop"].Instance)
	res, _ := w.get(t, link)
	if to := res.Header.Get("Location"); to != "/dashboard/instances/shop" {
		t.Errorf("leads to %q", to)
	}
	c := res.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/dashboard/instances/shop" || c.MaxAge != 3600 || c.Secure || c.Domain != "" {
		t.Errorf("cookie %+v", c)
	}
	if res, _ := w.get(t, "/dashboard/instances/shop"); res.StatusCode != 200 {
		t.Error(res.Status)
	}
	res, body := w.get(t, "/dashboard/instances/other")
	wantForbidden(t, "other instance", res, body)
	use := func(path, value string) (*http.Response, string) {
		t.Helper()
		w.browser = w.newBrowser(t)
		at, _ := url.Parse(w.server.URL + path)
		w.browser.Jar.SetCookies(at, []*http.Cookie{{Name: c.Name, Value: value, Path: "/"}})
		return w.get(t, path)
	}
	if res, _ := use("/dashboard/instances/shop", c.Value); res.StatusCode != 200 {
		t.Error(res.Status)
	}
	res, body = use("/dashboard/instances/other", c.Value)
	wantForbidden(t, "session of another instance", res, body)
	res, body = use("/dashboard/instances/shop", link[strings.Index(link, "=")+1:])
	wantForbidden(t, "token of a link as session", res, body)
	res, body = w.get(t, "/dashboard/instances/shop?token="+c.Value)
	wantForbidden(t, "session as token of a link", res, body)
	delete(w.instances, "shop")
	res, body = use("/dashboard/instances/shop", c.Value)
	wantForbidden(t, "deleted instance", res, body)
	w.instances["shop"] = details("shop")
	w.now = w.now.Add(time.Hour)
	res, body = use("/dashboard/instances/shop", c.Value)
	wantForbidden(t, "expired session", res, body)
}

func TestSecureCookieAndPrefix(t *testing.T) {
	links := newLinks(t, dashboard.LinkOptions{Base: "https://broker.example.com/remuda/"})
	h, err := dashboard.New(dashboard.Options{Links: links, Broker: reader(func(string) (broker.Details, bool) { return details("a b;c"), true })})
	if err != nil {
		t.Fatal(err)
	}
	link := links.Make(details("a b;c").Instance)
	if !strings.HasPrefix(link, "https://broker.example.com/remuda/dashboard/instances/a%20b%3Bc?token=") {
		t.Error(link)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", strings.TrimPrefix(link, "https://broker.example.com/remuda"), nil))
	res := rec.Result()
	c := res.Cookies()[0]
	if to := res.Header.Get("Location"); to != "/remuda/dashboard/instances/a%20b%3Bc" || !c.Secure || c.Path != to {
		t.Errorf("leads to %q with %+v", to, c)
	}
}

func TestLinks(t *testing.T) {
	now := birth
	options := dashboard.LinkOptions{Base: "http://h", Lifetime: 100 * time.Hour, Now: func() time.Time { return now }}
	links := newLinks(t, options)
	inst := store.Instance{ID: "i", CreatedAt: birth}
	if !links.Stale(inst) {
		t.Error("no link is not stale")
	}
	inst.DashboardURL = links.Make(inst)
	if links.Make(inst) != inst.DashboardURL {
		t.Error("the same moment makes another link")
	}
	options.Keys = [][]byte{[]byte(strings.Repeat("n", 32)), make([]byte, 32)}
	rotated := newLinks(t, options)
	options.Base = "https://moved"
	moved := newLinks(t, options)
	for after, want := range map[time.Duration]bool{0: false, 74 * time.Hour: false, 76 * time.Hour: true, 200 * time.Hour: true} {
		now = birth.Add(after)
		if links.Stale(inst) != want || rotated.Stale(inst) != want {
			t.Errorf("after %s: stale is %v", after, !want)
		}
	}
	now = birth
	if !moved.Stale(inst) {
		t.Error("a link to a former address is not stale")
	}
	for _, base := range []string{"", "broker", "ftp://x", "http://", "http://x?y", "http://u:p@x", "http://x#y"} {
		if _, err := dashboard.NewLinks(dashboard.LinkOptions{Base: base, Keys: options.Keys}); err == nil {
			t.Errorf("base %q was taken", base)
		}
	}
}
