package osbapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

// random is what differs from run to run, in answers.
var random = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`[A-Z2-7]{26}`), "OPERATION"},
	{regexp.MustCompile(`"(username)":"[a-z][a-z0-9]{15}"`), `"$1":"USERNAME"`},
	{regexp.MustCompile(`"(password)":"[A-Za-z0-9]{32}"`), `"$1":"PASSWORD"`},
	{regexp.MustCompile(`box://[a-z0-9]{16}:[A-Za-z0-9]{32}@`), "box://USERNAME:PASSWORD@"},
	{regexp.MustCompile(`"(created_at|expires_at|renew_before)":"[^"]+"`), `"$1":"TIME"`},
	{regexp.MustCompile(`"(group)":"[^"]+"`), `"$1":"GROUP"`},
	{regexp.MustCompile(`\b300\d\d\b`), "30000"},
}

// golden compares status, headers that matter, and body with a file.
func golden(t *testing.T, name string, rec *httptest.ResponseRecorder) {
	t.Helper()
	body := rec.Body.String()
	for _, r := range random {
		body = r.pattern.ReplaceAllString(body, r.with)
	}
	headers := map[string]string{}
	for _, h := range []string{"Content-Type", "Retry-After", "Allow", "Www-Authenticate"} {
		if v := rec.Header().Get(h); v != "" {
			headers[h] = v
		}
	}
	answer := map[string]any{"status": rec.Code, "headers": headers}
	if body != "" {
		answer["body"] = json.RawMessage(body)
	}
	var got bytes.Buffer
	e := json.NewEncoder(&got)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(answer); err != nil {
		t.Fatalf("%s: %v in %q", name, err, body)
	}
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s is\n%s\nwant\n%s", name, got.Bytes(), want)
	}
}

