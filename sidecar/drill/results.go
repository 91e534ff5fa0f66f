package drill

import (
	_ "embed" // report.schema.json and report.html
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Schema is the JSON schema (2020-12) of what WriteJSON writes.
//
//go:embed report.schema.json
var Schema string

// Results are the reports of one or several drills, as they are written into
// files.
type Results struct {
	Version int       `json:"version"` // of this format: 1
	Program string    `json:"program"` // pgsidecar's version
	Drills  []*Report `json:"drills"`
}

// NewResults returns the results of drills that a version of pgsidecar has done.
func NewResults(program string, drills []*Report) *Results {
	if drills == nil {
		drills = []*Report{} // an array in JSON, not null
	}
	return &Results{Version: 1, Program: program, Drills: drills}
}

// WriteJSON writes the results as JSON that Schema describes.
func (r *Results) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write results as JSON: %w", err)
	}
	return nil
}

// The elements of JUnit's XML, as CI systems read it.
type (
	junitSuites struct {
		XMLName xml.Name   `xml:"testsuites"`
		Suite   junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Time     string      `xml:"time,attr"` // seconds
		At       string      `xml:"timestamp,attr,omitempty"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class      string          `xml:"classname,attr"`
		Name       string          `xml:"name,attr"`
		Time       string          `xml:"time,attr"`
		Properties []junitProperty `xml:"properties>property"`
		Failure    *junitFailure   `xml:"failure"`
		Out        string          `xml:"system-out"`
	}
	junitProperty struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the results as JUnit's XML: one test case for each drill,
// with the summary for people as its output.
func (r *Results) WriteJUnit(w io.Writer) error {
	suite := junitSuite{Name: "pgsidecar drill", Tests: len(r.Drills)}
	var total time.Duration
	for _, d := range r.Drills {
		took := d.Whole.Sub(d.Started)
		if d.Whole.IsZero() {
			took = d.Undone.Sub(d.Started)
		}
		total += max(0, took)
		c := junitCase{Class: "drill", Name: d.Scenario, Time: secondsText(took), Properties: []junitProperty{
			{"rto_ms", strconv.FormatFloat(d.RTOMs, 'f', -1, 64)}, {"rpo_rows", strconv.FormatInt(d.Rows.Lost, 10)},
			{"rpo_bytes", strconv.FormatInt(d.Rows.LostBytes, 10)}, {"stale_reads", strconv.Itoa(d.StaleReads())},
			{"primary", d.Primary}}}
		var text strings.Builder
		if err := d.WriteText(&text); err != nil {
			return err
		}
		c.Out = text.String()
		if !d.Passed() {
			suite.Failures++
			c.Failure = &junitFailure{Message: d.Failures[0], Text: strings.Join(d.Failures, "\n")}
		}
		suite.Cases = append(suite.Cases, c)
	}
	suite.Time = secondsText(total)
	if len(r.Drills) > 0 {
		suite.At = r.Drills[0].Started.UTC().Format("2006-01-02T15:04:05")
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return fmt.Errorf("write results as JUnit: %w", err)
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(junitSuites{Suite: suite}); err != nil {
		return fmt.Errorf("write results as JUnit: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func secondsText(d time.Duration) string {
	return strconv.FormatFloat(max(0, d).Seconds(), 'f', 3, 64)
}
