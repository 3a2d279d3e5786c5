package conformance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// IDPrefix begins all ids of instances and bindings that Run makes.
const IDPrefix = "conformance-"

// Options is what to check.
type Options struct {
	URL      string // of the broker, before /v2
	Username string // empty with Password: the broker asks for no login
	Password string
	Version  string // of the specification, "2.13" to "2.17", default the latest

	Service    string // name or id of the offering to use; default the first with a bindable plan
	Plan       string // name or id of the plan to use; default the first
	UpdatePlan string // name or id of the plan to change to; default another of the offering

	Parameters     map[string]any // of provisions
	BindParameters map[string]any // of binds
	AppGUID        string         // of binds; default a random one
	Route          string         // of binds to route services; default a name below example.com

	Insecure bool // does not verify the broker's certificate
	Strict   bool // a SHOULD that does not hold fails

	Timeout        time.Duration // of each asynchronous operation; default 10 min
	RequestTimeout time.Duration // of each call; default 1 min, as platforms have it
	PollInterval   time.Duration // where no Retry-After is given; default 2 s

	Progress func(area string) // called as the check goes on; may be nil
}

// check fills in defaults.
func (o *Options) check() (minor int, err error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return 0, errors.New("the URL must begin with http:// or https:// and name a host")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return 0, errors.New("the URL must have no login, query or fragment")
	}
	if o.Version == "" {
		o.Version = fmt.Sprintf("2.%d", newest)
	}
	text, ok := strings.CutPrefix(o.Version, "2.")
	minor, err = strconv.Atoi(text)
	if !ok || err != nil || minor < oldest || minor > newest || strconv.Itoa(minor) != text {
		return 0, fmt.Errorf("the version must be 2.%d to 2.%d", oldest, newest)
	}
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{{&o.Timeout, 10 * time.Minute}, {&o.RequestTimeout, time.Minute}, {&o.PollInterval, 2 * time.Second}} {
		if *d.value <= 0 {
			*d.value = d.fallback
		}
	}
	return minor, nil
}

// suite is one run.
type suite struct {
	o     Options
	minor int
	*client
	*tally
	offerings []offering
	offering  *offering // the one to use
	plan      *plan
	org       string
	space     string
	instances []*instance // all that may exist
	second    *instance   // for updates, nil if there is none
	late      bool        // an operation did not end in time
	cleaning  bool        // the end of the run

	incomplete string // why much was not looked at
	wasAsync   bool   // a provision answered 202
}

// Run checks the broker. Its error is about the options alone: what the broker
// does wrong is in the report. When ctx ends, it cleans up and reports what it
// knows.
func Run(ctx context.Context, o Options) (*Report, error) {
	minor, err := o.check()
	if err != nil {
		return nil, err
	}
	s := &suite{
		o: o, minor: minor, client: newClient(o, minor), tally: newTally(minor, o.Strict),
		org: newID(), space: newID(),
	}
	defer s.close()
	func() {
		defer s.cleanUp(ctx) // whatever happens
		s.run(ctx)
	}()
	if ctx.Err() != nil {
		s.incomplete = "the check was interrupted"
	}
	report := &Report{URL: o.URL, Version: o.Version, Results: s.finish(), Incomplete: s.incomplete}
	if s.plan != nil {
		report.Service, report.Plan = s.offering.name, s.plan.name
	}
	return report, nil
}

func (s *suite) run(ctx context.Context) {
	s.progress("catalog")
	if !s.checkCatalog(ctx) {
		s.checkLogins(ctx)
		return
	}
	steps := []struct {
		name  string
		check func(context.Context)
	}{
		{"login", s.checkLogins},
		{"headers", s.checkHeaders},
		{"bad provision requests", s.checkProvisionInput},
		{"absent instances and bindings", s.checkAbsent},
		{"instances and bindings", s.checkLife},
		{"updates", s.checkUpdates},
		{"parallel requests", s.checkConcurrent},
	}
	for _, step := range steps {
		if ctx.Err() != nil {
			return
		}
		s.progress(step.name)
		step.check(ctx)
	}
}

func (s *suite) progress(area string) {
	if s.o.Progress != nil {
		s.o.Progress(area)
	}
}

// newID makes an id that no other run has.
func newID() string { return IDPrefix + strings.ToLower(rand.Text()) }

// skipArea says why none of an area's rules is looked at.
func (s *suite) skipArea(area, reason string) {
	for _, id := range s.order {
		if strings.HasPrefix(id, area+".") {
			s.skip(id, reason)
		}
	}
}

// expect adds one look at a rule, and returns ok. What was given up or
// interrupted says nothing about the broker.
func (s *suite) expect(id string, ok bool, x *exchange, expected string, got ...string) bool {
	if x != nil && (errors.Is(x.err, errSilent) || errors.Is(x.err, context.Canceled) || errors.Is(x.err, context.DeadlineExceeded)) {
		s.skip(id, "the broker was given up, or the check was interrupted")
		return false
	}
	s.record(id, ok, func(r *Result) {
		r.Sent, r.Expected, r.Got = s.sent(x), s.clean(expected), s.got(x)
		if len(got) > 0 {
			r.Got = s.clean(strings.Join(got, "; "))
		}
	})
	return ok
}

// expectStatus is expect for statuses alone.
func (s *suite) expectStatus(id string, x *exchange, statuses ...int) bool {
	var names []string
	for _, status := range statuses {
		names = append(names, strconv.Itoa(status))
	}
	return s.expect(id, x.in(statuses...), x, strings.Join(names, " or "))
}

// expectRefused is expect for any 4xx.
func (s *suite) expectRefused(id string, x *exchange) bool {
	return s.expect(id, x.refused(), x, "a 4xx")
}

// call sends a request and checks what holds for every answer.
func (s *suite) call(ctx context.Context, r request) *exchange {
	x := s.do(ctx, r)
	s.checkAnswer(x)
	return x
}
