package osbapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Each version gets what it knows, and nothing that came later.
func TestAnswersFitTheVersion(t *testing.T) {
	w := newWorld(t, nil, nil)
	w.Pool.Warm(t, 1)
	if rec := w.call("PUT", instance, provision); rec.Code != http.StatusCreated {
		t.Fatal(rec.Code, rec.Body)
	}
	expiring := strings.Replace(bind, "{", `{"parameters":{"lifetime_seconds":3600},`, 1)
	if rec := w.call("PUT", binding, expiring); rec.Code != http.StatusCreated {
		t.Fatal(rec.Code, rec.Body)
	}
	since := map[string]int{ // 2.x
		`"instances_retrievable"`: 11, `"maintenance_info"`: 15, `"maximum_polling_duration"`: 15, `"allow_context_updates"`: 15,
		`"binding_rotatable"`: 17, `"endpoints"`: 16, `"expires_at"`: 16, `"renew_before"`: 17,
	}
	for minor := 11; minor <= 18; minor++ {
		var all strings.Builder
		for _, target := range []string{"/v2/catalog", instance, binding} {
			r := request("GET", target, "")
			r.Header.Set("X-Broker-API-Version", fmt.Sprintf("2.%d", minor))
			rec := w.do(r)
			if rec.Code != http.StatusOK {
				t.Errorf("2.%d: GET %s answered %d %s", minor, target, rec.Code, rec.Body)
			}
			all.Write(rec.Body.Bytes())
		}
		for field, from := range since {
			if has := strings.Contains(all.String(), field); has != (minor >= from) {
				t.Errorf("2.%d: %s is there: %v", minor, field, has)
			}
		}
	}
}
