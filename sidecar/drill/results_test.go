package drill_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
)

// recorded returns the results of two real drills, of which one missed its
// objective.
func recorded(t *testing.T) *drill.Results {
	t.Helper()
	b, err := os.ReadFile("testdata/results.json")
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	r := new(drill.Results)
	if err := d.Decode(r); err != nil {
		t.Fatal(err)
	}
	return r
}

// describedBySchema returns where results differ from Schema.
func describedBySchema(t testing.TB, results *drill.Results) []string {
	t.Helper()
	var b bytes.Buffer
	if err := results.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var value any
	if err := json.Unmarshal(b.Bytes(), &value); err != nil {
		t.Fatal(err)
	}
	return schemaFaults(t, value)
}

func schemaFaults(t testing.TB, value any) []string {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal([]byte(drill.Schema), &root); err != nil {
		t.Fatal(err)
	}
	c := schemaCheck{defs: root["$defs"].(map[string]any)}
	c.check("$", root, value)
	return c.faults
}

// schemaCheck compares a value with what of JSON Schema 2020-12 our schema uses,
// and refuses a keyword that it does not know.
type schemaCheck struct {
	defs   map[string]any
	faults []string
}

func (c *schemaCheck) fault(at, format string, args ...any) {
	c.faults = append(c.faults, at+": "+fmt.Sprintf(format, args...))
}

func (c *schemaCheck) check(at string, schema map[string]any, value any) {
	for keyword, want := range schema {
		switch keyword {
		case "$schema", "title", "description", "$defs", "properties", "additionalProperties":
		case "$ref":
			c.check(at, c.defs[strings.TrimPrefix(want.(string), "#/$defs/")].(map[string]any), value)
		case "type":
			types, many := want.([]any)
			if !many {
				types = []any{want}
			}
			if !slices.ContainsFunc(types, func(name any) bool { return isType(name.(string), value) }) {
				c.fault(at, "%v is no %v", value, want)
			}
		case "enum":
			if !slices.Contains(want.([]any), value) {
				c.fault(at, "%v is none of %v", value, want)
			}
		case "minimum":
			if n, ok := value.(float64); ok && n < want.(float64) {
				c.fault(at, "%v is below %v", n, want)
			}
		case "format":
			if s, ok := value.(string); ok && !isTime(s) {
				c.fault(at, "%q is no %v", s, want)
			}
		case "required":
			object, _ := value.(map[string]any)
			for _, name := range want.([]any) {
				if _, has := object[name.(string)]; !has {
					c.fault(at, "%v is missing", name)
				}
			}
		case "items":
			list, _ := value.([]any)
			for i, item := range list {
				c.check(fmt.Sprintf("%s[%d]", at, i), want.(map[string]any), item)
			}
		default:
			c.fault(at, "keyword %q is not known to this test", keyword)
		}
	}
	c.properties(at, schema, value)
}

func (c *schemaCheck) properties(at string, schema map[string]any, value any) {
	object, ok := value.(map[string]any)
	if !ok {
		return
	}
	known, _ := schema["properties"].(map[string]any)
	for name, v := range object {
		if s, has := known[name]; has {
			c.check(at+"."+name, s.(map[string]any), v)
			continue
		}
		switch more := schema["additionalProperties"].(type) {
		case map[string]any:
			c.check(at+"."+name, more, v)
		case bool:
			c.fault(at, "%s is not described", name)
		}
	}
}

func isType(name string, value any) bool {
	switch v := value.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case []any:
		return name == "array"
	case map[string]any:
		return name == "object"
	case float64:
		return name == "number" || name == "integer" && v == math.Trunc(v)
	}
	return false
}

func isTime(s string) bool {
	at, err := time.Parse(time.RFC3339Nano, s)
	return err == nil && at.Year() > 2000
}

