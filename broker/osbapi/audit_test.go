package osbapi_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/store"
)

// auditOf returns all records, the oldest first.
func (w *world) auditOf(t *testing.T) (records []store.AuditRecord) {
	t.Helper()
	w.View(t, func(tx store.Tx) error {
		page, err := tx.Audit().Page(store.AuditQuery{Limit: 1000})
		records = nil
		for _, r := range page {
			records = append([]store.AuditRecord{r}, records...)
		}
		return err
	})
	return records
}

func TestAudit(t *testing.T) {
	w := newWorld(t, nil, nil)
	w.Pool.Warm(t, 1)
	call := func(method, target, body string) {
		t.Helper()
		r := request(method, target, body)
		r.RemoteAddr = "10.1.2.3:4567"
		r.Header.Set("X-Forwarded-For", "192.0.2.9")
		r.Header.Set("X-Broker-API-Request-Identity", "the-request")
		r.Header.Set("X-Broker-API-Originating-Identity", "cloudfoundry "+base64.StdEncoding.EncodeToString([]byte(`{"user_id":"683ea748","age":1.50}`)))
		w.do(r)
	}
	call("PUT", instance, provision)
	call("PUT", instance, provision)
	call("PUT", instance, strings.Replace(provision, "{", `{"parameters":{"colour":"SECRET"},`, 1))
	call("GET", instance, "")
	call("PUT", binding, strings.Replace(bind, "{", `{"parameters":{"readonly":true},`, 1))
	call("PUT", binding, `{"service_id":`)
	call("PATCH", instance, bind)
	call("DELETE", binding+deletion, "")
	call("DELETE", instance+deletion, "")
	call("DELETE", instance+deletion, "")
	r := request("PUT", instance, provision)
	r.SetBasicAuth(user, "wrong")
	w.do(r)

	var got []string
	for n, rec := range w.auditOf(t) {
		got = append(got, fmt.Sprintf("%s %s/%s %s/%s %d %s %s", rec.Operation, rec.InstanceID, rec.BindingID, rec.ServiceID, rec.PlanID, rec.Status, rec.Code, rec.Result))
		if rec.RequestID != "the-request" || rec.User != user || rec.Address != "10.1.2.3" || rec.Forwarded != "192.0.2.9" ||
			rec.Platform != "cloudfoundry" || string(rec.Identity) != `{"age":1.50,"user_id":"683ea748"}` || rec.Seq != int64(n+1) {
			t.Errorf("record %+v", rec)
		}
	}
	want := []string{
		"provision i1/ service-box/plan-small 201  created",
		"provision i1/ service-box/plan-small 200  unchanged",
		"provision i1/ service-box/plan-small 400 invalid refused",
		"bind i1/b1 service-box/plan-small 201  created",
		"bind i1/b1 / 400 invalid refused",
		"update i1/ service-box/plan-small 200  updated",
		"unbind i1/b1 service-box/plan-small 200  deleted",
		"deprovision i1/ service-box/plan-small 200  deleted",
		"deprovision i1/ service-box/plan-small 410 gone refused",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("recorded\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	all, _ := json.Marshal(w.auditOf(t))
	for _, secret := range []string{"SECRET", "readonly", password, "wrong", "box://"} {
		if strings.Contains(string(all), secret) {
			t.Errorf("%q is in the audit record", secret)
		}
	}
}

// Asynchronous work has a record when it is accepted and one when it ends, with
// the same operation.
func TestAuditOfAsynchronousWork(t *testing.T) {
	for name, parameters := range map[string]string{"plain": "{", "with a hook": `{"parameters":{"size":3},`} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil, nil)
			w.call("PUT", instance+"?accepts_incomplete=true", strings.Replace(provision, "{", parameters, 1))
			w.Pool.Warm(t, 1)
			brokertest.Eventually(t, "two records", func() bool { return len(w.auditOf(t)) == 2 })
			begin, end := w.auditOf(t)[0], w.auditOf(t)[1]
			if begin.Status != 202 || begin.Result != "accepted" || begin.OperationID == "" ||
				end.OperationID != begin.OperationID || end.Result != "succeeded" || end.Status != 0 || end.InstanceID != "i1" || end.PlanID != "plan-small" {
				t.Errorf("records\n%+v\n%+v", begin, end)
			}
		})
	}
	w := newWorld(t, nil, nil)
	w.call("PUT", instance+"?accepts_incomplete=true", provision)
	w.call("DELETE", instance+deletion, "")
	var results []string
	for _, r := range w.auditOf(t) {
		results = append(results, r.Operation+" "+r.Result)
	}
	if got := strings.Join(results, ", "); got != "provision accepted, provision failed, deprovision deleted" {
		t.Error(got)
	}
}

// countingStore counts transactions that write.
type countingStore struct {
	store.Store
	updates atomic.Int64
}

func (s *countingStore) Update(ctx context.Context, fn func(store.Tx) error) error {
	s.updates.Add(1)
	return s.Store.Update(ctx, fn)
}

