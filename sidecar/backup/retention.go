package backup

import (
	"cmp"
	"slices"
	"time"
)

// Retention says what is kept. Both at zero keep everything.
type Retention struct {
	// Full is how many full backups are kept, with all that depend on them.
	Full int
	// Window is the time of which every moment must stay restorable: the newest
	// backup from before it is kept too.
	Window time.Duration
}

// Expired returns the labels that retention does not keep, oldest first. A backup
// goes only with all that need it. The newest good one never goes, nor what came
// after it: a damaged backup is better than none. It does not count as kept.
func (r Retention) Expired(backups []Backup, now time.Time) []string {
	if r.Full <= 0 && r.Window <= 0 {
		return nil
	}
	sorted := slices.Clone(backups)
	slices.SortStableFunc(sorted, func(a, b Backup) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Label, b.Label)) })
	keep := map[string]bool{}
	whole, newest, before := 0, true, false
	for _, b := range slices.Backward(sorted) {
		if !b.Good() {
			keep[b.Label] = newest
			continue
		}
		if newest {
			keep[b.Label], newest = true, false
		}
		// The newest from before the window is what its first moment begins with.
		if r.Window > 0 && !before {
			keep[b.Label] = true
			before = !b.Stop.After(now.Add(-r.Window))
		}
		if whole < r.Full {
			keep[b.Label] = true
			if b.Prior == "" {
				whole++
			}
		}
	}
	// What is kept needs all that it is built upon.
	prior := map[string]string{}
	for _, b := range sorted {
		prior[b.Label] = b.Prior
	}
	for _, b := range sorted {
		if !keep[b.Label] {
			continue
		}
		for p := b.Prior; p != "" && !keep[p]; p = prior[p] {
			keep[p] = true
		}
	}
	var gone []string
	for _, b := range sorted {
		if !keep[b.Label] {
			gone = append(gone, b.Label)
		}
	}
	return gone
}