func TestSchema(t *testing.T) {
	if faults := describedBySchema(t, recorded(t)); len(faults) > 0 {
		t.Errorf("a real report is not as the schema says:\n%s", strings.Join(faults, "\n"))
	}
	if faults := describedBySchema(t, drill.NewResults("test", nil)); len(faults) > 0 {
		t.Errorf("no report at all is not as the schema says: %q", faults)
	}
	// What is wrong is found.
	for _, wrong := range []string{`{}`, `[]`, `{"version": 2, "program": "x", "drills": []}`, `{"version": 1, "program": 5, "drills": []}`,
		`{"version": 1, "program": "x", "drills": [{}]}`, `{"version": 1, "program": "x", "drills": [], "more": 1}`} {
		var value any
		if err := json.Unmarshal([]byte(wrong), &value); err != nil {
			t.Fatal(err)
		}
		if len(schemaFaults(t, value)) == 0 {
			t.Errorf("%s is taken for right", wrong)
		}
	}
}

// TestSchemaIsComplete: each field of a report is described, also those that
// the recorded ones leave out.
func TestSchemaIsComplete(t *testing.T) {
	r := recorded(t)
	d := r.Drills[0]
	d.Overlaps, d.Rows.Samples, d.Account.Planned, d.Account.Routed = []string{"x"}, []string{"x"}, true, time.Now()
	d.Members[0].Damage, d.Routes[0].Pause.Open = []string{"x"}, true
	if faults := describedBySchema(t, r); len(faults) > 0 {
		t.Errorf("the schema lacks something:\n%s", strings.Join(faults, "\n"))
	}
}

// TestJudge: each thing that must not be fails the drill, and says so.
func TestJudge(t *testing.T) {
	objective := drill.Objective{RTO: time.Second, RPO: 1}
	for want, plant := range map[string]func(*drill.Report){
		"":                        func(*drill.Report) {},
		"paused for 1300 ms":      func(r *drill.Report) { r.RTOMs = 1300 },
		"2 acknowledged rows":     func(r *drill.Report) { r.Rows.Lost = 2 },
		"1 rows are there twice":  func(r *drill.Report) { r.Rows.Twice = 1 },
		"1 were never sent":       func(r *drill.Report) { r.Rows.Strange = 1 },
		"two primaries at once":   func(r *drill.Report) { r.Overlaps = []string{"n1 and n2"} },
		"DNS named two primaries": func(r *drill.Report) { r.DNS.Doubles = 1 },
		"stayed with":             func(r *drill.Report) { r.Moved = false },
		"n1 has":                  func(r *drill.Report) { r.Members[0].Differs = -3 },
		"their checksum":          func(r *drill.Report) { r.Members[1].ChecksumFailures = 1 },
		"is damaged":              func(r *drill.Report) { r.Members[2].Damage = []string{"an index"} },
	} {
		r := recorded(t).Drills[0]
		r.Failures = nil
		plant(r)
		r.Judge(objective)
		switch {
		case r.Good != r.Passed() || r.Passed() != (want == ""):
			t.Errorf("%q: passed %t, failures %q", want, r.Good, r.Failures)
		case want != "" && (len(r.Failures) != 1 || !strings.Contains(r.Failures[0], want)):
			t.Errorf("want %q, failures %q", want, r.Failures)
		}
	}
}

