package dashboard_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/dashboard"
)

// loginServer is an OAuth 2.0 server with the permissions of a Cloud Foundry
// API beside it. It checks what a real one checks: client, redirect URI, PKCE,
// and that a code is good for once.
type loginServer struct {
	*httptest.Server
	t      *testing.T
	mu     sync.Mutex
	codes  map[string]url.Values // code → what was asked for
	answer string                // of the permissions
	status int
	asked  []string // paths of permissions that were asked for
}

func newLoginServer(t *testing.T) *loginServer {
	s := &loginServer{t: t, codes: map[string]url.Values{}, answer: `{"manage":false,"read":true}`, status: 200}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /authorize", s.authorize)
	mux.HandleFunc("POST /token", s.token)
	mux.HandleFunc("GET /v3/service_instances/{id}/permissions", s.permissions)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *loginServer) oauth() *dashboard.OAuth {
	return &dashboard.OAuth{
		AuthorizationURL: s.URL + "/authorize", TokenURL: s.URL + "/token",
		PermissionsURL: s.URL + "/v3/service_instances/{instance_id}/permissions",
		ClientID:       "remuda-{offering}", ClientSecret: "client-secret", Scopes: []string{"openid", "cloud_controller_service_permissions.read"},
		Client: s.Client(),
	}
}

// authorize is the login: whoever comes is let in.
func (s *loginServer) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("response_type") != "code" || q.Get("client_id") != "remuda-mysql" || q.Get("code_challenge_method") != "S256" ||
		len(q.Get("code_challenge")) != 43 || len(q.Get("state")) < 20 || !strings.Contains(q.Get("scope"), "service_permissions") ||
		!strings.HasSuffix(q.Get("redirect_uri"), "/dashboard/callback") {
		s.t.Errorf("authorization request %v", q)
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	code := fmt.Sprintf("code-%d", len(s.codes))
	s.codes[code] = q
	to, _ := url.Parse(q.Get("redirect_uri"))
	to.RawQuery = url.Values{"code": {code}, "state": {q.Get("state")}}.Encode()
	http.Redirect(w, r, to.String(), http.StatusFound)
}