// A warm hit is made and recorded in one transaction, and so is a deletion.
func TestAuditNeedsNoTransactionOfItsOwn(t *testing.T) {
	counting := &countingStore{}
	w := newWorld(t, nil, func(o *broker.Options) { counting.Store, o.Store = o.Store, counting })
	w.Pool.Warm(t, 1)
	for _, step := range []struct{ method, target, body string }{{"PUT", instance, provision}, {"DELETE", instance + deletion, ""}} {
		before := counting.updates.Load()
		if rec := w.call(step.method, step.target, step.body); rec.Code >= 300 {
			t.Fatal(rec.Body)
		}
		if n := counting.updates.Load() - before; n != 1 {
			t.Errorf("%s took %d transactions", step.method, n)
		}
	}
	if n := len(w.auditOf(t)); n != 2 {
		t.Errorf("%d records", n)
	}
}

// What was recorded as done with the change, and then failed after all, has a
// second record.
func TestAuditOfLateFailure(t *testing.T) {
	w := newWorld(t, nil, nil)
	w.Pool.Warm(t, 1)
	w.call("PUT", instance, provision)
	w.Pool.FailClose(context.DeadlineExceeded)
	rec := w.call("DELETE", instance+deletion, "")
	w.Pool.FailClose(nil)
	all := w.auditOf(t)
	if last := all[len(all)-1]; rec.Code != 503 || last.Status != 503 || last.Result != "failed" || last.Code != "unavailable" || all[len(all)-2].Result != "deleted" {
		t.Errorf("%d, records %+v", rec.Code, all)
	}
}

func TestAuditIsBounded(t *testing.T) {
	w := newWorld(t, nil, nil)
	w.Pool.Warm(t, 1)
	r := request("PUT", "/v2/service_instances/"+strings.Repeat("a", 5000), strings.Replace(provision, "service-box", strings.Repeat("s", 5000), 1))
	r.Header.Set("X-Forwarded-For", strings.Repeat("1.2.3.4, ", 500))
	r.Header.Set("X-Broker-API-Request-Identity", strings.Repeat("i", 5000))
	identity := fmt.Sprintf(`{"a_long":%q,"user_id":"x","z":%q,"name":"<script>"}`, strings.Repeat("x", 30000), strings.Repeat("y", 400))
	r.Header.Set("X-Broker-API-Originating-Identity", strings.Repeat("p", 3000)+" "+base64.StdEncoding.EncodeToString([]byte(identity)))
	w.do(r)
	all := w.auditOf(t)
	text, _ := json.Marshal(all)
	if len(all) != 1 || len(text) > 8<<10 {
		t.Fatalf("%d records, %d bytes", len(all), len(text))
	}
	var kept map[string]any
	if err := json.Unmarshal(all[0].Identity, &kept); err != nil || kept["user_id"] != "x" || kept["truncated"] != true || kept["a_long"] != nil || kept["name"] != "<script>" {
		t.Errorf("identity %s", all[0].Identity)
	}
}

func TestAuditPages(t *testing.T) {
	w := newWorld(t, nil, nil)
	for n := range 7 {
		w.call("DELETE", fmt.Sprintf("/v2/service_instances/i%d%s", n%2, deletion), "")
	}
	type page struct {
		Audit []store.AuditRecord
		Next  int64
	}
	get := func(query string) (p page) {
		t.Helper()
		rec := w.call("GET", "/admin/v1/audit"+query, "")
		if err := json.Unmarshal(rec.Body.Bytes(), &p); err != nil || rec.Code != 200 || p.Audit == nil {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
		return p
	}
	var verifier store.AuditVerifier
	seen := 0
	for query := "?limit=3"; ; {
		p := get(query)
		for _, r := range p.Audit {
			seen++
			if err := verifier.Check(r); err != nil {
				t.Error(err)
			}
		}
		if p.Next == 0 {
			break
		}
		query = fmt.Sprintf("?limit=3&before=%d", p.Next)
	}
	if seen != 7 {
		t.Errorf("%d records", seen)
	}
	if p := get("?instance=i1"); len(p.Audit) != 3 || p.Audit[0].InstanceID != "i1" || p.Next != 0 {
		t.Errorf("%+v", p)
	}
	if p := get("?since=2999-01-01T00:00:00Z"); len(p.Audit) != 0 {
		t.Errorf("%+v", p)
	}
	for _, query := range []string{"?limit=0", "?limit=1001", "?limit=x", "?before=-1", "?since=yesterday", "?instance="} {
		wantRefusal(t, w.call("GET", "/admin/v1/audit"+query, ""), 400, strings.Trim(strings.Split(query, "=")[0], "?"))
	}
	r := request("GET", "/admin/v1/audit", "")
	r.Header.Del("Authorization")
	if rec := w.do(r); rec.Code != 401 {
		t.Errorf("without login: %d", rec.Code)
	}
}
