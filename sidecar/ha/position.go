package ha

import (
	"cmp"
	"fmt"
)

// TLI is a PostgreSQL timeline id. This program gives every term that promotes
// a timeline of its own, by claiming the number in the cluster record before
// the promotion, so that one number never names two histories.
type TLI uint32

// Mark tells timelines of one number apart, as where a person has promoted a server beside
// a term that claimed the number: it is a checksum of what a timeline begins with, in which
// the time of its promotion stands. Zero: not known; the first timeline has none.
type Mark uint32

// Fork is one line of a timeline history file: timeline TLI was left at End.
type Fork struct {
	TLI  TLI  `json:"tli"`
	End  LSN  `json:"end"`
	Mark Mark `json:"mark,omitempty"` // TLI's
}

// Position is how much of the write-ahead log a server has on disk: the
// timelines it came by, oldest first, and where it is on the last one.
// The zero Position is unknown.
type Position struct {
	History []Fork `json:"history,omitempty"`
	TLI     TLI    `json:"tli"`
	LSN     LSN    `json:"lsn"`
	Mark    Mark   `json:"mark,omitempty"` // TLI's
}

// Straight is the history that a history file tells of. Where a recovery ended before a
// fork of the timeline that it was to follow, PostgreSQL writes all of that one's line
// into the new timeline's file, and last that it was left at a point which lies before its
// own beginning. The log was never on what begins after that: on which it was, the file
// tells nevertheless. Taken as it is, what others wrote between would pass for a part of it
// (S7).
func Straight(file []Fork) []Fork {
	var line []Fork
	for _, f := range file {
		for i := range line {
			if line[i].End > f.End {
				f.TLI, f.Mark, line = line[i].TLI, line[i].Mark, line[:i]
				break
			}
		}
		line = append(line, f)
	}
	return line
}

// Known reports whether the position says anything.
func (p Position) Known() bool { return p.TLI != 0 }

// String writes a position for people.
func (p Position) String() string {
	if !p.Known() {
		return "unknown"
	}
	return fmt.Sprintf("%s on timeline %d", p.LSN, p.TLI)
}

// end returns where p's history leaves timeline tli, or zero if p never was on
// it. For p's own timeline that is where p is now.
func (p Position) end(tli TLI) LSN {
	if tli == p.TLI {
		return p.LSN
	}
	for _, f := range p.History {
		if f.TLI == tli {
			return f.End
		}
	}
	return 0
}

// Passed reports whether p's history is or was on timeline tli.
func (p Position) Passed(tli TLI) bool { return p.end(tli) != 0 }

// origin is where p's timeline was begun: on the timeline before it. It is
// unknown for the first.
func (p Position) origin() Position {
	last := len(p.History) - 1
	if last < 0 {
		return Position{}
	}
	return Position{History: p.History[:last], TLI: p.History[last].TLI, LSN: p.History[last].End, Mark: p.History[last].Mark}
}

// mark is timeline tli's in p's history.
func (p *Position) mark(tli TLI) Mark {
	if tli == p.TLI {
		return p.Mark
	}
	for i := range p.History {
		if p.History[i].TLI == tli {
			return p.History[i].Mark
		}
	}
	return 0
}

// apart is a timeline of p's that is another than that of its number in q's history; zero:
// none is known.
func (p *Position) apart(q *Position) TLI {
	other := func(tli TLI, mark Mark) bool {
		theirs := q.mark(tli)
		return mark != 0 && theirs != 0 && theirs != mark
	}
	for i := range p.History {
		if f := &p.History[i]; f.Mark != 0 && other(f.TLI, f.Mark) {
			return f.TLI
		}
	}
	if p.Mark != 0 && other(p.TLI, p.Mark) {
		return p.TLI
	}
	return 0
}

// Contains reports whether q's log is a prefix of p's (rule S7): p was on q's
// timeline, and did not leave it before q's position.
func (p Position) Contains(q Position) bool {
	return p.Known() && q.Known() && p.end(q.TLI) >= q.LSN && q.apart(&p) == 0
}

// Compare orders two logs by which of them a later leader must have: it
// returns a positive number if p is ahead of q, negative if q is ahead of p,
// and 0 if they are equal. A log that contains the other is ahead. Of two logs
// that diverged the one on the later timeline is ahead: its term was won with
// the votes that every acknowledged commit of earlier terms needs (S3), so what
// the other has beyond the fork was never acknowledged.
// An unknown position is behind every known one.
func (p Position) Compare(q Position) int {
	switch pq, qp := p.Contains(q), q.Contains(p); {
	case pq && qp:
		return 0
	case pq:
		return 1
	case qp:
		return -1
	case p.TLI != q.TLI:
		return cmp.Compare(p.TLI, q.TLI)
	default:
		return cmp.Compare(p.LSN, q.LSN)
	}
}
