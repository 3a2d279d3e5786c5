package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// maxAnswer is how much of an answer is read, in bytes.
const maxAnswer = 8 << 20

// patience is how many calls in a row may have no proper answer.
const patience = 3

var (
	errTooLarge = fmt.Errorf("the body is larger than %d MiB", maxAnswer>>20)
	errSilent   = errors.New("the broker was given up: it did not answer several times")
)

// login says which credentials a request carries.
type login int

const (
	rightLogin login = iota
	noLogin
	wrongPassword
	wrongUser
)

func (l login) String() string {
	return [...]string{"", "without credentials", "with a wrong password", "with a wrong user name"}[l]
}

// noVersion stands for a request without the version header.
const noVersion = "none"

type obj = map[string]any

// request is what is sent. The zero values of what is not set are right.
type request struct {
	method  string
	path    string // escaped, after the broker's URL
	query   url.Values
	body    any    // becomes JSON
	raw     string // instead of body
	login   login
	version string
	header  map[string]string
}

// exchange is a request with its answer.
type exchange struct {
	request
	status int
	answer http.Header
	text   []byte
	value  any    // text as JSON, nil if it is none
	id     string // request identity that was sent
	err    error  // no proper answer: time-out, too large, …
}

// object is the answer's JSON object, nil if it is none.
func (x *exchange) object() obj {
	o, _ := x.value.(obj)
	return o
}

// str is a string of the answer, "" if it is none.
func (x *exchange) str(name string) string {
	v, _ := x.object()[name].(string)
	return v
}

// in says whether the status is one of some.
func (x *exchange) in(statuses ...int) bool {
	for _, s := range statuses {
		if x.err == nil && x.status == s {
			return true
		}
	}
	return false
}

func (x *exchange) ok() bool      { return x.in(200, 201, 202) }
func (x *exchange) refused() bool { return x.err == nil && x.status >= 400 && x.status < 500 }

// code says whether the answer is 422 with this error code.
func (x *exchange) code(code string) bool { return x.in(422) && x.str("error") == code }

// client sends requests to the broker. It may be used concurrently.
type client struct {
	base     string
	username string
	password string
	version  string
	timeout  time.Duration
	identity bool // sends X-Broker-API-Request-Identity
	http     *http.Client

	mu     sync.Mutex
	silent int // calls in a row without a proper answer
}

func newClient(o Options, minor int) *client {
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: o.Insecure, MinVersion: tls.VersionTLS12},
		MaxResponseHeaderBytes: 256 << 10,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        30 * time.Second,
	}
	return &client{
		base: strings.TrimRight(o.URL, "/"), username: o.Username, password: o.Password,
		version: o.Version, timeout: o.RequestTimeout, identity: minor >= 15,
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// do sends a request. Failures are in the exchange.
func (c *client) do(ctx context.Context, r request) *exchange {
	x := &exchange{request: r}
	switch {
	case c.isSilent():
		x.err = errSilent
		return x
	case ctx.Err() != nil:
		x.err = ctx.Err()
		return x
	case r.method != http.MethodGet:
		// An interrupted request might still have its effect, after the clean-up.
		ctx = context.WithoutCancel(ctx)
	}
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	x.err = c.exchange(limited, x)
	switch {
	case ctx.Err() != nil:
		x.err = ctx.Err()
	case errors.Is(x.err, context.DeadlineExceeded):
		x.err = fmt.Errorf("no answer within %v", c.timeout)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if x.err == nil {
		c.silent = 0
	} else if ctx.Err() == nil {
		c.silent++
	}
	return x
}

func (c *client) isSilent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.silent >= patience
}

// forgive lets a broker that was given up be asked once more.
func (c *client) forgive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.silent = min(c.silent, patience-1)
}

func (c *client) exchange(ctx context.Context, x *exchange) error {
	httpRequest, err := c.build(ctx, x)
	if err != nil {
		return err
	}
	res, err := c.http.Do(httpRequest)
	if err != nil {
		var u *url.Error // its URL is long and known
		if errors.As(err, &u) {
			err = u.Err
		}
		return err
	}
	defer res.Body.Close()
	x.status, x.answer = res.StatusCode, res.Header
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return err
	}
	if len(text) > maxAnswer {
		return errTooLarge
	}
	x.text, x.value = text, parse(text)
	return nil
}

func (c *client) build(ctx context.Context, x *exchange) (*http.Request, error) {
	var body io.Reader
	text := []byte(x.raw)
	if x.body != nil {
		var err error
		if text, err = json.Marshal(x.body); err != nil {
			return nil, err
		}
	}
	if len(text) > 0 {
		body = bytes.NewReader(text)
	}
	target := c.base + x.path
	if len(x.query) > 0 {
		target += "?" + x.query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, x.method, target, body)
	if err != nil {
		return nil, err
	}
	switch {
	case c.username == "" && c.password == "", x.login == noLogin:
	case x.login == wrongPassword:
		r.SetBasicAuth(c.username, rand.Text())
	case x.login == wrongUser:
		r.SetBasicAuth("x-"+c.username, c.password)
	default:
		r.SetBasicAuth(c.username, c.password)
	}
	switch x.version {
	case "":
		r.Header.Set("X-Broker-API-Version", c.version)
	case noVersion:
	default:
		r.Header.Set("X-Broker-API-Version", x.version)
	}
	if x.method == http.MethodPut || x.method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.identity {
		x.id = rand.Text()
		r.Header.Set(requestIdentity, x.id)
	}
	for k, v := range x.header {
		if v == "" {
			r.Header.Del(k)
			if k == requestIdentity {
				x.id = ""
			}
			continue
		}
		r.Header.Set(k, v)
	}
	return r, nil
}

// parse decodes one JSON value, nil if the text is not exactly one.
func parse(text []byte) any {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil
	}
	return v
}
