package conformance

import (
	"context"
	"net/url"
)

const loginSection = "Platform to Service Broker Authentication"

// endpoint is one kind of call, on what does not exist.
type endpoint struct {
	name   string
	method string
	poll   bool
	of     string // catalog, instance or binding
}

var endpoints = []endpoint{
	{"catalog", "GET", false, "catalog"},
	{"provision", "PUT", false, "instance"},
	{"fetch-instance", "GET", false, "instance"},
	{"update", "PATCH", false, "instance"},
	{"deprovision", "DELETE", false, "instance"},
	{"last-operation", "GET", true, "instance"},
	{"bind", "PUT", false, "binding"},
	{"fetch-binding", "GET", false, "binding"},
	{"unbind", "DELETE", false, "binding"},
	{"last-binding-operation", "GET", true, "binding"},
}

func authRules() []Rule {
	var rules []Rule
	for _, e := range endpoints {
		r := must("auth."+e.name, loginSection, "without the right user name and password, "+e.name+" is answered with 401")
		if e.name == "fetch-instance" || e.of == "binding" && e.method == "GET" {
			r.Since = 14
		}
		rules = append(rules, r)
	}
	return append(rules, must("auth.no-effect", loginSection, "a provision that was answered with 401 has made nothing"))
}

// request makes a call of the endpoint that is right in all but that i does not
// exist.
func (s *suite) request(e endpoint, i *instance) request {
	r := request{method: e.method, path: i.path()}
	if e.of == "binding" {
		r.path = i.path() + "/service_bindings/" + newID()
	}
	if e.poll {
		r.path += "/last_operation"
	}
	switch {
	case e.of == "catalog":
		r.path = "/v2/catalog"
	case e.method == "PUT" && e.of == "instance":
		r.body, r.query = i.body, accepts()
	case e.method == "PUT":
		r.body = obj{"service_id": i.service, "plan_id": i.plan}
	case e.method == "PATCH":
		r.body, r.query = obj{"service_id": i.service, "context": obj{}}, accepts()
	case e.method == "DELETE":
		r.query = i.deletion()
	}
	return r
}

func accepts() url.Values { return url.Values{"accepts_incomplete": {"true"}} }

// offered says whether the broker must have the endpoint, and why not.
func (s *suite) offered(e endpoint) (reason string) {
	switch {
	case s.offering == nil || e.of == "catalog":
		return ""
	case e.of == "binding" && !s.plan.bindable:
		return notBindable
	case e.name == "fetch-instance" && !s.offering.instancesRetrievable:
		return notRetrievable
	case e.name == "fetch-binding" && !s.offering.bindingsRetrievable:
		return bindingsNotRetrievable
	}
	return ""
}

// Reasons to skip.
const (
	notBindable            = "the plan is not bindable"
	notRetrievable         = "the offering has no instances_retrievable"
	bindingsNotRetrievable = "the offering has no bindings_retrievable"
)

func (s *suite) checkLogins(ctx context.Context) {
	if s.o.Username == "" && s.o.Password == "" {
		s.skipArea("auth", "no login was given")
		return
	}
	for _, e := range endpoints {
		id := "auth." + e.name
		if reason := s.offered(e); reason != "" {
			s.skip(id, reason)
			continue
		}
		for _, l := range []login{noLogin, wrongPassword, wrongUser} {
			i := s.newInstance()
			r := s.request(e, i)
			r.login = l
			x := s.call(ctx, r)
			s.expectStatus(id, x, 401)
			switch {
			case e.name != "provision":
				i.gone = true // it never was
			case x.refused() && s.plan != nil:
				s.expectNothing(ctx, "auth.no-effect", i)
			case x.ok():
				s.deleteInstance(ctx, i)
			default:
				i.gone = x.err == nil
			}
		}
	}
}
