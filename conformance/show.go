package conformance

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

const hidden = "[hidden]"

// shownLength is how much of a body a report has, in bytes.
const shownLength = 600

// shownEnd is how much is shown of both ends of a malformed body, in bytes.
const shownEnd = 80

// secretWords are parts of field names whose values no report shows.
var secretWords = []string{
	"credential", "password", "passwd", "secret", "token", "private", "mount_config", "syslog_drain_url",
}

// hide replaces what may be secret in a JSON value; parameters are hidden only
// when they are given.
func (s *suite) hide(v any) any {
	switch v := v.(type) {
	case obj:
		out := make(obj, len(v))
		for k, inner := range v {
			if _, isBool := inner.(bool); inner != nil && !isBool && s.isSecret(k) {
				out[k] = hidden
				continue
			}
			out[k] = s.hide(inner)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, inner := range v {
			out[i] = s.hide(inner)
		}
		return out
	case string:
		return hideURL(v)
	}
	return v
}

func (s *suite) isSecret(field string) bool {
	field = strings.ToLower(field)
	return s.hasParameters() && field == "parameters" ||
		slices.ContainsFunc(secretWords, func(w string) bool { return strings.Contains(field, w) })
}

func (s *suite) hasParameters() bool { return s.o.Parameters != nil || s.o.BindParameters != nil }

// hideURL leaves of a URL what cannot be a secret.
func hideURL(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	u, err := url.Parse(text)
	if err != nil {
		return hidden
	}
	if u.User != nil {
		u.User = url.User(hidden)
	}
	if u.RawQuery != "" {
		u.RawQuery = hidden
	}
	return u.String()
}

// show writes JSON without secrets.
func (s *suite) show(v any) string { return plain(s.hide(v)) }

// secrets are texts that no report has.
func (s *suite) secrets() []string {
	var all []string
	if s.o.Password != "" {
		all = append(all, base64.StdEncoding.EncodeToString([]byte(s.o.Username+":"+s.o.Password)), s.o.Password,
			strings.Trim(plain(s.o.Password), `"`))
	}
	var collect func(v any)
	collect = func(v any) {
		switch v := v.(type) {
		case obj:
			for _, inner := range v {
				collect(inner)
			}
		case []any:
			for _, inner := range v {
				collect(inner)
			}
		case string:
			if len(v) >= 4 { // shorter ones are in other words, too
				all = append(all, v, strings.Trim(plain(v), `"`))
			}
		}
	}
	collect(s.o.Parameters)
	collect(s.o.BindParameters)
	return all
}

// clean makes text fit for one line of a terminal, without secrets.
func (s *suite) clean(text string) string {
	for _, secret := range s.secrets() {
		text = strings.ReplaceAll(text, secret, hidden)
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
		b.WriteString(" " + s.show(parse([]byte(plain(x.body)))))
	case x.raw != "" && s.hasParameters():
		fmt.Fprintf(&b, " and a body of %d bytes", len(x.raw))
	case len(x.raw) > 2*shownEnd:
		b.WriteString(" " + x.raw[:shownEnd] + " … " + x.raw[len(x.raw)-shownEnd:])
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
	case isObject.is(x.value) || isArray.is(x.value):
		return s.clean(fmt.Sprintf("%d %s", x.status, s.show(x.value)))
	case x.status < 300:
		return fmt.Sprintf("%d and %d bytes that are no JSON object", x.status, len(x.text))
	}
	return s.clean(fmt.Sprintf("%d and no JSON object: %s", x.status, x.text))
}
