package recent

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestLongest: a duration counts for five minutes at least, and for ten at most.
func TestLongest(t *testing.T) {
	const minute = time.Minute
	at := func(d time.Duration) ha.Instant { return ha.Instant(1).Add(d) }
	type add struct{ at, length time.Duration }
	for name, c := range map[string]struct {
		added []add
		at    time.Duration
		want  time.Duration
	}{
		"nothing was added":                {at: minute},
		"the longest counts":               {[]add{{0, 2}, {minute, 3}, {2 * minute, 1}}, 3 * minute, 3},
		"it counts for five minutes":       {[]add{{0, 3}, {4 * minute, 9}, {6 * minute, 1}}, 9*minute - 1, 9},
		"it counts for ten at most":        {[]add{{0, 9}, {6 * minute, 2}, {12 * minute, 1}}, 12 * minute, 2},
		"nothing was added for long":       {[]add{{0, 9}}, 11 * minute, 0},
		"a pause forgets all before it":    {[]add{{0, 9}, {20 * minute, 1}}, 20 * minute, 1},
		"what was added last still counts": {[]add{{0, 9}}, 9 * minute, 9},
	} {
		var l Longest
		for _, a := range c.added {
			l.Add(a.length, at(a.at))
		}
		if got := l.At(at(c.at)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
