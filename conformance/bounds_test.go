package conformance_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/conformance"
	"github.com/remuda/remuda/conformance/faulty"
)

// always answers so.
func always(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// afterCatalog gives the right catalog and then something else.
func afterCatalog(h http.HandlerFunc) http.HandlerFunc {
	broker := faulty.New(faulty.Options{Username: user, Password: password})
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/catalog" {
			broker.ServeHTTP(w, r)
			return
		}
		h(w, r)
	}
}

// hang answers nothing until the client goes, which shows only when its body is read.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// endless sends without end.
func endless(w http.ResponseWriter, _ *http.Request) {
	for piece := bytes.Repeat([]byte(`[`), 1<<16); ; {
		if _, err := w.Write(piece); err != nil {
			return
		}
	}
}

// drip sends slowly without end.
func drip(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		_, _ = w.Write([]byte(" "))
		_ = http.NewResponseController(w).Flush()
		time.Sleep(10 * time.Millisecond)
	}
}

func drop(w http.ResponseWriter, _ *http.Request) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = conn.Close()
	}
}

func bomb(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	_, _ = z.Write(make([]byte, 64<<20))
	_ = z.Close()
}

func unfinished(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Retry-After", "0")
	if strings.HasSuffix(r.URL.Path, "/last_operation") {
		_, _ = w.Write([]byte(`{"state":"in progress"}`))
		return
	}
	w.WriteHeader(202)
	_, _ = w.Write([]byte(`{"operation":"x"}`))
}

func later(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Retry-After", "99999999999999999")
	w.WriteHeader(202)
	_, _ = w.Write([]byte(`{"state":"in progress"}`))
}

func around(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, r.URL.Path, http.StatusFound)
}

// Whatever a broker answers, or not, the check ends soon, and finds it wrong.
func TestBounds(t *testing.T) {
	strange := fmt.Sprintf(`{"services":[null,7,[],{"plans":{}},{"id":{},"plans":[null,[],{"schemas":{"service_instance":7}}]},
		{"id":"s","name":"s","description":"s","bindable":true,"plans":[{"id":"p","name":"p","description":"p","maximum_polling_duration":1e400,
		"maintenance_info":7,"schemas":{"service_instance":{"create":{"parameters":{"$schema":"x","$ref":"#/a","a":{"$ref":"#"},"properties":[7]}}}}}]}],"x":%q}`,
		"\x1b[31m\x00\u202e")
	for name, h := range map[string]http.HandlerFunc{
		"nothing": always(200, ""), "garbage": always(200, "\x1b[2J\x00\xff garbage"), "null": always(200, "null"),
		"array": always(200, "[]"), "deep": always(200, strings.Repeat(`{"services":[`, 9000)), "strange": always(200, strange),
		"strange 202": always(202, strange), "error": always(500, "no"), "not found": always(404, `{"error":7,"description":[]}`),
		"no status": always(999, "{}"), "text": always(400, strings.Repeat("x", 1<<20)),
		"hang": hang, "endless": endless, "drip": drip, "drop": drop, "bomb": bomb, "around": around,
		"then garbage": afterCatalog(always(201, "garbage")), "then hang": afterCatalog(hang), "then endless": afterCatalog(endless),
		"then objects":    afterCatalog(always(201, `{"credentials":[],"volume_mounts":{},"endpoints":7,"metadata":[],"dashboard_url":{},"operation":{}}`)),
		"then arrays":     afterCatalog(always(200, `[{"state":"succeeded"}]`)),
		"then unfinished": afterCatalog(unfinished), "then later": afterCatalog(later), "then drop": afterCatalog(drop),
		"then 200": afterCatalog(always(200, `{"state":"succeeded"}`)), "then 410": afterCatalog(always(410, `{}`)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := serve(t, h)
			o.Timeout, o.RequestTimeout = 300*time.Millisecond, 150*time.Millisecond
			if strings.Contains(name, "endless") || name == "bomb" {
				o.RequestTimeout = 5 * time.Second
			}
			began := time.Now()
			report := check(t, o)
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("took %v", took)
			}
			if !report.Failed() {
				t.Error("nothing failed")
			}
			wantNoSecrets(t, report)
			var b strings.Builder
			if err := report.WriteText(&b); err != nil || strings.ContainsAny(b.String(), "\x00\x1b\u202e") {
				t.Errorf("the text has control characters: %v", err)
			}
			if len(b.String()) > 1<<20 {
				t.Errorf("the report has %d bytes", b.Len())
			}
			switch name {
			case "hang", "drip", "drop", "endless", "then hang":
				if x := result(t, report, "general.answers"); x.Status != conformance.Fail {
					t.Errorf("%+v", x)
				}
			}
		})
	}
}

// A broker that is not there is no broker that is right.
func TestNobody(t *testing.T) {
	o := serve(t, http.NotFoundHandler())
	o.URL = "http://127.0.0.1:1"
	if !check(t, o).Failed() {
		t.Error("nothing failed")
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]conformance.Options{
		"no URL": {}, "no scheme": {URL: "localhost:1"}, "login": {URL: "http://u:secret@h"}, "query": {URL: "http://h/?x"},
		"file": {URL: "file:///etc"}, "old": {URL: "http://h", Version: "2.12"}, "new": {URL: "http://h", Version: "2.18"},
		"major": {URL: "http://h", Version: "3.0"}, "sign": {URL: "http://h", Version: "2.+13"},
	} {
		report, err := conformance.Run(t.Context(), o)
		if err == nil || report != nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzAnswer gives the same answer to everything but the catalog.
func FuzzAnswer(f *testing.F) {
	f.Add(200, `{"state":"succeeded"}`, `{"services":[{"id":"s","name":"s","description":"d","bindable":true,"plans":[{"id":"p"}]}]}`)
	f.Add(422, `{"error":"AsyncRequired"}`, `{"services":[]}`)
	f.Add(201, `{"credentials":{}}`, `null`)
	f.Fuzz(func(t *testing.T, status int, body, catalog string) {
		if status < 200 || status > 599 {
			return
		}
		o := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/catalog" {
				always(200, catalog)(w, r)
				return
			}
			always(status, body)(w, r)
		}))
		o.Timeout, o.RequestTimeout = 20*time.Millisecond, time.Second
		wantNoSecrets(t, check(t, o))
	})
}
