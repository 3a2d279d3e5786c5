package sqlstore

import (
	"database/sql"
	"time"
)

// Prefetcher is an Engine for which a look into the database is dear. Its writer
// lets all closures of a batch run up to their first use of the transaction, one
// beside the other, and looks for all of them at once. From there on they run one
// after the other. What one was to get that another of the batch has written
// before it, is looked for again.
type Prefetcher interface {
	// Prefetch gets records. It may get more that will likely be wanted.
	Prefetch([]*Wanted) error
}

// Wanted is a record that a closure asks for first; Query "" is none.
type Wanted struct {
	Query, ID string
	Body      []byte
	Found     bool
	key       string
}

// prelude is the time before a closure's first use of its transaction.
type prelude struct {
	asks   chan *Wanted  // what it is about to do
	resume chan struct{} // closed when it may go on
	got    *Wanted
}

// enter waits for the transaction's turn. It returns the record if it was
// prefetched.
func (t *Tx) enter(query, id, key string) *Wanted {
	p := t.prelude
	if p == nil {
		return nil
	}
	t.prelude = nil
	p.asks <- &Wanted{Query: query, ID: id, key: key}
	<-p.resume
	return p.got
}

// body returns the record that a get query finds, nil when there is none.
func (t *Tx) body(query, id, key string) (body []byte, err error) {
	if got := t.enter(query, id, key); got != nil && got.Query != "" {
		if err := t.usable(); err != nil {
			return nil, err
		}
		if got.Found {
			return got.Body, nil
		}
		return nil, nil
	}
	err = t.Rows(func(r *sql.Rows) error { return r.Scan(&body) }, query, id)
	return body, err
}

// begin waits for the transaction's turn.
func (t *Tx) begin() { t.enter("", "", "") }

// everything is the key of all records.
const everything = "*"

// touch notes that a record was written.
func (t *Tx) touch(key string) {
	if t.memory.touched == nil {
		t.memory.touched = map[string]bool{}
	}
	t.memory.touched[key] = true
}

// started is a closure in its prelude, or behind it.
type started struct {
	r    *request
	t    *Tx
	p    *prelude
	want *Wanted // nil: it has ended
	end  ran
}

// together runs the closures of a batch.
func (w *Writer) together(e Engine, a Prefetcher, batch []*request) (waiting []*request, err error) {
	var all []*started
	var wanted []*Wanted
	for _, r := range batch {
		if err := e.Admit(r.ctx); err != nil {
			r.next <- verdict{err: err}
			continue
		}
		s := &started{r: r, t: e.Tx(), p: &prelude{asks: make(chan *Wanted, 1), resume: make(chan struct{})}}
		s.t.prelude = s.p
		r.next <- verdict{tx: s.t}
		all = append(all, s)
	}
	for _, s := range all {
		select {
		case s.want = <-s.p.asks:
			if s.want.Query != "" {
				wanted = append(wanted, s.want)
			}
		case s.end = <-s.r.ran:
		}
	}
	err = a.Prefetch(wanted)
	for _, s := range all {
		s.t.before = *s.t.memory
		if s.want != nil {
			touched := s.t.memory.touched
			if s.t.err = err; err == nil && !touched[s.want.key] && !touched[everything] {
				s.p.got = s.want
			}
			close(s.p.resume)
			s.end = <-s.r.ran
		}
		if err != nil { // the transaction is lost, and this one has not seen it
			if !s.end.gone {
				waiting = append(waiting, s.r)
			}
			continue
		}
		var waits bool
		if waits, err = finish(e, s.r, s.t, s.end); waits {
			waiting = append(waiting, s.r)
		}
	}
	return waiting, err
}

// gather takes r and what else waits, or is expected.
func (w *Writer) gather(r *request) (batch []*request) {
	var late <-chan time.Time
	for n := 1; r != nil; n++ {
		if r.ctx.Err() == nil && r.begun.CompareAndSwap(false, true) { // else its caller sees the same
			batch = append(batch, r)
		}
		if r = nil; n < MaxBatch {
			r = w.next(n < w.expected, &late)
		}
	}
	w.expected = len(batch)
	return batch
}
