package osbapi

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"time"

	"github.com/gorilla/mux"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/store"
)

// call is one request on its way to its use case.
type call struct {
	*http.Request
	w        http.ResponseWriter // for limits on reading the body only
	id       string              // request id, for logs
	endpoint endpoint
	instance string // decoded ids of the path; "" where the path has none
	binding  string
	query    url.Values
	minor    int                // of the version 2.x that the platform speaks
	audited  *store.AuditRecord // of a call that changes something; nil for others
}

// ServeHTTP answers every request, also one whose handler panics.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	c := &call{Request: r, w: w, id: requestID(r)}
	if r.Body != nil && r.Body != http.NoBody {
		// Also for bodies that nobody reads: the server drains them.
		a.limitReading(c)
	}
	if v := r.Header.Get(requestIdentity); v != "" {
		w.Header().Set(requestIdentity, v)
	}
	ans := a.guarded(c)
	a.record(c, ans)
	status := ans.write(w, r)
	took := time.Since(began)
	a.observe(c.endpoint.operation, status, took)
	level := slog.LevelInfo
	if c.endpoint.open && c.endpoint.operation != "dashboard" {
		level = slog.LevelDebug // health checks are many
	}
	a.log.LogAttrs(r.Context(), level, "request",
		slog.String("request_id", c.id), slog.String("method", shorten(r.Method, 16)),
		slog.String("operation", c.endpoint.operation), slog.Int("status", status), slog.Duration("took", took),
		slog.String("instance", shorten(c.instance, 64)), slog.String("binding", shorten(c.binding, 64)))
}

// guarded turns errors and panics into answers, and logs what the client must
// not see.
func (a *API) guarded(c *call) (ans answer) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			a.log.ErrorContext(c.Context(), "panic", "request_id", c.id, "operation", c.endpoint.operation,
				"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			if c.audited != nil {
				c.audited.Code = string(broker.Internal)
			}
			ans = refusal(&broker.Error{Code: broker.Internal, Message: "Something unexpected happened in the broker."})
		}
	}()
	ans, err := a.handle(c)
	if err == nil {
		return ans
	}
	var e *broker.Error
	if !errors.As(err, &e) {
		e = &broker.Error{Code: broker.Internal, Message: "Something unexpected happened in the broker.", Err: err}
	}
	if e.Err != nil {
		a.log.ErrorContext(c.Context(), "call failed", "request_id", c.id, "operation", c.endpoint.operation,
			"instance", shorten(c.instance, 64), "binding", shorten(c.binding, 64), "error", e.Err)
	}
	if c.audited != nil {
		c.audited.Code = string(e.Code)
	}
	return refusal(e)
}

// handle does what all calls share. Without a login nobody learns which paths
// exist.
func (a *API) handle(c *call) (answer, error) {
	var match mux.RouteMatch
	found := a.router.Match(c.Request, &match) && match.MatchErr == nil
	paths, _ := match.Handler.(methods)
	method := c.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	c.endpoint = paths[method]
	if !c.endpoint.open && !a.authorized(c.Request) {
		c.endpoint.operation = ""
		return unauthorized(), nil
	}
	if !found {
		return answer{}, &broker.Error{Code: broker.NotFound, Message: "There is no such path."}
	}
	if c.endpoint.operation == "" {
		return methodNotAllowed(c.Method, paths.allow()), nil
	}
	if c.endpoint.raw != nil {
		return answer{raw: c.endpoint.raw}, nil
	}
	if c.endpoint.osb {
		a.beginAudit(c)
		var err error
		if c.minor, err = checkHeaders(c.Header); err != nil {
			return answer{}, err
		}
	}
	if err := c.parse(match.Vars); err != nil {
		return answer{}, err
	}
	return c.endpoint.handle(c)
}

// parse decodes ids and query.
func (c *call) parse(vars map[string]string) error {
	for _, v := range []struct {
		name string
		to   *string
	}{{"instance_id", &c.instance}, {"binding_id", &c.binding}} {
		id, err := url.PathUnescape(vars[v.name])
		if err != nil {
			return invalid("%s is not properly percent-encoded.", v.name)
		}
		*v.to = id
	}
	var err error
	if c.query, err = url.ParseQuery(c.URL.RawQuery); err != nil {
		return invalid("The query string is malformed.")
	}
	return nil
}

// authorized asks brokerapi's wrapper, which compares in constant time but can
// only answer in plain text.
func (a *API) authorized(r *http.Request) (ok bool) {
	a.auth.WrapFunc(func(http.ResponseWriter, *http.Request) { ok = true })(nowhere{}, r)
	return ok
}

// nowhere is a ResponseWriter for answers that are given in another form.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) WriteHeader(int)             {}

// requestID is the platform's request identity, in bounds, or a new one.
func requestID(r *http.Request) string {
	if id := r.Header.Get(requestIdentity); id != "" {
		return shorten(id, 128)
	}
	return rand.Text()
}

func invalid(format string, args ...any) error {
	return &broker.Error{Code: broker.Invalid, Message: fmt.Sprintf(format, args...)}
}

// shorten cuts s to at most n bytes.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
