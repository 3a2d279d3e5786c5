package osbapi

import (
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/store"
)

// maxAuditText bounds what a client can put into one field of an audit record,
// in bytes.
const maxAuditText = 255

// beginAudit notes who asks, if the call changes something. It is called once
// the login is known to be right: others could fill the disk.
func (a *API) beginAudit(c *call) {
	if c.Method == http.MethodGet || c.Method == http.MethodHead {
		return
	}
	r := store.AuditRecord{
		Time: time.Now().UTC(), RequestID: auditText(c.id), Address: c.RemoteAddr, Operation: c.endpoint.operation,
		Forwarded: auditText(strings.Join(c.Header.Values("X-Forwarded-For"), ", ")),
	}
	user, _, _ := c.BasicAuth()
	r.User = auditText(user)
	if host, _, err := net.SplitHostPort(c.RemoteAddr); err == nil {
		r.Address = host
	}
	if header := c.Header.Get(originatingIdentity); header != "" {
		if platform, object, err := readOriginatingIdentity(header); err == nil {
			r.Platform = auditText(platform)
			r.Identity, _ = broker.BoundIdentity(object)
		}
	}
	c.audited = &r
	c.Request = c.Request.WithContext(broker.Audited(c.Context(), r))
}

// noteBody notes what a body is about.
func (c *call) noteBody(f fields) {
	if c.audited == nil {
		return
	}
	for name, to := range map[string]*string{"service_id": &c.audited.ServiceID, "plan_id": &c.audited.PlanID} {
		if text, err := f.text(name); err == nil {
			*to = auditText(text)
		}
	}
}

// record completes the audit record before the answer is sent.
func (a *API) record(c *call, ans answer) {
	r := c.audited
	if r == nil {
		return
	}
	r.InstanceID, r.BindingID = auditText(c.instance), auditText(c.binding)
	if c.Method == http.MethodDelete {
		r.ServiceID, r.PlanID = auditText(c.query.Get("service_id")), auditText(c.query.Get("plan_id"))
	}
	r.Status, r.Result = ans.status, auditResult(c.Method, ans.status)
	if ans.status == http.StatusAccepted {
		r.OperationID = operationOf(ans)
	}
	if err := a.o.Broker.Record(c.Context(), *r); err != nil {
		// What was done is done: the platform must learn of it.
		a.log.ErrorContext(c.Context(), "audit record is lost", "request_id", c.id, "operation", r.Operation,
			"instance", shorten(c.instance, 64), "binding", shorten(c.binding, 64), "status", ans.status, "error", err)
	}
}

// auditResult is one word for an answer.
func auditResult(method string, status int) string {
	switch {
	case status >= 500:
		return "failed"
	case status >= 400:
		return "refused"
	case status == http.StatusAccepted:
		return "accepted"
	case status == http.StatusCreated:
		return "created"
	case method == http.MethodPut:
		return "unchanged"
	case method == http.MethodPatch:
		return "updated"
	}
	return "deleted"
}

// operationOf is the operation that a 202 names.
func operationOf(ans answer) string {
	var body struct {
		Operation string `json:"operation"`
	}
	text, err := encode(ans.body)
	if err != nil || json.Unmarshal(text, &body) != nil {
		return ""
	}
	return auditText(body.Operation)
}

func auditText(s string) string { return strings.ToValidUTF8(shorten(s, maxAuditText), "�") }

// auditPage is GET /admin/v1/audit: the newest records first, of one instance
// (instance), not from before a time (since, RFC 3339), at most limit (100, 1000
// at most). next is what to give as before for the following page; it is absent
// on the last one.
func (a *API) auditPage(c *call) (answer, error) {
	q := store.AuditQuery{Limit: 100}
	var err error
	if q.InstanceID, err = c.hint("instance"); err != nil {
		return answer{}, err
	}
	since, err := c.hint("since")
	if err == nil && since != "" {
		if q.Since, err = time.Parse(time.RFC3339, since); err != nil {
			err = invalid("since must be a time like 2026-01-31T12:00:00Z.")
		}
	}
	if err != nil {
		return answer{}, err
	}
	limit, before := int64(q.Limit), int64(0)
	for _, n := range []struct {
		name string
		max  int64
		to   *int64
	}{{"limit", 1000, &limit}, {"before", 1<<63 - 1, &before}} {
		text, err := c.hint(n.name)
		if err != nil {
			return answer{}, err
		}
		if text == "" {
			continue
		}
		if *n.to, err = strconv.ParseInt(text, 10, 64); err != nil || *n.to < 1 || *n.to > n.max {
			return answer{}, invalid("%s must be a number from 1 to %d.", n.name, n.max)
		}
	}
	q.Limit, q.Before = int(limit), before
	page, err := a.o.Broker.Audit(c.Context(), q)
	if err != nil {
		return answer{}, err
	}
	body := struct {
		Audit []store.AuditRecord `json:"audit"`
		Next  int64               `json:"next,omitempty"`
	}{Audit: append([]store.AuditRecord{}, page...)}
	if len(page) == q.Limit {
		body.Next = page[len(page)-1].Seq
	}
	return answer{status: http.StatusOK, body: body}, nil
}
