// Package recent remembers what the last minutes have shown, so that a bound can follow
// what is usual here: how late a link's frames come, how long a server takes to answer.
package recent

import (
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// kept is for how long at least a duration counts.
const kept = 5 * time.Minute

// Longest is the longest of the durations of the last five minutes, and of up to twice that
// time. The zero value has seen none. Its owner guards it.
type Longest struct {
	since     ha.Instant
	now, last time.Duration
}

// Add counts a duration that ended at the instant.
func (l *Longest) Add(d time.Duration, at ha.Instant) {
	if !l.since.Within(kept, at) {
		l.last = l.now
		if !l.since.Within(2*kept, at) {
			l.last = 0
		}
		l.now, l.since = 0, at
	}
	l.now = max(l.now, d)
}

// At returns the longest as of the instant; zero: nothing was added lately.
func (l *Longest) At(at ha.Instant) time.Duration {
	switch {
	case l.since.Within(kept, at):
		return max(l.now, l.last)
	case l.since.Within(2*kept, at):
		return l.now
	}
	return 0
}
