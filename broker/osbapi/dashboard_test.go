package osbapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/broker/osbapi"
	"github.com/remuda/remuda/store"
)

// links numbers what it makes, and calls stale what it is told to.
type links struct{ stale bool }

func (*links) Make(i store.Instance) string {
	return "http://broker/dashboard/instances/" + i.ID + "?made=" + i.CreatedAt.Format(time.RFC3339Nano)
}
func (l *links) Stale(i store.Instance) bool { return l.stale || i.DashboardURL == "" }

// dashboardURL is that of an answer.
func dashboardURL(t *testing.T, rec *httptest.ResponseRecorder, status int) string {
	t.Helper()
	var body struct {
		DashboardURL string `json:"dashboard_url"`
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &body); err != nil || rec.Code != status {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return body.DashboardURL
}

// dashboard_url is in the first answer, and the same in all that follow.
func TestDashboardURL(t *testing.T) {
	for name, body := range map[string]string{"plain": provision, "with a hook": strings.Replace(provision, "{", `{"parameters":{"size":3},`, 1)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil, func(o *broker.Options) { o.Links = &links{} })
			w.Pool.Warm(t, 1)
			url := dashboardURL(t, w.call("PUT", instance, body), 201)
			if !strings.HasPrefix(url, "http://broker/dashboard/instances/i1?made=2") {
				t.Error(url)
			}
			if again := dashboardURL(t, w.call("PUT", instance, body), 200); again != url {
				t.Errorf("%q, then %q", url, again)
			}
			if fetched := dashboardURL(t, w.call("GET", instance, ""), 200); fetched != url {
				t.Errorf("%q, then %q", url, fetched)
			}
		})
		t.Run(name+", cold", func(t *testing.T) {
			w := newWorld(t, nil, func(o *broker.Options) { o.Links = &links{} })
			url := dashboardURL(t, w.call("PUT", instance+"?accepts_incomplete=true", body), 202)
			if again := dashboardURL(t, w.call("PUT", instance+"?accepts_incomplete=true", body), 202); again != url || url == "" {
				t.Errorf("%q, then %q", url, again)
			}
			w.Pool.Warm(t, 1)
			brokertest.Eventually(t, "ready", func() bool { return w.call("GET", instance, "").Code == 200 })
			if fetched := dashboardURL(t, w.call("GET", instance, ""), 200); fetched != url {
				t.Errorf("%q, then %q", url, fetched)
			}
		})
	}
}

// A stale link is made anew when the platform fetches the instance, and kept.
func TestDashboardURLIsRefreshed(t *testing.T) {
	l := &renewing{}
	w := newWorld(t, nil, func(o *broker.Options) { o.Links = l })
	w.Pool.Warm(t, 1)
	first := dashboardURL(t, w.call("PUT", instance, provision), 201)
	l.version = 1
	second := dashboardURL(t, w.call("GET", instance, ""), 200)
	if second == first || !strings.HasSuffix(second, "?v=1") {
		t.Errorf("%q, then %q", first, second)
	}
	if put := dashboardURL(t, w.call("PUT", instance, provision), 200); put != second {
		t.Errorf("%q, then %q", second, put)
	}
}

// renewing makes a link stale with every version.
type renewing struct{ version int }

func (l *renewing) Make(i store.Instance) string {
	return "http://broker/" + i.ID + "?v=" + string(rune('0'+l.version))
}
func (l *renewing) Stale(i store.Instance) bool { return i.DashboardURL != l.Make(i) }

func TestDashboardPaths(t *testing.T) {
	w := newWorld(t, func(o *osbapi.Options) {
		o.Dashboard = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte("page " + r.URL.EscapedPath()))
		})
		o.DashboardLink = func(_ context.Context, id string) (string, error) {
			if id != "a b" {
				return "", &broker.Error{Code: broker.NotFound, Message: "There is no such service instance."}
			}
			return "http://link", nil
		}
		o.DashboardClient = func(offering string) (osbapi.DashboardClient, bool) {
			return osbapi.DashboardClient{ID: "remuda-" + offering, Secret: "s", RedirectURI: "http://broker/dashboard/callback"}, offering == "box"
		}
	}, nil)
	r := request("GET", "/dashboard/instances/a%20b", "")
	r.Header.Del("Authorization")
	r.Header.Del("X-Broker-API-Version")
	if rec := w.do(r); rec.Code != 403 || rec.Body.String() != "page /dashboard/instances/a%20b" {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if rec := w.call("POST", "/dashboard/instances/a", "{}"); rec.Code != 405 {
		t.Errorf("POST: %d", rec.Code)
	}
	if url := dashboardURL(t, w.call("GET", "/admin/v1/instances/a%20b/dashboard", ""), 200); url != "http://link" {
		t.Error(url)
	}
	wantRefusal(t, w.call("GET", "/admin/v1/instances/none/dashboard", ""), 404, "service instance")
	var catalog struct {
		Services []struct {
			Name            string
			DashboardClient *osbapi.DashboardClient `json:"dashboard_client"`
		}
	}
	if err := json.Unmarshal(w.call("GET", "/v2/catalog", "").Body.Bytes(), &catalog); err != nil {
		t.Fatal(err)
	}
	for _, s := range catalog.Services {
		if (s.DashboardClient != nil) != (s.Name == "box") || s.Name == "box" && s.DashboardClient.ID != "remuda-box" {
			t.Errorf("%s: %+v", s.Name, s.DashboardClient)
		}
	}
}
