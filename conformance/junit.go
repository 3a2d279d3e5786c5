package conformance

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

type (
	junitSuite struct {
		XMLName  xml.Name    `xml:"testsuite"`
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Failure *junitMessage `xml:"failure"`
		Skipped *junitMessage `xml:"skipped"`
		Output  string        `xml:"system-out,omitempty"`
	}
	junitMessage struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the report as JUnit XML. A warning is a passed test with
// output.
func (r *Report) WriteJUnit(w io.Writer) error {
	suite := junitSuite{Name: "OSB " + r.Version, Tests: len(r.Results), Failures: r.Count(Fail), Skipped: r.Count(Skip)}
	for _, x := range r.Results {
		area, _, _ := strings.Cut(x.ID, ".")
		c := junitCase{Class: area, Name: x.ID + ": " + x.Sentence}
		var details strings.Builder
		_ = x.writeDetails(&details) // a Builder takes all
		switch x.Status {
		case Fail:
			c.Failure = &junitMessage{Message: x.Section, Text: "\n" + details.String()}
		case Skip:
			c.Skipped = &junitMessage{Message: x.Reason}
		case Warn:
			c.Output = "warning (" + x.Section + ")\n" + details.String()
		}
		suite.Cases = append(suite.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(suite); err != nil {
		return fmt.Errorf("write JUnit XML: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}
