package broker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxID is the longest id, in bytes. OSB recommends it for strings in general
// ("Catalog Management").
const maxID = 255

// checkID refuses ids that could mean something else in a path, a log or a
// terminal. OSB itself restricts nothing ("URL Properties").
func checkID(field, id string) error {
	if strings.Contains(id, "/") || strings.Contains(id, "..") {
		return refuse(Invalid, `%s must not contain "/" or "..".`, field)
	}
	return checkText(field, id)
}

// checkText refuses what no id or GUID has.
func checkText(field, s string) error {
	switch {
	case s == "":
		return refuse(Invalid, "%s must be a non-empty string.", field)
	case len(s) > maxID:
		return refuse(Invalid, "%s must not be longer than %d bytes.", field, maxID)
	case !utf8.ValidString(s):
		return refuse(Invalid, "%s must be valid UTF-8.", field)
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return refuse(Invalid, "%s must not contain control characters or invisible ones.", field)
	}
	return nil
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// object brings a JSON object into one form: keys sorted, last of equal keys
// kept, no spaces. An absent, null or empty object is nil.
func object(field string, raw json.RawMessage) (json.RawMessage, error) {
	m, err := decodeObject(raw)
	if err != nil {
		return nil, refuse(Invalid, "%s must be a JSON object.", field)
	}
	if len(m) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("marshal %s: %w", field, err)
	}
	return b, nil
}

// decodeObject keeps numbers as they were written.
func decodeObject(raw json.RawMessage) (map[string]any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	return m, nil
}

// templateValues is a parameters object as recipes' templates see it: whole
// numbers are int, so that they print, compare and calculate as such.
func templateValues(raw json.RawMessage) (map[string]any, error) {
	m, err := decodeObject(raw)
	if err != nil {
		return nil, fmt.Errorf("decode parameters: %w", err)
	}
	values := make(map[string]any, len(m))
	for k, v := range m {
		values[k] = plainNumbers(v)
	}
	return values, nil
}

func plainNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return int(n)
		}
		f, err := v.Float64()
		if err != nil {
			return v.String()
		}
		if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return int(f)
		}
		return f
	case map[string]any:
		for k, e := range v {
			v[k] = plainNumbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = plainNumbers(e)
		}
	}
	return v
}

// quote shows what the client sent, in bounds.
func quote(s string) string { return fmt.Sprintf("%q", shorten(s, 80)) }

// shorten cuts s at a rune boundary to at most n bytes and marks the cut.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
