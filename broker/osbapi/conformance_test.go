package osbapi_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/conformance"
)

// The broker conforms, with warm groups and with cold ones, for platforms of all
// versions.
func TestConformance(t *testing.T) {
	for minor := 13; minor <= 17; minor++ {
		t.Run(fmt.Sprintf("warm/2.%d", minor), func(t *testing.T) {
			w := newWorld(t, nil, nil)
			w.Pool.Warm(t, 6)
			wantConformity(t, w.api, fmt.Sprintf("2.%d", minor))
		})
	}
	t.Run("cold", func(t *testing.T) {
		w := newWorld(t, nil, nil)
		// A group becomes warm whenever a platform comes to ask for it.
		polls, done := make(chan struct{}, 1000), make(chan struct{})
		go func() {
			defer close(done)
			for range polls {
				w.Pool.Warm(t, 1)
			}
		}()
		var asked sync.Map // operations: one that is polled twice needs no second group
		wantConformity(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rec := &atOnce{ResponseWriter: rw}
			operation := r.URL.Query().Get("operation")
			if w.api.ServeHTTP(rec, r); operation != "" && strings.HasSuffix(r.URL.Path, "/last_operation") && rec.status == 200 && rec.waits {
				if _, known := asked.LoadOrStore(operation, true); !known {
					polls <- struct{}{}
				}
			}
		}), "2.17")
		close(polls)
		<-done
	})
}

// atOnce lets platforms poll again at once, to spare the test a second.
type atOnce struct {
	http.ResponseWriter
	status int
	waits  bool
}

func (a *atOnce) WriteHeader(status int) {
	a.status = status
	if a.waits = a.Header().Get("Retry-After") != ""; a.waits {
		a.Header().Set("Retry-After", "0")
	}
	a.ResponseWriter.WriteHeader(status)
}

func wantConformity(t *testing.T, h http.Handler, version string) {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	report, err := conformance.Run(t.Context(), conformance.Options{
		URL: server.URL, Username: user, Password: password, Version: version, Strict: true,
		Service: brokertest.ServiceID, Plan: brokertest.SmallID,
		Timeout: 20 * time.Second, PollInterval: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if report.Failed() || report.Incomplete != "" {
		_ = report.WriteText(t.Output())
		t.Error("the broker does not conform")
	}
	t.Log(report.Summary())
}
