// Package faulty is a small Open Service Broker in memory that is right in all,
// or wrong in exactly one way. Tests use it to see that the conformance suite
// accepts what is right and finds what is wrong.
package faulty

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// Options of a Broker.
type Options struct {
	Username string
	Password string
	Async    bool   // all that changes something goes on after the answer
	Fault    string // name of one of Faults; "" is right in all
}

// Broker is an http.Handler. It may be used concurrently.
type Broker struct {
	o   Options
	mux *http.ServeMux

	mu        sync.Mutex
	instances map[string]*instance
	bindings  map[string]*binding
	done      map[string]*operation // of deletions, by path
	calls     int                   // of the catalog
}

// New makes a broker without instances.
func New(o Options) *Broker {
	b := &Broker{o: o, mux: http.NewServeMux(), instances: map[string]*instance{}, bindings: map[string]*binding{}, done: map[string]*operation{}}
	const (
		instancePath = "/v2/service_instances/{instance}"
		bindingPath  = instancePath + "/service_bindings/{binding}"
	)
	for pattern, handle := range map[string]func(*call) answer{
		"GET /v2/catalog":                         b.catalog,
		"PUT " + instancePath:                     b.provision,
		"GET " + instancePath:                     b.fetch,
		"PATCH " + instancePath:                   b.update,
		"DELETE " + instancePath:                  b.deprovision,
		"GET " + instancePath + "/last_operation": b.poll,
		"PUT " + bindingPath:                      b.bind,
		"GET " + bindingPath:                      b.fetchBinding,
		"DELETE " + bindingPath:                   b.unbind,
		"GET " + bindingPath + "/last_operation":  b.poll,
	} {
		b.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { b.serve(w, r, handle) })
	}
	return b
}

// Left returns how many instances and bindings there are.
func (b *Broker) Left() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.instances) + len(b.bindings)
}

func (b *Broker) is(fault string) bool { return b.o.Fault == fault }

type obj = map[string]any

// answer is what a call gives.
type answer struct {
	status int
	body   any
	header map[string]string
}

// call is a request with what is read of it.
type call struct {
	*http.Request
	instance, binding string
	minor             int
	accepts           bool
	text              []byte
	body              obj
}

func refuse(status int, code, description string) answer {
	body := obj{"description": description}
	if code != "" {
		body["error"] = code
	}
	return answer{status: status, body: body}
}

// ServeHTTP answers.
func (b *Broker) ServeHTTP(w http.ResponseWriter, r *http.Request) { b.mux.ServeHTTP(w, r) }

const identityHeader = "X-Broker-API-Request-Identity"

func (b *Broker) serve(w http.ResponseWriter, r *http.Request, handle func(*call) answer) {
	c := &call{Request: r, instance: r.PathValue("instance"), binding: r.PathValue("binding")}
	a, ok := b.checkHeaders(c)
	if ok {
		a = handle(c)
	}
	if id := r.Header.Get(identityHeader); id != "" && !b.is("identity-lost") {
		w.Header().Set(identityHeader, id)
	} else if b.is("identity-invented") {
		w.Header().Set(identityHeader, "invented")
	}
	b.write(w, a)
}