func TestJUnit(t *testing.T) {
	r := recorded(t)
	r.Drills[0].Failures[0] += ` <"&'> ]]>`
	var b bytes.Buffer
	if err := r.WriteJUnit(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Suite struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Cases    []struct {
				Name    string  `xml:"name,attr"`
				Time    float64 `xml:"time,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, b.String())
	}
	s := got.Suite
	if s.Tests != 2 || s.Failures != 1 || len(s.Cases) != 2 || s.Cases[0].Name != "member-killed" || s.Cases[0].Time <= 0 ||
		s.Cases[0].Failure == nil || s.Cases[0].Failure.Message != r.Drills[0].Failures[0] || s.Cases[1].Failure != nil {
		t.Errorf("%+v", s)
	}
}

func TestText(t *testing.T) {
	var b strings.Builder
	for _, d := range recorded(t).Drills {
		if err := d.WriteText(&b); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"member-killed: FAILED · RTO", "detected", "promoted", "pgbouncer", "stale", "0 lost (0 bytes)",
		"amcheck of", "streams again", "the objective is 300ms", "sidecar-restarted: passed"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in the summary:\n%s", want, b.String())
		}
	}
}

// consoleLine is how Chromium writes what a page says on its console.
var consoleLine = regexp.MustCompile(`(?m)^.*CONSOLE.*$`)

// TestPage opens the page in headless Chromium, with nothing that it could load
// from elsewhere.
func TestPage(t *testing.T) {
	r := recorded(t)
	r.Drills[1].Why += "<script>alert(1)</script>"
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	if s := b.String(); strings.Contains(s, "<script") || strings.Contains(s, "http:") || strings.Contains(s, "https:") || strings.Contains(s, "NaN") {
		t.Error("the page has a script, an address or a number that is none")
	}
	dom, said := browse(t, b.Bytes())
	if lines := consoleLine.FindAllString(said, -1); len(lines) > 0 {
		t.Errorf("the browser complains: %q", lines)
	}
	if n := strings.Count(dom, "<svg"); n != 4 || strings.Count(dom, "<section") != 2 || !strings.Contains(dom, "all members are back") {
		t.Errorf("%d pictures in the page that the browser made:\n%s", n, dom)
	}
	// A page that does something forbidden is complained about: the check works.
	if _, said := browse(t, append(b.Bytes(), `<img src="/elsewhere.png">`...)); !consoleLine.MatchString(said) {
		t.Errorf("a picture from elsewhere was taken; the browser said %q", said)
	}
}

// browse opens a page, and returns what the browser made of it and what it said.
func browse(t *testing.T, page []byte) (dom, said string) {
	t.Helper()
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed (make chromium): the page is not opened")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "report.html")
	if err := os.WriteFile(path, page, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
		"--user-data-dir="+filepath.Join(dir, "profile"), "--dump-dom", "file://"+path)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	return out.String(), errs.String()
}

// TestTwoNamesFromAnEarlierCatalog: where Consul's catalog was put back, DNS may name the
// earlier primary beside the new one for a moment, and no longer; else not at all.
func TestTwoNamesFromAnEarlierCatalog(t *testing.T) {
	begun := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	answer := func(after time.Duration, kind string, addresses ...string) drill.Answer {
		return drill.Answer{At: begun.Add(after), Type: kind, Addresses: addresses}
	}
	for name, c := range map[string]struct {
		changes         []drill.Answer
		always, catalog bool // it passes
	}{
		"one": {[]drill.Answer{answer(0, "A", "n1")}, true, true},
		"two for a moment": {[]drill.Answer{answer(0, "A", "n1", "n2"), answer(10*time.Millisecond, "SRV", "n2"), answer(100*time.Millisecond, "A", "n2")},
			false, true},
		"two for seconds": {[]drill.Answer{answer(0, "A", "n1", "n2"), answer(10*time.Millisecond, "SRV", "n2"), answer(2*time.Second, "A", "n2")},
			false, false},
		"two to the end": {[]drill.Answer{answer(0, "A", "n1", "n2"), answer(10*time.Millisecond, "SRV", "n2")}, false, false},
	} {
		doubles := 0
		for _, a := range c.changes {
			doubles += len(a.Addresses) / 2
		}
		r, s := drill.Report{Expect: drill.Either}, drill.Report{Expect: drill.Either}
		r.DNS = drill.DNSReport{Changes: c.changes, Doubles: doubles}
		s.DNS = r.DNS
		r.Judge(drill.Objective{})
		s.JudgeCatalog(drill.Objective{})
		if r.Passed() != c.always || s.Passed() != c.catalog {
			t.Errorf("%s: %v, with an earlier catalog %v", name, r.Failures, s.Failures)
		}
	}
}
