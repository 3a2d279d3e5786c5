package osbapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/remuda/remuda/broker/brokertest"
)

// wantNoHarm checks that an answer is JSON and that nothing went wrong inside.
func wantNoHarm(t *testing.T, rec *httptest.ResponseRecorder) {
	t.Helper()
	if rec.Code >= 500 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	var body map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &body); err != nil {
		t.Errorf("body %q: %v", rec.Body, err)
	}
	if description, ok := body["description"].(string); rec.Code >= 400 && (!ok || description == "") {
		t.Errorf("%d without a description", rec.Code)
	}
}

// FuzzBodies sends bodies to all calls that have one. Nothing is warm, so that
// a good one is refused too.
func FuzzBodies(f *testing.F) {
	for _, body := range []string{
		provision, bind, "", "null", "[]", `{"a":`, `{"service_id":1}`, provision + "x",
		`{"service_id":"service-box","plan_id":"plan-small","organization_guid":"o","space_guid":"s","parameters":{"size":1e400}}`,
		`{"service_id":"service-box","plan_id":"plan-small","parameters":{"readonly":true},"bind_resource":{"app_guid":"x"}}`,
		`{"predecessor_binding_id":"b"}`, `{"maintenance_info":{"version":"1"}}`, "\xff\xfe{}", `{"context":{"a":[[[[]]]]}}`,
	} {
		f.Add([]byte(body))
	}
	w := newWorld(f, nil, nil)
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, step := range [][2]string{{"PUT", instance}, {"PUT", binding}, {"PATCH", instance}} {
			wantNoHarm(t, w.call(step[0], step[1], string(body)))
		}
	})
}

// FuzzUpdates sends bodies to an instance that is there.
func FuzzUpdates(f *testing.F) {
	for _, body := range []string{
		`{"service_id":"service-box"}`, `{"service_id":"service-box","plan_id":"plan-medium"}`,
		`{"service_id":"service-box","parameters":{"size":5,"size":7}}`, `{"service_id":"service-box","parameters":{"size":5e0}}`,
		`{"service_id":"service-box","context":{"a":1},"previous_values":{"plan_id":7}}`,
		`{"service_id":"service-box","maintenance_info":{"version":"1.0.0"}}`, `{"service_id":"service-box","plan_id":""}`,
		`{"predecessor_binding_id":"b1","bind_resource":{"route":"a.example.com"}}`, `{"predecessor_binding_id":""}`,
		`{"service_id":"service-box","plan_id":"plan-small","bind_resource":{"route":"::"},"parameters":{"lifetime_seconds":1}}`,
	} {
		f.Add([]byte(body))
	}
	w := newWorld(f, nil, nil)
	w.Pool.Warm(f, 1)
	if rec := w.call("PUT", instance, provision); rec.Code != http.StatusCreated {
		f.Fatal(rec.Code, rec.Body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		wantNoHarm(t, w.call("PATCH", instance, string(body)))
		rec := w.call("PUT", binding, string(body))
		wantNoHarm(t, rec)
		if rec.Code == http.StatusCreated {
			w.call("DELETE", binding+deletion, "")
			w.call("DELETE", binding+strings.Replace(deletion, "small", "medium", 1), "")
		}
	})
}

// FuzzTargets sends ids and queries to all calls.
func FuzzTargets(f *testing.F) {
	f.Add("i1", "b1", "service_id=service-box&plan_id=plan-small")
	f.Add("..", "%2e%2e", "accepts_incomplete=maybe")
	f.Add("a\x00b", "a/b", "operation=&operation=x")
	f.Add("\xff", strings.Repeat("x", 300), "%zz;")
	w := newWorld(f, nil, nil)
	f.Fuzz(func(t *testing.T, one, two, query string) {
		instance := "/v2/service_instances/" + url.PathEscape(one)
		binding := instance + "/service_bindings/" + url.PathEscape(two)
		for _, path := range []string{instance, binding, instance + "/last_operation", binding + "/last_operation"} {
			for _, method := range []string{"GET", "PUT", "DELETE"} {
				r := request(method, "/", bind)
				r.URL.Path, _ = url.PathUnescape(path)
				r.URL.RawPath, r.URL.RawQuery = path, query
				rec := w.do(r)
				wantNoHarm(t, rec)
				if rec.Code < 400 {
					t.Errorf("%s %q: %d", method, path, rec.Code)
				}
			}
		}
	})
}

// FuzzHeaders sends headers that the broker reads.
func FuzzHeaders(f *testing.F) {
	f.Add("2.17", "cloudfoundry e30=", "me", `"x"`, "Basic cmVtdWRhOng=")
	f.Add("2.", "a b", "", "*", "Basic %%%")
	f.Add("", "", "\xff", "W/", "Bearer x")
	w := newWorld(f, nil, nil)
	f.Fuzz(func(t *testing.T, version, identity, id, tag, login string) {
		r := request(http.MethodGet, "/v2/catalog", "")
		r.Header.Set("X-Broker-API-Version", version)
		r.Header.Set("X-Broker-API-Originating-Identity", identity)
		r.Header.Set("X-Broker-API-Request-Identity", id)
		r.Header.Set("If-None-Match", tag)
		if rec := w.do(r); rec.Code != http.StatusNotModified {
			wantNoHarm(t, rec)
		}
		r.Header.Set("Authorization", login)
		w.do(r)
	})
}

// FuzzParameters sends parameters to a plan with a schema, and looks whether
// the same parameters are seen as the same afterwards.
func FuzzParameters(f *testing.F) {
	f.Add(`{"size":3}`)
	f.Add(`{"size":3.0,"colour":"red"}`)
	f.Add(`{"size":1e0,"size":9}`)
	w := newWorld(f, nil, nil)
	f.Fuzz(func(t *testing.T, parameters string) {
		body := strings.Replace(provision, "{", `{"parameters":`+parameters+`,`, 1)
		rec := w.call("PUT", "/v2/service_instances/fuzz?accepts_incomplete=true", body)
		wantNoHarm(t, rec)
		if rec.Code != http.StatusAccepted {
			return
		}
		if again := w.call("PUT", "/v2/service_instances/fuzz?accepts_incomplete=true", body); again.Code != http.StatusAccepted {
			t.Errorf("repeated: %d %s", again.Code, again.Body)
		}
		if rec := w.call("DELETE", "/v2/service_instances/fuzz?service_id="+brokertest.ServiceID+"&plan_id="+brokertest.SmallID, ""); rec.Code != 200 {
			t.Errorf("deleted: %d %s", rec.Code, rec.Body)
		}
	})
}
