package conformance

import (
	"context"
	"sync"
)

const blockingSection = "Blocking Operations"

var concurrentRules = []Rule{
	must("concurrent.provision", blockingSection, "two equal provisions at once make one instance; one may be refused with 422 ConcurrencyError or 409"),
	must("concurrent.bind", blockingSection, "two equal binds at once make one binding; one may be refused with 422 ConcurrencyError or 409"),
	must("concurrent.unbind", blockingSection, "two unbinds at once are answered with 200, 202, 410 or 422 ConcurrencyError"),
	must("concurrent.deprovision", blockingSection, "two deprovisions at once are answered with 200, 202, 410 or 422 ConcurrencyError"),
	must("ids.roundtrip", "URL Properties", "an instance whose id has percent-encoded characters can be deleted, or its provision is refused with a 4xx"),
}

// twice sends a request twice at once.
func (s *suite) twice(ctx context.Context, r request) [2]*exchange {
	var both [2]*exchange
	var wg sync.WaitGroup
	for k := range both {
		wg.Go(func() { both[k] = s.do(ctx, r) })
	}
	wg.Wait()
	for _, x := range both {
		s.checkAnswer(x)
	}
	return both
}

func (s *suite) checkConcurrent(ctx context.Context) {
	if s.late {
		s.skipArea("concurrent", "an operation did not end in time")
		return
	}
	s.checkTwoProvisions(ctx)
	s.checkDuringCreate(ctx)
	s.checkRoundtrip(ctx)
}

// checkTwo looks at two answers to one creation, and returns the one to go by.
func (s *suite) checkTwo(id string, both [2]*exchange) *exchange {
	var made *exchange
	created := 0
	for _, x := range both {
		s.expect(id, x.in(200, 201, 202, 409) || x.code("ConcurrencyError"), x, "200, 201, 202, or a refusal with 409 or 422 ConcurrencyError")
		if x.in(201) {
			created++
		}
		if x.ok() && (made == nil || x.in(202)) {
			made = x
		}
	}
	s.expect(id, created < 2, both[1], "201 for one of the two only")
	s.expect(id, made != nil, both[1], "success for one of the two")
	return made
}

func (s *suite) checkTwoProvisions(ctx context.Context) {
	i := s.newInstance()
	i.query = accepts()
	both := s.twice(ctx, request{method: "PUT", path: i.path(), query: i.query, body: i.body})
	x := s.checkTwo("concurrent.provision", both)
	if x == nil {
		return
	}
	i.first = x
	if x.in(202) && !s.wait(ctx, polled{area: "poll", path: i.path(), hints: i.hints(), first: x}) {
		return
	}
	if s.plan.bindable {
		s.checkTwoBinds(ctx, i)
	} else {
		s.skip("concurrent.bind", notBindable)
		s.skip("concurrent.unbind", notBindable)
	}
	i.gone = s.checkTwoDeletions(ctx, "concurrent.deprovision", polled{area: "poll", path: i.path(), hints: i.hints(), deleting: true}, i.deletion())
	if again := s.call(ctx, request{method: "DELETE", path: i.path(), query: i.deletion()}); i.gone {
		i.gone = s.expectStatus("concurrent.provision", again, 410)
	}
}

func (s *suite) checkTwoBinds(ctx context.Context, i *instance) {
	b := s.newBinding(i)
	r := s.bindQuery()
	r.path, r.body = b.path(), b.body
	both := s.twice(ctx, r)
	x := s.checkTwo("concurrent.bind", both)
	if x == nil {
		return
	}
	p := polled{area: "poll-binding", path: b.path(), hints: i.hints(), first: x}
	if x.in(202) && !s.wait(ctx, p) {
		return
	}
	if one, two := both[0].credentials(), both[1].credentials(); one != nil && two != nil {
		s.expect("concurrent.bind", plain(one) == plain(two), both[1], "the same credentials in both answers", "different credentials")
	}
	p.first, p.deleting = nil, true
	b.gone = s.checkTwoDeletions(ctx, "concurrent.unbind", p, i.deletion())
}

// checkTwoDeletions deletes twice at once, and says whether it is gone.
func (s *suite) checkTwoDeletions(ctx context.Context, id string, p polled, q map[string][]string) bool {
	r := request{method: "DELETE", path: p.path, query: q}
	gone := false
	for _, x := range s.twice(ctx, r) {
		s.expect(id, x.in(200, 202, 410) || x.code("ConcurrencyError"), x, "200, 202, 410, or 422 with the error ConcurrencyError")
		if x.in(202) {
			p.first = x
		}
		gone = gone || x.in(200)
	}
	if p.first != nil {
		gone = s.wait(ctx, p)
	}
	if !gone {
		return false
	}
	return s.expectStatus(id, s.call(ctx, r), 410)
}

// checkRoundtrip makes and deletes an instance with a strange id.
func (s *suite) checkRoundtrip(ctx context.Context) {
	const id = "ids.roundtrip"
	if s.late {
		s.skip(id, "an operation did not end in time")
		return
	}
	i := s.newInstance()
	i.id += " é%?"
	x := s.call(ctx, request{method: "PUT", path: i.path(), query: accepts(), body: i.body})
	if !s.expect(id, x.in(201, 202) || x.refused(), x, "201, 202 or a 4xx") || !x.ok() {
		i.gone = x.refused()
		return
	}
	if x.in(202) && !s.wait(ctx, polled{area: "poll", path: i.path(), hints: i.hints(), first: x}) {
		return
	}
	gone := s.call(ctx, request{method: "DELETE", path: i.path(), query: i.deletion()})
	s.expectStatus(id, gone, 200, 202)
	s.settle(ctx, i, gone)
}
