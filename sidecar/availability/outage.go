package availability

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Kind is how an outage ended.
type Kind string

// The kinds of outages.
const (
	Failover   Kind = "failover"
	Switchover Kind = "switchover"
	Restart    Kind = "restart" // the same primary came back in its term
	Unseen     Kind = "unseen"  // no member was there to see
)

// Outage is a time in which no primary took writes. It begins by the wall clock of the leader
// that ended it, and is as long as by the clock that nobody sets.
type Outage struct {
	From    time.Time `json:"from"` // the last primary was lost, or stopped taking writes
	To      time.Time `json:"to"`   // the next took a write
	Kind    Kind      `json:"kind"`
	Cause   string    `json:"cause,omitempty"`
	Planned bool      `json:"planned,omitempty"`
	Term    uint64    `json:"term"`
	Leader  string    `json:"leader"` // that ended it
}

// Took is how long it was; zero where its end is before its beginning, as an earlier version
// wrote it where a clock was set back meanwhile.
func (o Outage) Took() time.Duration { return max(o.To.Sub(o.From), 0) }

// Month is the name of the journal that an outage is in.
func (o Outage) Month() string { return o.From.UTC().Format(monthForm) }

const monthForm = "2006-01"

// Months are the names of the journals of a time.
func Months(from, to time.Time) []string {
	var all []string
	y, m, _ := from.UTC().Date()
	for at := time.Date(y, m, 1, 0, 0, 0, 0, time.UTC); !at.After(to); at = at.AddDate(0, 1, 0) {
		all = append(all, at.Format(monthForm))
	}
	return all
}

// maxJournal is how many bytes a month's journal may have: Consul refuses values above
// 512 KiB. About 2,000 outages fit; of more the oldest go.
const maxJournal = 400 << 10

// Append adds an outage to a journal. What was written of the same beginning in the same
// term is replaced; a damaged line is kept as it is.
func Append(journal []byte, o Outage) ([]byte, error) {
	line, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("write an outage: %w", err)
	}
	var next []byte
	for l := range bytes.Lines(journal) {
		var before Outage
		if json.Unmarshal(l, &before) == nil && before.Term == o.Term && before.From.Equal(o.From) {
			continue
		}
		next = append(next, bytes.TrimRight(l, "\n")...)
		next = append(next, '\n')
	}
	next = append(append(next, line...), '\n')
	if len(next) > maxJournal {
		next = next[bytes.IndexByte(next[len(next)-maxJournal:], '\n')+1+len(next)-maxJournal:]
	}
	return next, nil
}

// Read returns the outages of a journal in the order of their beginnings, and how many
// lines could not be read.
func Read(journal []byte) (outages []Outage, damaged int) {
	for l := range bytes.Lines(journal) {
		var o Outage
		switch err := json.Unmarshal(l, &o); {
		case err != nil || o.From.IsZero() || o.To.IsZero():
			damaged++
		default:
			outages = append(outages, o)
		}
	}
	slices.SortStableFunc(outages, func(a, b Outage) int { return a.From.Compare(b.From) })
	return outages, damaged
}
