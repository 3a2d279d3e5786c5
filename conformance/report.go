package conformance

import (
	"encoding/json"
	"fmt"
	"io"
)

// Status is how a rule came out.
type Status string

// Statuses of results.
const (
	Pass Status = "PASS"
	Fail Status = "FAIL"
	Warn Status = "WARN" // a SHOULD that does not hold
	Skip Status = "SKIP"
)

// Result is a rule with what was found. Sent, Expected and Got belong to the
// first failure, Failures counts all.
type Result struct {
	Rule
	Status   Status `json:"status"`
	Reason   string `json:"reason,omitempty"` // why it was skipped
	Sent     string `json:"sent,omitempty"`
	Expected string `json:"expected,omitempty"`
	Got      string `json:"got,omitempty"`
	Failures int    `json:"failures,omitempty"`
	Checks   int    `json:"checks"` // how often it was looked at
}

// Report is what Run found.
type Report struct {
	URL     string   `json:"url"`
	Version string   `json:"version"` // of the specification, "2.17"
	Service string   `json:"service"` // name of the offering and the plan that were used
	Plan    string   `json:"plan"`
	Results []Result `json:"results"`
	// Incomplete says why much was not looked at, "" if all was.
	Incomplete string `json:"incomplete,omitempty"`
}

// Count returns how many rules came out so.
func (r *Report) Count(s Status) (n int) {
	for _, result := range r.Results {
		if result.Status == s {
			n++
		}
	}
	return n
}

// Failed says whether a rule failed.
func (r *Report) Failed() bool { return r.Count(Fail) > 0 }

// Summary is one line.
func (r *Report) Summary() string {
	with := ""
	if r.Plan != "" {
		with = fmt.Sprintf(" with plan %q of %q", r.Plan, r.Service)
	}
	return fmt.Sprintf("%d rules of OSB %s%s: %d passed, %d failed, %d warnings, %d skipped",
		len(r.Results), r.Version, with, r.Count(Pass), r.Count(Fail), r.Count(Warn), r.Count(Skip))
}

// WriteText writes one line for each rule, more for those that do not hold, and
// the summary.
func (r *Report) WriteText(w io.Writer) error {
	for _, x := range r.Results {
		reason := ""
		if x.Reason != "" {
			reason = " (" + x.Reason + ")"
		}
		if _, err := fmt.Fprintf(w, "%s  %-36s  %s  %s%s\n", x.Status, x.ID, x.Section, x.Sentence, reason); err != nil {
			return err
		}
		if err := x.writeDetails(w); err != nil {
			return err
		}
	}
	if r.Incomplete != "" {
		if _, err := fmt.Fprintf(w, "incomplete: %s\n", r.Incomplete); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w, r.Summary())
	return err
}

func (x Result) writeDetails(w io.Writer) (err error) {
	switch x.Status {
	case Fail, Warn:
		_, err = fmt.Fprintf(w, "      sent:     %s\n      expected: %s\n      got:      %s\n", x.Sent, x.Expected, x.Got)
		if err == nil && x.Failures > 1 {
			_, err = fmt.Fprintf(w, "      and %d more like it\n", x.Failures-1)
		}
	}
	return err
}

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// tally collects what is seen of each rule.
type tally struct {
	minor   int
	strict  bool
	order   []string
	results map[string]*Result
}

func newTally(minor int, strict bool) *tally {
	t := &tally{minor: minor, strict: strict, results: map[string]*Result{}}
	for _, r := range Rules() {
		t.order = append(t.order, r.ID)
		t.results[r.ID] = &Result{Rule: r}
	}
	return t
}

// skip says why a rule is not looked at. The first reason stays.
func (t *tally) skip(id, reason string) {
	if r := t.results[id]; r.Reason == "" {
		r.Reason = reason
	}
}

// record adds one look at a rule. A failure is described by more.
func (t *tally) record(id string, ok bool, more func(*Result)) {
	r := t.results[id]
	if r.Since > t.minor {
		return
	}
	r.Checks++
	if ok {
		return
	}
	if r.Failures++; r.Failures == 1 {
		more(r)
	}
}

// finish decides the statuses.
func (t *tally) finish() []Result {
	results := make([]Result, 0, len(t.order))
	for _, id := range t.order {
		r := *t.results[id]
		switch {
		case r.Since > t.minor:
			r.Status, r.Reason = Skip, fmt.Sprintf("since OSB 2.%d", r.Since)
		case r.Failures > 0 && (r.Level == Must || t.strict):
			r.Status, r.Reason = Fail, ""
		case r.Failures > 0:
			r.Status, r.Reason = Warn, ""
		case r.Checks > 0:
			r.Status, r.Reason = Pass, ""
		default:
			r.Status = Skip
			if r.Reason == "" {
				r.Reason = "the situation did not arise"
			}
		}
		results = append(results, r)
	}
	return results
}