func (s *loginServer) token(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user, password, _ := r.BasicAuth()
	code := r.PostFormValue("code")
	asked := s.codes[code]
	delete(s.codes, code)
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	w.Header().Set("Content-Type", "application/json")
	if user != "remuda-mysql" || password != "client-secret" || r.PostFormValue("grant_type") != "authorization_code" ||
		asked == nil || asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) || asked.Get("redirect_uri") != r.PostFormValue("redirect_uri") {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"invalid_grant"}`)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "user-token", "token_type": "bearer", "expires_in": 600})
}

func (s *loginServer) permissions(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer user-token" {
		s.t.Errorf("authorization %q", r.Header.Get("Authorization"))
	}
	s.asked = append(s.asked, r.PathValue("id"))
	w.WriteHeader(s.status)
	fmt.Fprint(w, s.answer)
}

// login goes from the page's address to the answer of the callback, without
// sending the last request.
func login(t *testing.T, w *world) (callback string) {
	t.Helper()
	res, _ := w.get(t, "/dashboard/instances/shop")
	if res.StatusCode != http.StatusSeeOther {
		t.Fatal(res.Status)
	}
	res, _ = w.get(t, res.Header.Get("Location"))
	if res.StatusCode != http.StatusFound {
		t.Fatal(res.Status)
	}
	return res.Header.Get("Location")
}

func TestLogin(t *testing.T) {
	s := newLoginServer(t)
	w := newWorld(t, s.oauth())
	inst := w.instances["shop"].Instance
	if link := w.links.Make(inst); link != w.server.URL+"/dashboard/instances/shop" {
		t.Errorf("dashboard_url %q", link)
	}
	inst.DashboardURL = w.links.Make(inst)
	if w.now = w.now.Add(1000 * time.Hour); w.links.Stale(inst) {
		t.Error("an address without a token becomes stale")
	}
	res, _ := w.get(t, login(t, w))
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/dashboard/instances/shop" {
		t.Fatalf("%s to %q", res.Status, res.Header.Get("Location"))
	}
	if res, body := w.get(t, res.Header.Get("Location")); res.StatusCode != 200 || !strings.Contains(body, "db.example.com") {
		t.Error(res.Status)
	}
	if len(s.asked) != 1 || s.asked[0] != "shop" {
		t.Errorf("asked for %v", s.asked)
	}
	// The session opens no other instance: that needs a login of its own.
	if res, _ := w.get(t, "/dashboard/instances/other"); res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(res.Header.Get("Location"), s.URL) {
		t.Errorf("other instance: %s", res.Status)
	}
	// An operator's link needs no login.
	w.browser = w.newBrowser(t)
	if res, _ := w.get(t, w.links.ForOperator(inst)); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/dashboard/instances/shop" {
		t.Errorf("operator: %s", res.Status)
	}
	w.now = w.now.Add(time.Hour)
	c, ok := w.Client("redis")
	if !ok || c.ID != "remuda-redis" || c.Secret != "client-secret" || c.RedirectURI != w.server.URL+"/dashboard/callback" {
		t.Errorf("client %+v", c)
	}
}

func TestLoginRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(*loginServer, *world)
		change  func(callback string) string
		status  int
	}{
		"may not":            {func(s *loginServer, _ *world) { s.answer = `{"manage":false,"read":false}` }, nil, 403},
		"empty answer":       {func(s *loginServer, _ *world) { s.answer = `{}` }, nil, 403},
		"platform refuses":   {func(s *loginServer, _ *world) { s.status = 404 }, nil, 403},
		"platform fails":     {func(s *loginServer, _ *world) { s.status = 500 }, nil, 503},
		"platform redirects": {func(s *loginServer, _ *world) { s.status = 204 }, nil, 503},
		"no JSON":            {func(s *loginServer, _ *world) { s.answer = `<html>` }, nil, 503},
		"other state":        {nil, func(c string) string { return strings.Replace(c, "state=", "state=A", 1) }, 403},
		"no state":           {nil, func(c string) string { return c[:strings.Index(c, "&state=")] }, 403},
		"other code":         {nil, func(c string) string { return strings.Replace(c, "code=code-", "code=edoc-", 1) }, 403},
		"user said no":       {nil, func(c string) string { return strings.Replace(c, "code=", "error=access_denied&x=", 1) }, 403},
		"too late":           {func(_ *loginServer, w *world) { w.now = w.now.Add(10 * time.Minute) }, nil, 403},
		"instance is gone":   {func(_ *loginServer, w *world) { delete(w.instances, "shop") }, nil, 403},
		"other browser":      {func(_ *loginServer, w *world) { w.browser = &http.Client{Transport: w.browser.Transport} }, nil, 403},
	} {
		t.Run(name, func(t *testing.T) {
			s := newLoginServer(t)
			w := newWorld(t, s.oauth())
			callback := login(t, w)
			if test.prepare != nil {
				test.prepare(s, w)
			}
			if test.change != nil {
				callback = test.change(callback)
			}
			res, body := w.get(t, callback)
			if res.StatusCode != test.status {
				t.Errorf("%s: %s", res.Status, body)
			}
			for _, c := range res.Cookies() {
				if c.Name == "remuda_dashboard" {
					t.Error("a session began")
				}
			}
		})
	}
}

// A code that somebody else got, with a verifier that is not known, is worth
// nothing; and a callback works once.
func TestLoginUsesPKCEAndOnce(t *testing.T) {
	s := newLoginServer(t)
	w := newWorld(t, s.oauth())
	stolen := login(t, w)
	w.browser = w.newBrowser(t)
	mine := login(t, w)
	code := func(callback string) string {
		u, _ := url.Parse(callback)
		return u.Query().Get("code")
	}
	if res, _ := w.get(t, strings.Replace(mine, code(mine), code(stolen), 1)); res.StatusCode != 403 {
		t.Errorf("a stolen code: %s", res.Status)
	}
	w.browser = w.newBrowser(t)
	again := login(t, w)
	if res, _ := w.get(t, again); res.StatusCode != http.StatusSeeOther {
		t.Errorf("own code: %s", res.Status)
	}
	if res, _ := w.get(t, again); res.StatusCode != 403 {
		t.Errorf("the same callback again: %s", res.Status)
	}
}

func FuzzToken(f *testing.F) {
	f.Add("1.AAAA")
	links := newLinks(f, dashboard.LinkOptions{Base: "http://h"})
	w, err := dashboard.New(dashboard.Options{Links: links, Broker: reader(func(string) (broker.Details, bool) { return details("shop"), true })})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token string) {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/dashboard/instances/shop", nil)
		r.URL.RawQuery = url.Values{"token": {token}}.Encode()
		r.AddCookie(&http.Cookie{Name: "remuda_dashboard", Value: token})
		w.ServeHTTP(rec, r)
		if rec.Code != 403 {
			t.Errorf("%d", rec.Code)
		}
	})
}
