package drill

import (
	_ "embed" // report.html
	"fmt"
	"html/template"
	"io"
)

//go:embed report.html
var page string

// WriteHTML writes the results as one page that needs nothing else: no script,
// no font, no network.
func (r *Results) WriteHTML(w io.Writer) error {
	t, err := template.New("report.html").Funcs(template.FuncMap{"ms": msWords, "words": inWords}).Parse(page)
	if err != nil {
		return fmt.Errorf("read the page's template: %w", err)
	}
	if err := t.Execute(w, r); err != nil {
		return fmt.Errorf("write results as HTML: %w", err)
	}
	return nil
}

// PhaseWords writes when a phase was done, or a dash.
func (r *Report) PhaseWords(name string) string {
	after, ok := r.PhaseMs(name)
	if !ok {
		return "–"
	}
	return msWords(after)
}

// Durability says what a commit waits for.
func (r *Report) Durability() string { return r.durability() }

// Staleness says how many reads were stale, and what that means.
func (r ReadReport) Staleness() string { return r.staleness() }

// Words says how well the member's data is.
func (m MemberReport) Words() string { return m.words() }
