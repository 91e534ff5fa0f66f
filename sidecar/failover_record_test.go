package sidecar

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestClockSetMeanwhile: whichever way somebody sets the clock in the middle of a failover,
// the phases are as far apart as they were.
func TestClockSetMeanwhile(t *testing.T) {
	noon := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	for name, set := range map[string]time.Duration{"not at all": 0, "back": -time.Hour, "ahead": 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			var f failoverRecord
			passed := func(d time.Duration, set time.Duration) moment {
				return moment{wall: noon.Add(d + set), at: ha.Instant(time.Hour).Add(d)}
			}
			f.lost(passed(0, 0))
			f.stamp(7, passed(time.Second, 0), func(r *failover.Record, now time.Time) { r.Leader, r.Elected = "n1", now })
			f.stamp(7, passed(5*time.Second, set), func(r *failover.Record, now time.Time) { r.Writable = now })
			r, ok := f.complete(7, "n1")
			if !ok || !r.Detected.Equal(noon) || r.Elected.Sub(r.Detected) != time.Second || r.Writable.Sub(r.Detected) != 5*time.Second {
				t.Errorf("%v, elected %v and writable %v later", r.Detected, r.Elected.Sub(r.Detected), r.Writable.Sub(r.Detected))
			}
			f.stamp(8, passed(time.Minute, set), func(r *failover.Record, now time.Time) { r.Elected = now })
			if want := noon.Add(time.Minute + set); !f.record.Elected.Equal(want) {
				t.Errorf("the next term began at %v, and the clock showed %v", f.record.Elected, want)
			}
		})
	}
}
