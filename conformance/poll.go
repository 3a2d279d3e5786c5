package conformance

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// pollRules are the same for instances ("poll") and bindings ("poll-binding").
func pollRules(area string) []Rule {
	section, first := "Polling Last Operation for Service Instances", oldest
	if area == "poll-binding" {
		section, first = "Polling Last Operation for Service Bindings", 14
	}
	rules := slices.Concat(since(first,
		must(area+".state", section, "a poll is answered with 200 and the state in progress, succeeded or failed"),
		must(area+".description", section, "description, if present, is a string"),
		must(area+".succeeds", section, "the operation succeeds before the maximum polling duration"),
		must(area+".without-hints", section, "service_id and plan_id may be left out"),
		should(area+".remembered", section, "the state of an operation is still known after it ended"),
		must(area+".after-delete", section, "a poll after a finished deletion is answered with 200 and succeeded, or 410"),
	), since(15,
		must(area+".retry-after", "Polling Interval and Duration", "Retry-After, if present, is a number of seconds or a date"),
		should(area+".retry-after-seconds", section, "Retry-After is a duration rather than a date"),
	))
	if area == "poll" {
		rules = append(rules, since(16,
			must("poll.usable", section, "instance_usable and update_repeatable are booleans"),
		)...)
	}
	return rules
}

// polled is an operation in progress.
type polled struct {
	area     string
	path     string // of the instance or binding
	hints    url.Values
	first    *exchange // the 202
	deleting bool
}

func (p polled) request() request {
	q := url.Values{}
	maps.Copy(q, p.hints)
	if operation := p.first.str("operation"); operation != "" {
		q.Set("operation", operation)
	}
	return request{method: "GET", path: p.path + "/last_operation", query: q}
}

// running says whether the operation is in progress now.
func (s *suite) running(ctx context.Context, p polled) bool {
	x := s.call(ctx, p.request())
	return x.in(200) && x.str("state") == "in progress"
}

// idle waits until nothing is in progress, and checks nothing.
func (s *suite) idle(ctx context.Context, p polled) {
	ctx, cancel := context.WithTimeout(ctx, s.limit())
	defer cancel()
	if p.first == nil {
		p.first = &exchange{}
	}
	last := p.first
	for n := 0; pause(ctx, s.delay(last, n)); n++ {
		if last = s.do(ctx, p.request()); !last.in(200) || last.str("state") != "in progress" {
			return
		}
	}
}

// limit is how long an operation may take. Once one was late the others have
// less, yet a second: on a busy machine there must be time for some polls.
func (s *suite) limit() time.Duration {
	if s.late {
		return min(s.o.Timeout, max(time.Second, 10*s.o.PollInterval))
	}
	if s.plan != nil && s.plan.maxPolling > 0 && s.minor >= 15 {
		return min(s.o.Timeout, s.plan.maxPolling)
	}
	return s.o.Timeout
}

// wait polls until the operation ended, and says whether it succeeded.
func (s *suite) wait(ctx context.Context, p polled) bool {
	ctx, cancel := context.WithTimeout(ctx, s.limit())
	defer cancel()
	last, bad := p.first, 0
	for n := 0; bad < patience; n++ {
		if !pause(ctx, s.delay(last, n)) {
			break
		}
		x := s.call(ctx, p.request())
		if ctx.Err() != nil {
			break
		}
		last = x
		state := s.checkPoll(p, x)
		switch state {
		case "in progress":
			bad = 0
		case "succeeded":
			s.expect(p.area+".succeeds", true, x, "succeeded")
			s.checkAfterEnd(ctx, p)
			return true
		case "failed":
			s.expect(p.area+".succeeds", false, x, "the state succeeded")
			return false
		default:
			bad++ // platforms go on polling
		}
	}
	if context.Cause(ctx) == context.DeadlineExceeded || bad >= patience {
		s.late = true
		s.expect(p.area+".succeeds", false, last, "the state succeeded within "+s.limit().String())
	}
	return false
}

// checkPoll looks at one answer and returns its state.
func (s *suite) checkPoll(p polled, x *exchange) string {
	state := x.str("state")
	if p.deleting && x.in(410) {
		state = "succeeded"
	} else {
		ok := x.in(200) && (state == "in progress" || state == "succeeded" || state == "failed")
		if !s.expect(p.area+".state", ok, x, "200 and a state") {
			return ""
		}
	}
	o := x.object()
	if v, has := o["description"]; has {
		_, isText := v.(string)
		s.expect(p.area+".description", isText || v == nil, x, "description as a string")
	}
	if p.area == "poll" {
		s.checkTypes("poll.usable", x, "answer", o, map[string]kind{"instance_usable": isBool, "update_repeatable": isBool})
	}
	if v := x.answer.Get("Retry-After"); v != "" {
		n, err := strconv.Atoi(v)
		_, dateErr := http.ParseTime(v)
		s.expect(p.area+".retry-after", err == nil && n >= 0 || dateErr == nil, x, "Retry-After in seconds", "Retry-After: "+v)
		s.expect(p.area+".retry-after-seconds", dateErr != nil, x, "Retry-After in seconds", "Retry-After: "+v)
	}
	return state
}

// checkAfterEnd polls what ended once more.
func (s *suite) checkAfterEnd(ctx context.Context, p polled) {
	x := s.call(ctx, p.request())
	if p.deleting {
		s.expect(p.area+".after-delete", x.in(410) || x.in(200) && x.str("state") == "succeeded", x, "200 and succeeded, or 410")
		return
	}
	s.expect(p.area+".remembered", x.in(200) && x.str("state") == "succeeded", x, "200 and succeeded")
	r := p.request()
	r.query.Del("service_id")
	r.query.Del("plan_id")
	x = s.call(ctx, r)
	s.expect(p.area+".without-hints", x.in(200) && x.str("state") == "succeeded", x, "200 and succeeded, as with service_id and plan_id")
}

// eager is how often a broker may say that there is nothing to wait for.
const eager = 20

// delay is how long to wait before the next poll.
func (s *suite) delay(last *exchange, n int) time.Duration {
	if last != nil && last.answer != nil {
		v := last.answer.Get("Retry-After")
		if seconds, err := strconv.Atoi(v); err == nil && seconds >= 0 && (seconds > 0 || n < eager) {
			return min(time.Duration(min(seconds, 1<<20))*time.Second, s.limit())
		}
		if at, err := http.ParseTime(v); err == nil {
			return min(max(time.Until(at), 0), s.limit())
		}
	}
	return min(s.o.PollInterval*time.Duration(n+1), 10*s.o.PollInterval)
}

// pause waits, and says whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	if d < time.Millisecond {
		d = time.Millisecond // whatever the broker says
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
