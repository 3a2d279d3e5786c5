package conformance

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

const hidden = "[hidden]"

// shownLength is how much of a body a report has, in bytes.
const shownLength = 400

// secretWords are parts of field names whose values no report shows.
var secretWords = []string{
	"credential", "password", "passwd", "secret", "token", "private", "mount_config", "syslog_drain_url", "parameters", "previous_values",
}

// hide replaces what may be secret in a JSON value.
func hide(v any) any {
	switch v := v.(type) {
	case obj:
		out := make(obj, len(v))
		for k, inner := range v {
			lower := strings.ToLower(k)
			if _, isBool := inner.(bool); inner != nil && !isBool &&
				slices.ContainsFunc(secretWords, func(w string) bool { return strings.Contains(lower, w) }) {
				out[k] = hidden
				continue
			}
			out[k] = hide(inner)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, inner := range v {
			out[i] = hide(inner)
		}
		return out
	}
	return v
}

// show writes JSON without secrets.
func show(v any) string {
	text, err := json.Marshal(hide(v))
	if err != nil {
		return fmt.Sprintf("(%T)", v)
	}
	return string(text)
}

// clean makes text fit for one line of a terminal, and removes the login.
func (s *suite) clean(text string) string {
	if s.o.Password != "" {
		basic := base64.StdEncoding.EncodeToString([]byte(s.o.Username + ":" + s.o.Password))
		quoted, _ := json.Marshal(s.o.Password) // a string can be written
		for _, secret := range []string{basic, s.o.Password, strings.Trim(string(quoted), `"`)} {
			text = strings.ReplaceAll(text, secret, hidden)
		}
	}
	if len(text) > shownLength {
		text = text[:shownLength] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, "?"))
}

// sent describes the request.
func (s *suite) sent(x *exchange) string {
	if x == nil {
		return "(nothing)"
	}
	var b strings.Builder
	b.WriteString(x.method + " " + x.path)
	if len(x.query) > 0 {
		b.WriteString("?" + x.query.Encode())
	}
	if x.login != rightLogin {
		b.WriteString(" " + x.login.String())
	}
	switch x.version {
	case "":
	case noVersion:
		b.WriteString(" without X-Broker-API-Version")
	default:
		b.WriteString(" with X-Broker-API-Version: " + x.version)
	}
	switch {
	case x.body != nil:
		plain, _ := json.Marshal(x.body) // it was sent
		b.WriteString(" " + show(parse(plain)))
	case x.raw != "":
		b.WriteString(" " + x.raw)
	}
	return s.clean(b.String())
}

// got describes the answer. What is no JSON is shown of refusals only: it could
// be a password.
func (s *suite) got(x *exchange) string {
	switch {
	case x == nil:
		return "(nothing)"
	case errors.Is(x.err, errTooLarge):
		return fmt.Sprintf("%d, but %v", x.status, x.err)
	case x.err != nil:
		return s.clean("no proper answer: " + x.err.Error())
	case len(x.text) == 0:
		return fmt.Sprintf("%d without a body", x.status)
	case x.value != nil:
		return s.clean(fmt.Sprintf("%d %s", x.status, show(x.value)))
	case x.status < 300:
		return fmt.Sprintf("%d and %d bytes that are not JSON", x.status, len(x.text))
	}
	return s.clean(fmt.Sprintf("%d and not JSON: %s", x.status, x.text))
}
