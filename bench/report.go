package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

// Row is one line of the report. Ratio compares Value with Plain in the
// direction that the goal names.
type Row struct {
	Measurement string  `json:"measurement"`
	What        string  `json:"what"`
	Value       float64 `json:"value"`
	Unit        string  `json:"unit"`
	Against     string  `json:"against,omitempty"` // the plain way
	Plain       float64 `json:"plain,omitempty"`   // its value, in the same unit
	Ratio       float64 `json:"ratio,omitempty"`
	Goal        string  `json:"goal,omitempty"`
	Met         *bool   `json:"met,omitempty"`
	Note        string  `json:"note,omitempty"`
}

// atMost sets the goal that Value is at most limit times Plain.
func (r Row) atMost(limit float64) Row {
	r.Ratio = r.Value / r.Plain
	return r.goal(fmt.Sprintf("≤ %g", limit), r.Ratio <= limit)
}

// atLeast sets the goal that Value is at least limit times Plain.
func (r Row) atLeast(limit float64) Row {
	r.Ratio = r.Value / r.Plain
	return r.goal(fmt.Sprintf("≥ %g", limit), r.Ratio >= limit)
}

// faster sets the goal that Plain is at least limit times Value.
func (r Row) faster(limit float64) Row {
	r.Ratio = r.Plain / r.Value
	return r.goal(fmt.Sprintf("≥ %g", limit), r.Ratio >= limit)
}

func (r Row) goal(text string, met bool) Row {
	r.Goal, r.Met = text, &met
	return r
}

// Report is what is written as JSON.
type Report struct {
	At     time.Time `json:"at"`
	System string    `json:"system"`
	CPUs   int       `json:"cpus"`
	Quick  bool      `json:"quick"` // too few repetitions to judge by
	Rows   []Row     `json:"rows"`
}

func newReport(quick bool) *Report {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return &Report{At: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), Quick: quick,
		System: fmt.Sprintf("%s %s %.20s", runtime.GOOS, runtime.GOARCH, trimmed(kernel))}
}

func (r *Report) write(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

func (r *Report) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MEASUREMENT\tWHAT\tVALUE\tAGAINST\tPLAIN\tRATIO\tGOAL\tMET")
	for _, row := range r.Rows {
		plain, ratio, met := "", "", ""
		if row.Against != "" {
			plain = number(row.Plain) + " " + row.Unit
		}
		if row.Ratio != 0 {
			ratio = fmt.Sprintf("%.2f", row.Ratio)
		}
		if row.Met != nil {
			met = map[bool]string{true: "yes", false: "NO"}[*row.Met]
		}
		fmt.Fprintf(t, "%s\t%s\t%s %s\t%s\t%s\t%s\t%s\t%s\n",
			row.Measurement, row.What, number(row.Value), row.Unit, row.Against, plain, ratio, row.Goal, met)
	}
	t.Flush()
	for _, row := range r.Rows {
		if row.Note != "" {
			fmt.Fprintf(w, "%s, %s: %s\n", row.Measurement, row.What, row.Note)
		}
	}
	if r.Quick {
		fmt.Fprintln(w, "This was a quick run: too few repetitions to judge by.")
	}
}

// number prints three figures.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// series are measured times.
type series []time.Duration

// percentile in milliseconds; 50 is the median.
func (s series) percentile(p int) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return ms(sorted[(len(sorted)-1)*p/100])
}

func (s series) median() float64 { return s.percentile(50) }

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// median of plain numbers.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(v))[(len(v)-1)/2]
}

func trimmed(b []byte) string {
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return string(b)
}
