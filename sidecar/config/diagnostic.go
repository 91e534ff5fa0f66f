package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/pgsidecar/pgsidecar/sidecar/parameters"
)

// ErrConfig is what every *Error is: the configuration cannot be used.
var ErrConfig = errors.New("configuration cannot be used")

// fault is an error that the configuration is to blame for, and no line of it.
type fault struct{ error }

func (f fault) Is(target error) bool { return target == ErrConfig }
func (f fault) Unwrap() error        { return f.error }

// Fault returns an error that is ErrConfig and says only what is given: what the
// user of the configuration finds wrong with it.
func Fault(format string, args ...any) error { return fault{fmt.Errorf(format, args...)} }

// Diagnostic is one fault of a configuration file.
type Diagnostic struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"` // from 1; 0: the whole file
	Column int    `json:"column,omitempty"`
	Text   string `json:"text"`             // what is wrong, and what was expected
	Source string `json:"source,omitempty"` // the line, without what may be a secret
}

// String returns "file:line:column: text".
func (d Diagnostic) String() string {
	if d.Line == 0 {
		return fmt.Sprintf("%s: %s", d.File, d.Text)
	}
	return fmt.Sprintf("%s:%d:%d: %s", d.File, d.Line, d.Column, d.Text)
}

// Error holds all faults of one file, in its order.
type Error struct{ Diagnostics []Diagnostic }

// Error returns one line for each fault.
func (e *Error) Error() string {
	lines := make([]string, len(e.Diagnostics))
	for i, d := range e.Diagnostics {
		lines[i] = d.String()
	}
	return strings.Join(lines, "\n")
}

// Is makes errors.Is(err, ErrConfig) true.
func (e *Error) Is(target error) bool { return target == ErrConfig }

// Print writes the faults for a person: each with its line of the file.
func (e *Error) Print(w io.Writer) error {
	for _, d := range e.Diagnostics {
		if _, err := fmt.Fprintln(w, d); err != nil {
			return err
		}
		if d.Source == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%6d | %s\n", d.Line, d.Source); err != nil {
			return err
		}
	}
	return nil
}

// faults collects what is wrong with one file.
type faults struct {
	file  string
	lines []string
	found []Diagnostic
}

// add notes a fault at a place of the file; the zero Range is the whole file.
func (f *faults) add(at hcl.Range, format string, args ...any) {
	d := Diagnostic{File: f.file, Line: at.Start.Line, Column: at.Start.Column, Text: fmt.Sprintf(format, args...)}
	if d.Line > 0 && d.Line <= len(f.lines) {
		d.Source = withoutSecret(f.lines[d.Line-1])
	}
	f.found = append(f.found, d)
}

// addHCL notes what the HCL library found.
func (f *faults) addHCL(diags hcl.Diagnostics) {
	for _, d := range diags {
		var at hcl.Range
		if d.Subject != nil {
			at = *d.Subject
		}
		text := d.Detail
		// A function's own error says it all.
		if i := strings.Index(text, " failed: "); i >= 0 && strings.HasPrefix(text, "Call to function") {
			text = text[i+len(" failed: "):]
		} else {
			text = strings.ToLower(d.Summary[:1]) + d.Summary[1:] + ": " + text
		}
		f.add(at, "%s", strings.TrimRight(text, "."))
	}
}

// faultyLines returns the lines that have a fault by now.
func (f *faults) faultyLines() map[int]bool {
	lines := map[int]bool{}
	for _, d := range f.found {
		lines[d.Line] = true
	}
	return lines
}

// err returns the faults in the order of the file, or nil.
func (f *faults) err() error {
	if len(f.found) == 0 {
		return nil
	}
	slices.SortStableFunc(f.found, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Text, b.Text))
	})
	return &Error{Diagnostics: f.found}
}

// secretKey matches an attribute that may hold a secret, where a person wrote
// one against the rules.
var secretKey = regexp.MustCompile(`(?i)^(.*\b\w*(?:password|passwd|token|secret|key)\s*=).*$`)

// withoutSecret cuts a line behind the equals sign of such an attribute.
func withoutSecret(line string) string {
	return secretKey.ReplaceAllString(strings.TrimRight(line, "\r"), "$1 …")
}

// didYouMean returns `; did you mean "near"?` for the likeliest of the known
// words, or else the list of them.
func didYouMean(word string, known []string) string {
	best, least := "", 3 // more than two changes are another word
	for _, k := range known {
		if d := parameters.Distance(strings.ToLower(word), k); d < least && d < len(k) {
			best, least = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return "; expected " + oneOf(known)
}

// oneOf returns `a, b or c`.
func oneOf(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
