package assess

import (
	_ "embed" // assess.html
	"fmt"
	"html/template"
	"io"
)

//go:embed assess.html
var page string

// WriteHTML writes the report as one page that needs nothing else: no script, no font,
// no network.
func (r *Report) WriteHTML(w io.Writer) error {
	t, err := template.New("assess.html").Parse(page)
	if err != nil {
		return fmt.Errorf("read the page's template: %w", err)
	}
	if err := t.Execute(w, r); err != nil {
		return fmt.Errorf("write the report as HTML: %w", err)
	}
	return nil
}

// Checklist is one level of a report.
type Checklist struct {
	Level   int
	Name    string
	Reached bool
	Lines   []Line
}

// Checklists are the report's lines by level.
func (r *Report) Checklists() []Checklist {
	var all []Checklist
	for level := range MaxLevel + 1 {
		c := Checklist{Level: level, Name: LevelName(level), Reached: level <= r.Level}
		for _, l := range r.Lines {
			if l.Level == level {
				c.Lines = append(c.Lines, l)
			}
		}
		all = append(all, c)
	}
	return all
}

// When is the moment of the report in words.
func (r *Report) When() string { return r.At.Format("2006-01-02 15:04 MST") }

// NextLevel is the one above the level that is reached.
func (r *Report) NextLevel() int { return r.Level + 1 }

// NextName is the next level's.
func (r *Report) NextName() string { return LevelName(r.Level + 1) }