// One walk through all operations, with every kind of answer on the way.
func TestGolden(t *testing.T) {
	w := newWorld(t, nil, nil)
	step := func(name, method, target, body string) {
		t.Helper()
		golden(t, name, w.call(method, target, body))
	}
	step("catalog", "GET", "/v2/catalog", "")
	step("provision_async_required", "PUT", instance, provision)
	step("provision_accepted", "PUT", instance+"?accepts_incomplete=true", provision)
	step("provision_accepted_again", "PUT", instance+"?accepts_incomplete=true", provision)
	step("provision_in_progress", "PUT", instance, provision)
	step("last_operation_in_progress", "GET", instance+"/last_operation", "")
	step("fetch_instance_in_progress", "GET", instance, "")
	step("bind_too_early", "PUT", binding, bind)
	w.Pool.Warm(t, 1)
	brokertest.Eventually(t, "ready", func() bool {
		return strings.Contains(w.call("GET", instance+"/last_operation", "").Body.String(), "succeeded")
	})
	step("last_operation_succeeded", "GET", instance+"/last_operation", "")
	step("provision_exists", "PUT", instance, provision)
	step("provision_conflict", "PUT", instance, strings.Replace(provision, `"space"`, `"elsewhere"`, 1))
	step("fetch_instance", "GET", instance, "")
	step("bind_created", "PUT", binding, bind)
	step("bind_exists", "PUT", binding, bind)
	step("bind_conflict", "PUT", binding, strings.Replace(bind, "{", `{"parameters":{"readonly":true},`, 1))
	step("bind_rotation", "PUT", instance+"/service_bindings/b2", `{"predecessor_binding_id":"b1"}`)
	step("bind_rotation_unknown", "PUT", instance+"/service_bindings/b3", `{"predecessor_binding_id":"b9"}`)
	step("bind_expiring", "PUT", instance+"/service_bindings/b4", strings.Replace(bind, "{", `{"parameters":{"lifetime_seconds":3600},`, 1))
	step("fetch_binding", "GET", binding, "")
	step("last_binding_operation_succeeded", "GET", binding+"/last_operation", "")
	step("admin_instances", "GET", "/admin/v1/instances", "")
	step("update_nothing", "PATCH", instance, bind)
	step("update_context", "PATCH", instance, `{"service_id":"service-box","context":{"platform":"x"}}`)
	step("update_parameters", "PATCH", instance, `{"service_id":"service-box","parameters":{"size":5}}`)
	step("update_bad_parameters", "PATCH", instance, `{"service_id":"service-box","parameters":{"size":50}}`)
	step("update_plan", "PATCH", instance, `{"service_id":"service-box","plan_id":"plan-medium"}`)
	step("update_maintenance_conflict", "PATCH", instance, `{"service_id":"service-box","maintenance_info":{"version":"0.9.0"}}`)
	step("update_maintenance", "PATCH", instance, `{"service_id":"service-box","maintenance_info":{"version":"1.0.0"}}`)
	step("update_other_service", "PATCH", instance, `{"service_id":"service-other"}`)
	step("update_absent", "PATCH", "/v2/service_instances/i9", `{"service_id":"service-box"}`)
	step("fetch_instance_updated", "GET", instance, "")
	w.Pool.OnChange(func(context.Context) error { return &provisioner.Unfit{Message: "Too much is on the disk."} })
	step("update_refused", "PATCH", instance, `{"service_id":"service-box","plan_id":"plan-small"}`)
	step("last_operation_update_failed", "GET", instance+"/last_operation", "")
	w.Pool.OnChange(nil)
	step("unbind_old_plan", "DELETE", binding+deletion, "")
	w.call("PATCH", instance, `{"service_id":"service-box","plan_id":"plan-small"}`)
	step("unbind", "DELETE", binding+deletion, "")
	step("unbind_gone", "DELETE", binding+deletion, "")
	step("fetch_binding_absent", "GET", binding, "")
	step("last_binding_operation_after_delete", "GET", binding+"/last_operation", "")
	step("deprovision_incomplete", "DELETE", instance+"?service_id=service-box", "")
	step("deprovision", "DELETE", instance+deletion+"&accepts_incomplete=true", "")
	step("deprovision_gone", "DELETE", instance+deletion, "")
	step("last_operation_after_delete", "GET", instance+"/last_operation", "")
	var op store.Operation
	w.View(t, func(tx store.Tx) (err error) {
		op, err = tx.Operations().Latest("i1", "")
		return err
	})
	step("last_operation_deleted", "GET", instance+"/last_operation?operation="+op.ID, "")
	step("last_operation_unknown", "GET", "/v2/service_instances/i9/last_operation", "")
	w.Pool.Warm(t, 1) // the returned group may still be reset
	step("provision_created", "PUT", "/v2/service_instances/i2", strings.Replace(provision, "{", `{"parameters":{"size":3},`, 1))
	step("fetch_instance_parameters", "GET", "/v2/service_instances/i2"+deletion, "")
	step("provision_maintenance_conflict", "PUT", instance, strings.Replace(provision, "{", `{"maintenance_info":{"version":"0.9.0"},`, 1))
	step("provision_bad_parameters", "PUT", instance, strings.Replace(provision, "{", `{"parameters":{"size":"many"},`, 1))
	step("not_found", "GET", "/v2/nothing", "")
	step("method_not_allowed", "POST", instance, "")
	step("healthz", "GET", "/healthz", "")
	step("readyz", "GET", "/readyz", "")
	step("admin_pools_empty", "GET", "/admin/v1/pools", "")

	r := request("GET", "/v2/catalog", "")
	r.Header.Del("Authorization")
	golden(t, "unauthorized", w.do(r))
	r = request("GET", "/v2/catalog", "")
	r.Header.Set("X-Broker-API-Version", "2.5")
	golden(t, "version_unsupported", w.do(r))

	if log := w.log.String(); strings.Contains(log, password) || strings.Contains(log, "box://") || strings.Contains(log, `"size"`) {
		t.Error("secrets in the log")
	}
}
