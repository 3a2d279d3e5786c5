package osbapi_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
)

func TestVersionHeader(t *testing.T) {
	w := newWorld(t, nil, nil)
	for version, status := range map[string]int{
		"2.17": 200, "2.11": 200, "2.12": 200, "2.99": 200,
		"": 412, "2.10": 412, "1.17": 412, "3.0": 412, "2": 412, "2.": 412, "2.x": 412, "2.17.1": 412,
		"+2.17": 412, "2.-17": 412, " 2.17 x": 412, "2.99999999999999999999": 412, "banana": 412,
	} {
		r := request("GET", "/v2/catalog", "")
		r.Header.Set("X-Broker-API-Version", version)
		rec := w.do(r)
		if rec.Code != status {
			t.Errorf("%q: %d, want %d", version, rec.Code, status)
		}
		if status != 200 {
			wantRefusal(t, rec, status, "X-Broker-API-Version")
		}
	}
	r := request("GET", "/admin/v1/pools", "")
	r.Header.Del("X-Broker-API-Version")
	if rec := w.do(r); rec.Code != 200 {
		t.Errorf("admin without version: %d", rec.Code)
	}
}

func TestOriginatingIdentity(t *testing.T) {
	w := newWorld(t, nil, nil)
	encode := base64.StdEncoding.EncodeToString
	good := encode([]byte(`{"user_id":"683ea748"}`))
	for header, status := range map[string]int{
		"cloudfoundry " + good:                         200,
		"cloudfoundry " + strings.TrimRight(good, "="): 200,
		"cloudfoundry " + encode([]byte("{\n}")):       200,
		"cloudfoundry":                                 400,
		"cloudfoundry ":                                400,
		"":                                             400,
		good:                                           400,
		"cloudfoundry %%%":                             400,
		"cloudfoundry " + encode([]byte(`[]`)):         400,
		"cloudfoundry " + encode([]byte(`null`)):       400,
		"cloudfoundry " + encode([]byte(`{} x`)):       400,
		"cloudfoundry " + encode([]byte(`not JSON`)):   400,
		"cloudfoundry " + good + " " + encode([]byte(`"more"`)): 400,
	} {
		r := request("GET", "/v2/catalog", "")
		r.Header.Set("X-Broker-API-Originating-Identity", header)
		if rec := w.do(r); rec.Code != status {
			t.Errorf("%q: %d, want %d", header, rec.Code, status)
		}
	}
}

func TestRequestIdentity(t *testing.T) {
	w := newWorld(t, nil, nil)
	const header = "X-Broker-Api-Request-Identity"
	if rec := w.call("GET", "/v2/catalog", ""); rec.Header().Values(header) != nil {
		t.Errorf("echoed %q without being sent", rec.Header().Values(header))
	}
	for _, target := range []string{"/v2/catalog", "/v2/nothing", instance} {
		r := request("GET", target, "")
		r.Header.Set(header, "me")
		if rec := w.do(r); rec.Header().Get(header) != "me" {
			t.Errorf("%s: %q", target, rec.Header().Get(header))
		}
	}
	r := request("GET", "/v2/catalog", "")
	r.Header.Del("Authorization")
	r.Header.Set(header, "me")
	if rec := w.do(r); rec.Code != 401 || rec.Header().Get(header) != "me" {
		t.Errorf("%d %v", rec.Code, rec.Header())
	}
}

func TestAuthentication(t *testing.T) {
	w := newWorld(t, nil, nil)
	for _, target := range []string{"/v2/catalog", instance, "/v2/nothing", "/metrics", "/admin/v1/pools", "/admin/v1/groups", "/admin/v1/instances", "/"} {
		for _, login := range [][2]string{{"", ""}, {user, "wrong"}, {"wrong", password}, {user, ""}} {
			r := request("GET", target, "")
			r.SetBasicAuth(login[0], login[1])
			rec := w.do(r)
			wantRefusal(t, rec, 401, "password")
			if rec.Header().Get("WWW-Authenticate") == "" {
				t.Error("no WWW-Authenticate")
			}
		}
	}
	for _, target := range []string{"/healthz", "/readyz"} {
		r := request("GET", target, "")
		r.Header.Del("Authorization")
		if rec := w.do(r); rec.Code != 200 || strings.TrimSpace(rec.Body.String()) != `{"status":"ok"}` {
			t.Errorf("%s: %d %s", target, rec.Code, rec.Body)
		}
	}
}

func TestCatalogTag(t *testing.T) {
	w := newWorld(t, nil, nil)
	tag := w.call("GET", "/v2/catalog", "").Header().Get("ETag")
	if len(tag) < 10 || tag[0] != '"' {
		t.Fatalf("ETag %q", tag)
	}
	for header, status := range map[string]int{
		tag: 304, "W/" + tag: 304, `"x", ` + tag: 304, "*": 304, `"x"`: 200, "": 200, strings.Trim(tag, `"`): 200,
	} {
		r := request("GET", "/v2/catalog", "")
		r.Header.Set("If-None-Match", header)
		rec := w.do(r)
		if rec.Code != status || (rec.Code == http.StatusNotModified) != (rec.Body.Len() == 0) {
			t.Errorf("%q: %d with %d bytes", header, rec.Code, rec.Body.Len())
		}
		if rec.Header().Get("ETag") != tag {
			t.Error("no ETag")
		}
	}
}
