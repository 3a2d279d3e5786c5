package conformance

import (
	"mime"
	"net/http"
	"slices"
	"strings"
)

const requestIdentity = "X-Broker-API-Request-Identity"

var generalRules = slices.Concat([]Rule{
	must("general.answers", "Orphan Mitigation", "every call is answered within the time a platform waits"),
	must("general.no-5xx", "Service Broker Errors", "no request, however bad, is answered with a 5xx"),
	should("general.content-type", "Content Type", "answers with a body have the Content-Type application/json"),
	must("errors.object", "Service Broker Errors", "the body of a refusal is a JSON object"),
	should("errors.unauthorized-object", "Service Broker Errors", "the body of a 401 is a JSON object"),
	should("errors.has-description", "Service Broker Errors", "a refusal says why in its description"),
	must("errors.description", "Service Broker Errors", "description, if present, is a non-empty string"),
	must("errors.error", "Service Broker Errors", "error, if present, is a non-empty string of one word"),
	must("errors.codes", "Error Codes", "the codes of the specification are written exactly so"),
	must("general.cleanup", "Deprovisioning", "all that the check made could be deleted"),
}, since(15,
	should("identity.request", "Request Identity", "X-Broker-API-Request-Identity is in the answer as it was sent"),
), since(16,
	must("errors.usable", "Service Broker Errors", "instance_usable and update_repeatable are booleans, and only in errors of updates and deprovisionings"),
))

// codes are all error codes of the specification.
var codes = []string{"AsyncRequired", "ConcurrencyError", "RequiresApp", "MaintenanceInfoConflict"}

// checkAnswer looks at what holds for every answer.
func (s *suite) checkAnswer(x *exchange) {
	if !s.expect("general.answers", x.err == nil, x, "an answer") {
		return
	}
	s.expect("general.no-5xx", x.status < 500, x, "anything below 500")
	if x.id != "" {
		s.expect("identity.request", x.answer.Get(requestIdentity) == x.id, x,
			"the header "+requestIdentity+": "+x.id, "the header "+requestIdentity+": "+x.answer.Get(requestIdentity))
	}
	if len(x.text) > 0 && x.method != http.MethodHead {
		media, _, err := mime.ParseMediaType(x.answer.Get("Content-Type"))
		s.expect("general.content-type", err == nil && media == "application/json", x,
			"Content-Type: application/json", "Content-Type: "+x.answer.Get("Content-Type"))
	}
	if x.status >= 400 {
		s.checkError(x)
	}
}

func (s *suite) checkError(x *exchange) {
	if x.status == http.StatusUnauthorized {
		s.expect("errors.unauthorized-object", x.object() != nil, x, "a JSON object")
		if x.object() == nil {
			return
		}
	}
	if len(x.text) > 0 && !s.expect("errors.object", x.object() != nil, x, "a JSON object") {
		return
	}
	o := x.object()
	description, has := o["description"]
	s.expect("errors.has-description", has, x, "a description")
	if has {
		text, isText := description.(string)
		s.expect("errors.description", isText && text != "", x, "a description that is a non-empty string")
	}
	if v, has := o["error"]; has {
		text, isText := v.(string)
		s.expect("errors.error", isText && text != "" && !strings.ContainsAny(text, " \t\n"), x, "an error that is one word")
		for _, code := range codes {
			if letters(text) == letters(code) {
				s.expect("errors.codes", text == code, x, "error: "+code)
			}
		}
	}
	for _, name := range []string{"instance_usable", "update_repeatable"} {
		if v, has := o[name]; has {
			_, isBool := v.(bool)
			may := x.method == http.MethodPatch || x.method == http.MethodDelete && name == "instance_usable" && !strings.Contains(x.path, "/service_bindings/")
			s.expect("errors.usable", isBool && may, x, name+" as a boolean, and only where it belongs")
		}
	}
}

// letters is what remains of a code when its writing does not matter.
func letters(code string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(code))
}
