package assess

import "time"

// Answer is what the evidence says of a line.
type Answer string

// The answers.
const (
	Yes      Answer = "yes"
	No       Answer = "no"
	NotKnown Answer = "unknown"
	MaxLevel        = 4
)

// Line is one line of a level's checklist.
type Line struct {
	Level    int    `json:"level"`
	ID       string `json:"id"`
	What     string `json:"what"`
	Answer   Answer `json:"answer"`
	Evidence string `json:"evidence"`
	// Command begins what makes it a yes; it is there for each line that is none.
	Command string `json:"command,omitempty"`
}

// Report is how mature a cluster is.
type Report struct {
	Cluster string    `json:"cluster"`
	At      time.Time `json:"at"`
	// Level is the highest whose lines, and those of the levels below, are all yes; -1:
	// not even the lowest.
	Level int    `json:"level"`
	Name  string `json:"name"` // of the level
	Lines []Line `json:"lines"`
	// Missing are the lines of the next level, or of those below, that are no yes.
	Missing []Line `json:"missing"`
	// Next is the command that begins the first of them; empty: nothing is missing.
	Next string `json:"next,omitempty"`
}

// names are those of the levels.
var names = [MaxLevel + 1]string{"one server", "a standby and backups", "two standbys and point-in-time recovery", "quorum and automatic failover", "several sites, no single point of failure"}

// LevelName is a level in words.
func LevelName(level int) string {
	if level < 0 || level > MaxLevel {
		return "no primary"
	}
	return names[level]
}

// Judge compares the evidence with each line.
func Judge(e Evidence) Report {
	r := Report{Cluster: e.Cluster, At: e.At.UTC(), Level: MaxLevel, Lines: make([]Line, 0, len(checklist)), Missing: []Line{}}
	for _, item := range checklist {
		v := item.look(&e)
		line := Line{Level: item.level, ID: item.id, What: item.what, Answer: v.answer, Evidence: v.evidence}
		if v.answer != Yes {
			line.Command = item.command
			r.Level = min(r.Level, item.level-1)
		}
		r.Lines = append(r.Lines, line)
	}
	r.Name = LevelName(r.Level)
	for _, line := range r.Lines {
		if line.Answer != Yes && line.Level == r.Level+1 {
			r.Missing = append(r.Missing, line)
		}
	}
	if len(r.Missing) > 0 {
		r.Next = r.Missing[0].Command
	}
	return r
}

// verdict is what the evidence says of a line, in words.
type verdict struct {
	answer   Answer
	evidence string
}

// item is a line of the checklist.
type item struct {
	level             int
	id, what, command string
	look              func(e *Evidence) verdict
}

// by judges a fact that is known.
func by[T any](f Fact[T], judge func(T) (bool, string)) verdict {
	if !f.known {
		why := f.why
		if why == "" {
			why = "not looked up"
		}
		return verdict{NotKnown, why}
	}
	ok, evidence := judge(f.value)
	if ok {
		return verdict{Yes, evidence}
	}
	return verdict{No, evidence}
}
