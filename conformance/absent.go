package conformance

import (
	"context"
	"net/url"
	"slices"
)

var absentRules = slices.Concat([]Rule{
	must("absent.deprovision", "Deprovisioning", "deprovisioning an instance that never was is answered with 410"),
	must("absent.last-operation", "Polling Last Operation for Service Instances", "polling an instance that never was is answered with 404 or 410"),
	must("absent.unbind", "Unbinding", "unbinding a binding that never was is answered with 410"),
	must("ids.encoded", "URL Properties", "ids with percent-encoded characters are not answered with a 5xx"),
	must("ids.long", "URL Properties", "long ids and operations are not answered with a 5xx"),
}, since(14,
	must("absent.fetch-instance", "Fetching a Service Instance", "fetching an instance that never was is answered with 404"),
	must("absent.fetch-binding", "Fetching a Service Binding", "fetching a binding that never was is answered with 404"),
	must("absent.last-binding-operation", "Polling Last Operation for Service Bindings", "polling a binding that never was is answered with 404 or 410"),
))

// strangeIDs are ids that must be escaped in a path.
var strangeIDs = []string{"a b", "a/b", "..", "100%", "é✓", "a?b=c&d", "a\x00b", "a\nb", "a\"b'c", "a;b"}

// checkAbsent calls about what does not exist: platforms do so to mitigate
// orphans.
func (s *suite) checkAbsent(ctx context.Context) {
	i := s.sample()
	for _, e := range endpoints {
		if e.of == "catalog" || e.method == "PUT" || e.method == "PATCH" {
			continue
		}
		id := "absent." + e.name
		if reason := s.offered(e); reason != "" {
			s.skip(id, reason)
			continue
		}
		x := s.call(ctx, s.request(e, i))
		switch {
		case e.method == "DELETE":
			s.expectStatus(id, x, 410)
		case e.poll:
			s.expectStatus(id, x, 404, 410)
		default:
			s.expectStatus(id, x, 404)
		}
	}
	s.checkStrangeIDs(ctx)
}

func (s *suite) checkStrangeIDs(ctx context.Context) {
	i := s.sample()
	for _, id := range strangeIDs {
		i.id = IDPrefix + id
		for _, e := range endpoints {
			if e.of != "instance" || e.method == "PUT" || s.offered(e) != "" || e.name == "update" && !s.updatesOffered() {
				continue
			}
			x := s.do(ctx, s.request(e, i)) // what is before the broker may answer, in its own words
			s.expect("ids.encoded", x.err == nil && x.status < 500, x, "anything below 500")
		}
	}
	i.id = newID() + string(slices.Repeat([]byte{'x'}, 1000))
	for _, q := range []url.Values{nil, {"operation": {string(slices.Repeat([]byte{'x'}, 2000))}}} {
		x := s.do(ctx, request{method: "GET", path: i.path() + "/last_operation", query: q})
		s.expect("ids.long", x.err == nil && x.status < 500, x, "anything below 500")
	}
}
