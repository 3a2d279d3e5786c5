package conformance

import (
	"context"
	"encoding/base64"
	"slices"
)

var headerRules = slices.Concat([]Rule{
	should("version.missing", "API Version Header", "a request without X-Broker-API-Version is refused with 400 or 412"),
	should("version.unsupported", "API Version Header", "a request of an unsupported version is refused with 412"),
	must("version.refusal", "API Version Header", "a refusal because of the version is 400 or 412 and makes nothing"),
	must("identity.originating", "Originating Identity", "X-Broker-API-Originating-Identity is accepted"),
}, since(15,
	should("identity.unasked", "Request Identity", "without X-Broker-API-Request-Identity in the request the answer has none"),
))

// identity is an originating identity as a platform sends it.
func identity() string {
	return "conformance " + base64.StdEncoding.EncodeToString([]byte(`{"user_id":"683ea748-3092-4ff4-b656-39cacc4d5360"}`))
}

func (s *suite) checkHeaders(ctx context.Context) {
	for _, version := range []string{noVersion, "1.0", "99.0"} {
		for _, e := range endpoints {
			if e.of == "binding" || s.offered(e) != "" || e.method == "PATCH" || e.poll {
				continue
			}
			s.checkVersion(ctx, e, version)
		}
	}
	get := request{method: "GET", path: "/v2/catalog", header: map[string]string{"X-Broker-API-Originating-Identity": identity()}}
	s.expectStatus("identity.originating", s.call(ctx, get), 200)
	if s.minor >= 15 {
		get.header = map[string]string{requestIdentity: ""}
		x := s.call(ctx, get)
		_, has := x.answer[canonicalIdentity]
		s.expect("identity.unasked", x.err == nil && !has, x, "no header "+requestIdentity, requestIdentity+": "+x.answer.Get(requestIdentity))
	}
}

const canonicalIdentity = "X-Broker-Api-Request-Identity"

func (s *suite) checkVersion(ctx context.Context, e endpoint, version string) {
	i := s.newInstance()
	r := s.request(e, i)
	r.version = version
	x := s.call(ctx, r)
	refused := x.in(400, 412)
	if version == noVersion {
		s.expectStatus("version.missing", x, 400, 412)
	} else {
		s.expectStatus("version.unsupported", x, 412)
	}
	switch {
	case e.of == "catalog":
		i.gone = true
		s.expectStatus("version.refusal", x, 200, 400, 412)
	case e.name != "provision":
		i.gone = true
	case refused:
		s.expectNothing(ctx, "version.refusal", i)
	default:
		s.deleteInstance(ctx, i)
	}
}
