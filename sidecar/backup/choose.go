package backup

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Source says from which members a backup may be made.
type Source string

// The sources of a backup.
const (
	PreferReplica Source = "prefer-replica" // a replica, and the primary if none will do
	OnlyReplica   Source = "replica"
	OnlyPrimary   Source = "primary"
)

// Candidate is what is known of a member that could make a backup.
type Candidate struct {
	Member  string
	Primary bool
	Here    bool // heard, its server up
	// Lag is how long ago the primary made what the replica has replayed last;
	// negative: unknown, and then the replica is not chosen.
	Lag time.Duration
	// Voter: commits may wait for this replica, and it confirms them.
	Voter bool
	// Barred: a person excluded it (tags.nobackup).
	Barred bool
}

// Choice is a question of which member makes a backup.
type Choice struct {
	Candidates []Candidate
	Source     Source
	MaxLag     time.Duration
	// Confirming is how many voters confirm commits now, Needed how many must.
	Confirming, Needed int
}

// Choose returns the member that makes the backup, and why each other does not.
// A replica that no commit waits for comes first; then a voter, as long as enough
// others confirm; then the primary. Of equals it is the one with the least lag,
// and then the first by name, so that all members answer alike. An empty name
// says that none may.
func (c Choice) Choose() (member string, reasons map[string]string) {
	reasons = map[string]string{}
	var may []Candidate
	for _, m := range c.Candidates {
		if why := c.against(m); why != "" {
			reasons[m.Member] = why
			continue
		}
		may = append(may, m)
	}
	if len(may) == 0 {
		return "", reasons
	}
	order := func(m Candidate) int {
		switch {
		case m.Primary:
			return 2
		case m.Voter:
			return 1
		}
		return 0
	}
	slices.SortFunc(may, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a.Lag.Round(time.Second), b.Lag.Round(time.Second)), cmp.Compare(a.Member, b.Member))
	})
	for _, m := range may[1:] {
		reasons[m.Member] = may[0].Member + " is the better choice"
	}
	return may[0].Member, reasons
}

// against returns why a member does not make a backup; empty: it may.
func (c Choice) against(m Candidate) string {
	switch {
	case !m.Here:
		return "it is not heard, or its server is down"
	case m.Barred:
		return "the tag nobackup excludes it"
	case m.Primary && c.Source == OnlyReplica:
		return `it is the primary, and backup { from = "replica" }`
	case m.Primary:
		return ""
	case c.Source == OnlyPrimary:
		return `it is a replica, and backup { from = "primary" }`
	case m.Lag < 0:
		return "its lag is unknown"
	case m.Lag > c.MaxLag:
		return fmt.Sprintf("it is %s behind, more than %s", m.Lag.Round(time.Second), c.MaxLag)
	case m.Voter && c.Confirming <= c.Needed:
		return fmt.Sprintf("commits wait for it: %d voters confirm, and %d must", c.Confirming, c.Needed)
	}
	return ""
}