func (b *Broker) write(w http.ResponseWriter, a answer) {
	text, err := json.Marshal(a.body)
	if err != nil {
		a.status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	switch {
	case b.is("content-type-text"):
		w.Header().Set("Content-Type", "text/plain")
	case a.status == 401 && b.is("unauthorized-text"), a.status == 400 && b.is("errors-text"):
		text = []byte("not like this")
	case a.status >= 400:
		text = b.spoil(a, text)
	}
	for k, v := range a.header {
		w.Header().Set(k, v)
	}
	w.WriteHeader(a.status)
	if a.status != http.StatusNotModified {
		_, _ = w.Write(text)
	}
}

// spoil makes refusals wrong.
func (b *Broker) spoil(a answer, text []byte) []byte {
	body, _ := a.body.(obj)
	switch b.o.Fault {
	case "description-missing":
		return []byte("{}")
	case "description-empty":
		return []byte(`{"description":""}`)
	case "error-empty":
		return []byte(`{"error":"","description":"x"}`)
	case "error-usable":
		return []byte(`{"description":"x","update_repeatable":false}`)
	case "error-code-spelling":
		if body["error"] == "MaintenanceInfoConflict" {
			return []byte(`{"error":"maintenance_info_conflict","description":"x"}`)
		}
	}
	return text
}

func (b *Broker) checkHeaders(c *call) (answer, bool) {
	if !b.authorized(c) {
		return refuse(401, "", "log in"), false
	}
	version := c.Header.Get("X-Broker-API-Version")
	major, minor, _ := strings.Cut(version, ".")
	var err error
	c.minor, err = strconv.Atoi(minor)
	switch {
	case version == "" && b.is("version-missing-ignored"):
		c.minor = 17
	case version == "":
		return refuse(400, "", "the version is missing"), false
	case b.is("version-refused-404") && major != "2":
		return refuse(404, "", "no such version"), false
	case b.is("version-crash") && major != "2":
		return refuse(500, "", "crash"), false
	case (major != "2" || err != nil) && !b.is("version-ignored"):
		return refuse(412, "", "the version is not supported"), false
	}
	if b.is("originating-refused") && c.Header.Get("X-Broker-API-Originating-Identity") != "" {
		return refuse(400, "", "who is that"), false
	}
	for _, id := range []string{c.instance, c.binding} {
		if b.is("strange-id-crash") && strings.ContainsAny(id, " /?%") {
			return refuse(500, "", "crash"), false
		}
		if b.is("long-id-crash") && len(id) > 500 {
			return refuse(500, "", "crash"), false
		}
		if strings.ContainsAny(id, "\x00\n") || len(id) > 500 {
			return refuse(400, "", "the id is malformed"), false
		}
	}
	c.accepts = c.URL.Query().Get("accepts_incomplete") == "true"
	return answer{}, true
}

func (b *Broker) authorized(c *call) bool {
	user, password, _ := c.BasicAuth()
	userOK := subtle.ConstantTimeCompare([]byte(user), []byte(b.o.Username)) == 1
	passwordOK := subtle.ConstantTimeCompare([]byte(password), []byte(b.o.Password)) == 1
	switch b.o.Fault {
	case "catalog-open":
		return userOK && passwordOK || c.URL.Path == "/v2/catalog"
	case "provision-open":
		return userOK && passwordOK || c.Method == "PUT" && c.binding == ""
	case "any-password":
		return userOK
	case "any-user":
		return passwordOK
	case "poll-open":
		return userOK && passwordOK || strings.HasSuffix(c.URL.Path, "/last_operation")
	case "unauthorized-effect":
		if c.Method == "PUT" && c.binding == "" && !(userOK && passwordOK) {
			c.accepts = true
			b.provision(c)
		}
	}
	return userOK && passwordOK
}

// read decodes the body; prefix is of the names of faults.
func (b *Broker) read(c *call, prefix string) (a answer, ok bool) {
	text, err := io.ReadAll(io.LimitReader(c.Body, 1<<20))
	if err != nil {
		return refuse(400, "", "the body cannot be read"), false
	}
	c.text = text
	d := json.NewDecoder(strings.NewReader(string(text)))
	var v any
	if err := d.Decode(&v); err != nil {
		switch {
		case b.is(prefix + "malformed-crash"):
			return refuse(500, "", "crash"), false
		case b.is(prefix + "malformed-422"):
			return refuse(422, "", "malformed"), false
		case b.is(prefix+"empty-422") && len(text) == 0:
			return refuse(422, "", "malformed"), false
		}
		return refuse(400, "", "the body is not JSON"), false
	}
	if _, err := d.Token(); err != io.EOF && !b.is(prefix+"trailing-accepted") {
		return refuse(400, "", "the body goes on"), false
	}
	if c.body, ok = v.(obj); !ok {
		if b.is(prefix + "array-crash") {
			return refuse(500, "", "crash"), false
		}
		return refuse(400, "", "the body is no object"), false
	}
	if b.is(prefix+"unknown-fields-refused") && c.body["x-conformance-unknown"] != nil {
		return refuse(400, "", "unknown field"), false
	}
	return answer{}, true
}

// str is a string of the body.
func (c *call) str(name string) string {
	s, _ := c.body[name].(string)
	return s
}

// operation is something that goes on. It ends after some polls.
type operation struct {
	id     string
	kind   string
	left   int
	state  string // when it ended
	finish func()
}

func (b *Broker) begin(kind string, finish func()) *operation {
	op := &operation{id: rand.Text(), kind: kind, left: 3, finish: finish, state: "succeeded"}
	if b.is(kind + "-operation-long") {
		op.id = strings.Repeat("x", 10001)
	}
	if b.is(kind + "-fails") {
		op.state = "failed"
	}
	return op
}

// accepted is the 202 of an operation.
func (b *Broker) accepted(op *operation, body obj) answer {
	body["operation"] = op.id
	return answer{status: 202, body: body, header: map[string]string{"Retry-After": "0"}}
}

// step lets the operation go on by one poll, and says whether it ended.
func (op *operation) step() bool {
	if op.left > 0 {
		if op.left--; op.left == 0 {
			op.finish()
		}
	}
	return op.left == 0
}

func (op *operation) running() bool { return op != nil && op.left > 0 }

// poll is GET last_operation of both.
func (b *Broker) poll(c *call) answer {
	b.mu.Lock()
	defer b.mu.Unlock()
	op := b.find(c)
	switch {
	case op == nil && b.is("poll-absent-200"):
		return answer{status: 200, body: obj{"state": "succeeded"}}
	case op == nil && b.is("poll-absent-crash"):
		return refuse(500, "", "crash")
	case op == nil:
		return refuse(404, "", "there is no such thing")
	case b.is("poll-hints-required") && c.URL.Query().Get("plan_id") == "":
		return refuse(400, "", "plan_id is missing")
	}
	before := op.running()
	deleting := op.kind == "deprovision" || op.kind == "unbind"
	if op.step() {
		switch {
		case !before && !deleting && b.is("poll-forgets"):
			return refuse(404, "", "there is no operation")
		case !before && deleting && b.is("poll-deleted-404"):
			return refuse(404, "", "there is no such thing")
		}
		return b.polled(op, op.state)
	}
	return b.polled(op, "in progress")
}

func (b *Broker) polled(op *operation, state string) answer {
	a := answer{status: 200, body: obj{"state": state, "description": "about " + op.kind}, header: map[string]string{}}
	if state == "in progress" {
		a.header["Retry-After"] = "0"
	}
	binding := op.kind == "bind" || op.kind == "unbind"
	switch b.o.Fault {
	case "poll-state-unknown":
		a.body.(obj)["state"] = "done"
	case "poll-description-number":
		a.body.(obj)["description"] = 7
	case "poll-usable-text":
		a.body.(obj)["instance_usable"] = "yes"
	case "poll-retry-after-word":
		a.header["Retry-After"] = "soon"
	case "poll-retry-after-date":
		a.header["Retry-After"] = "Mon, 02 Jan 2006 15:04:05 GMT"
	case "poll-binding-state-missing":
		if binding {
			delete(a.body.(obj), "state")
		}
	}
	return a
}

// find returns the operation of what is polled, nil if there is no such thing.
func (b *Broker) find(c *call) *operation {
	path := strings.TrimSuffix(c.URL.Path, "/last_operation")
	if op := b.done[path]; op != nil {
		return op
	}
	if c.binding != "" {
		if x := b.bindings[c.binding]; x != nil && x.of == c.instance {
			return orDone(x.op)
		}
		return nil
	}
	if i := b.instances[c.instance]; i != nil {
		return orDone(i.op)
	}
	return nil
}

// orDone is an operation that ended before it could be seen.
func orDone(op *operation) *operation {
	if op == nil {
		return &operation{kind: "provision", state: "succeeded"}
	}
	return op
}

func plain(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(text)
}
