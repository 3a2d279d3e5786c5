package osbapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/remuda/remuda/broker"
)

// maxBody is the largest request body in bytes.
const maxBody = 1 << 20

// limitReading gives the client BodyTimeout from now to send its body.
func (a *API) limitReading(c *call) {
	// Only a test's recorder cannot do it.
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Now().Add(a.o.BodyTimeout))
}

// body reads and decodes the request's JSON object. The Content-Type is not
// looked at (OSB, "Content Type", allows it): curl sends a form's when not told
// otherwise.
func (c *call) body() (fields, error) {
	if enc := c.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, invalid("Content-Encoding %q is not supported.", shorten(enc, 40))
	}
	if c.Request.Body == nil {
		return nil, invalid("The request needs a body, which must be a JSON object.")
	}
	text, err := io.ReadAll(http.MaxBytesReader(c.w, c.Request.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &broker.Error{Code: bodyTooLarge, Message: "The body must not be larger than 1 MiB."}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &broker.Error{Code: bodyTooSlow, Message: "The body did not arrive in time."}
	case err != nil:
		return nil, invalid("The body could not be read to its end.")
	}
	// The limit must not end the connection while the use case works.
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{})
	f, err := decodeBody(text)
	c.noteBody(f)
	return f, err
}

// fields are the members of a JSON object by their exact names; of equal names
// the last counts.
type fields map[string]json.RawMessage

func decodeBody(text []byte) (fields, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, invalid("The request needs a body, which must be a JSON object.")
	}
	var f fields
	err := json.Unmarshal(text, &f)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, invalid("The body is not valid JSON: %s (at byte %d).", syntax.Error(), syntax.Offset)
	case err != nil || f == nil:
		return nil, invalid("The body must be a JSON object.")
	}
	return f, nil
}

// has says whether the field is there and not null.
func (f fields) has(name string) bool {
	raw, ok := f[name]
	return ok && string(raw) != "null"
}

// text returns a string field, "" when it is absent.
func (f fields) text(name string) (string, error) {
	if !f.has(name) {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(f[name], &s); err != nil {
		return "", invalid("%s must be a string.", name)
	}
	return s, nil
}

// object returns a field that must be a JSON object, nil when it is absent.
func (f fields) object(name string) (json.RawMessage, error) {
	if !f.has(name) {
		return nil, nil
	}
	if raw := f[name]; len(raw) > 0 && raw[0] == '{' {
		return raw, nil
	}
	return nil, invalid("%s must be a JSON object.", name)
}

// sub returns the members of an object field, nil when it is absent.
func (f fields) sub(name string) (fields, error) {
	raw, err := f.object(name)
	if err != nil || raw == nil {
		return nil, err
	}
	var s fields
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, invalid("%s must be a JSON object.", name)
	}
	return s, nil
}

// texts fills in string fields.
func (f fields) texts(to map[string]*string) error {
	for name, s := range to {
		var err error
		if *s, err = f.text(name); err != nil {
			return err
		}
	}
	return nil
}

// objects fills in object fields.
func (f fields) objects(to map[string]*json.RawMessage) error {
	for name, o := range to {
		var err error
		if *o, err = f.object(name); err != nil {
			return err
		}
	}
	return nil
}
