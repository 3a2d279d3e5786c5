package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/store"
)

// auditServer answers like the broker does, with n records.
func auditServer(t *testing.T, n int, change func([]store.AuditRecord)) {
	var records []store.AuditRecord
	last := store.AuditRecord{}
	for i := range n {
		r := store.AuditRecord{Time: time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC), Operation: "provision", InstanceID: "i" + strconv.Itoa(i%2),
			Status: 201, Result: "created", User: "remuda", Address: "::1", Platform: "cloudfoundry", Identity: []byte(`{"user_id":"x\u001b[31m<&>"}`)}
		last, _, _ = r.Chain(last)
		records = append(records, last)
	}
	if change != nil {
		change(records)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		before := len(records) + 1
		if b := r.URL.Query().Get("before"); b != "" {
			before, _ = strconv.Atoi(b)
		}
		page := map[string]any{}
		var list []store.AuditRecord
		for seq := before - 1; seq > 0 && len(list) < limit; seq-- {
			list = append(list, records[seq-1])
		}
		page["audit"] = list
		if len(list) == limit {
			page["next"] = list[len(list)-1].Seq
		}
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		_ = e.Encode(page)
	}))
	t.Cleanup(server.Close)
	t.Setenv("REMUDA_LISTEN", strings.TrimPrefix(server.URL, "http://"))
	t.Setenv("REMUDA_PASSWORD", "x")
}

func runCommand(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestAuditCommand(t *testing.T) {
	auditServer(t, 1200, nil)
	code, out, errs := runCommand(t, "audit", "--limit", "700")
	if lines := strings.Count(out, "\n"); code != 0 || lines != 701 {
		t.Errorf("%d: %d lines, %s", code, lines, errs)
	}
	if !strings.Contains(out, `"cloudfoundry:x\x1b[31m<&>"`) || strings.Contains(out, "\x1b") {
		t.Errorf("a terminal would see %q", strings.SplitN(out, "\n", 3)[1])
	}
	code, out, _ = runCommand(t, "audit", "--limit", "2", "-o", "json", "--since", "24h", "--instance", "i1")
	var answer struct{ Audit []store.AuditRecord }
	if err := json.Unmarshal([]byte(out), &answer); err != nil || code != 0 || len(answer.Audit) != 2 || answer.Audit[0].Seq != 1200 {
		t.Errorf("%d, %v: %s", code, err, out)
	}
	for _, args := range [][]string{{"-o", "xml"}, {"--limit", "0"}, {"--since", "yesterday"}, {"--verify", "--instance", "x"}} {
		if code, _, _ := runCommand(t, append([]string{"audit"}, args...)...); code != 2 {
			t.Errorf("%v: exit %d", args, code)
		}
	}
}

func TestAuditVerify(t *testing.T) {
	auditServer(t, 1200, nil)
	code, out, errs := runCommand(t, "audit", "--verify")
	if code != 0 || !strings.Contains(out, "1 to 1200 are as they were written") {
		t.Errorf("%d: %s%s", code, out, errs)
	}
	auditServer(t, 1200, func(all []store.AuditRecord) { all[500].User = "somebody" })
	if code, _, errs = runCommand(t, "audit", "--verify"); code != 1 || !strings.Contains(errs, "audit record 501 was changed") {
		t.Errorf("%d: %s", code, errs)
	}
}
