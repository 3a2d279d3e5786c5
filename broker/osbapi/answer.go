package osbapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/pivotal-cf/brokerapi/v10/domain/apiresponses"

	"github.com/remuda/remuda/broker"
)

// answer is what an operation gives back.
type answer struct {
	status  int
	body    any           // becomes JSON
	encoded []byte        // JSON already, instead of body
	header  [][2]string   // more headers
	retry   time.Duration // Retry-After, if > 0
	raw     http.Handler  // answers by itself, instead of all of the above
}

// status is the one table from use-case codes to HTTP, with the error codes of
// OSB, "Error Codes", which are exact.
var statuses = map[broker.Code]struct {
	status int
	osb    string
}{
	broker.Invalid:             {http.StatusBadRequest, ""},
	broker.NotFound:            {http.StatusNotFound, ""},
	broker.Gone:                {http.StatusGone, ""},
	broker.Conflict:            {http.StatusConflict, ""},
	broker.AsyncRequired:       {http.StatusUnprocessableEntity, "AsyncRequired"},
	broker.RequiresApp:         {http.StatusUnprocessableEntity, "RequiresApp"},
	broker.Concurrency:         {http.StatusUnprocessableEntity, "ConcurrencyError"},
	broker.MaintenanceConflict: {http.StatusUnprocessableEntity, "MaintenanceInfoConflict"},
	broker.Refused:             {http.StatusUnprocessableEntity, ""},
	broker.Unavailable:         {http.StatusServiceUnavailable, ""},
	broker.Internal:            {http.StatusInternalServerError, ""},
	versionUnsupported:         {http.StatusPreconditionFailed, ""},
	bodyTooLarge:               {http.StatusRequestEntityTooLarge, ""},
	bodyTooSlow:                {http.StatusRequestTimeout, ""},
}

// Codes of refusals that only HTTP knows.
const (
	versionUnsupported broker.Code = "version unsupported"
	bodyTooLarge       broker.Code = "body too large"
	bodyTooSlow        broker.Code = "body too slow"
)

// retryUnavailable is when to ask again for what is away just now.
const retryUnavailable = 5 * time.Second

func refusal(e *broker.Error) answer {
	s, ok := statuses[e.Code]
	if !ok {
		s = statuses[broker.Internal]
	}
	body := errorBody{Error: s.osb, Description: e.Message}
	if e.Updating {
		body.setUpdate(!e.Final)
	}
	ans := answer{status: s.status, body: body}
	switch e.Code {
	case broker.Unavailable:
		ans.retry = retryUnavailable
	case bodyTooLarge, bodyTooSlow: // the rest of the body is not wanted
		ans.header = [][2]string{{"Connection", "close"}}
	}
	return ans
}

// errorBody is OSB's "Service Broker Errors"; brokerapi's has no flags.
type errorBody struct {
	Error       string `json:"error,omitempty"`
	Description string `json:"description,omitempty"`
	updateFlags
}

// updateFlags are what a failed update says besides.
type updateFlags struct {
	InstanceUsable   *bool `json:"instance_usable,omitempty"`
	UpdateRepeatable *bool `json:"update_repeatable,omitempty"`
}

// setUpdate says of an update that failed that all is as it was before.
func (f *updateFlags) setUpdate(repeatable bool) {
	usable := true
	f.InstanceUsable, f.UpdateRepeatable = &usable, &repeatable
}

// accepted is the answer of work on a binding that goes on.
func (a *API) accepted(operation string) answer {
	return answer{
		status: http.StatusAccepted, retry: a.o.Broker.PollInterval(),
		body: apiresponses.AsyncBindResponse{OperationData: operation},
	}
}

func unauthorized() answer {
	return answer{
		status: http.StatusUnauthorized,
		body:   apiresponses.ErrorResponse{Description: "The request needs the broker's user name and password."},
		header: [][2]string{{"WWW-Authenticate", `Basic realm="remuda", charset="UTF-8"`}},
	}
}

func methodNotAllowed(method, allow string) answer {
	return answer{
		status: http.StatusMethodNotAllowed,
		body:   apiresponses.ErrorResponse{Description: fmt.Sprintf("%q is not possible here; these are: %s.", shorten(method, 16), allow)},
		header: [][2]string{{"Allow", allow}},
	}
}

// write sends the answer and returns its status.
func (ans answer) write(w http.ResponseWriter, r *http.Request) int {
	if ans.raw != nil {
		rec := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		ans.raw.ServeHTTP(rec, r)
		return rec.status
	}
	body := ans.encoded
	if body == nil && ans.body != nil {
		var err error
		if body, err = encode(ans.body); err != nil { // a program error: answers are plain data
			ans.status, body = http.StatusInternalServerError, []byte(`{"description":"The answer could not be written."}`)
		}
	}
	h := w.Header()
	for _, kv := range ans.header {
		h.Set(kv[0], kv[1])
	}
	if ans.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(ans.retry.Seconds()))))
	}
	if ans.status != http.StatusNotModified {
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	h.Set("X-Content-Type-Options", "nosniff")
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store") // credentials
	}
	w.WriteHeader(ans.status)
	_, _ = w.Write(body) // nobody is left to tell
	return ans.status
}

// encode writes JSON with a newline, for people at a terminal, and leaves & < >
// in credentials as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}
