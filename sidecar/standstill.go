package sidecar

import (
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// standstillTick is how often a watched stretch of time is looked at. What comes later than
// twice that is time in which this process did not run: its machine was paused, or had no
// processor for it.
const standstillTick = 50 * time.Millisecond

// watchStandstill begins to watch whether this process runs. The function that it returns
// ends that, and tells for how long it did not.
func watchStandstill(now func() ha.Instant) (end func() time.Duration) {
	ended, stood := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(standstillTick)
		defer tick.Stop()
		var sum time.Duration
		for last := now(); ; {
			over := false
			select {
			case <-ended:
				over = true
			case <-tick.C:
			}
			at := now()
			sum += gap(at.Sub(last))
			last = at
			if over {
				stood <- sum
				return
			}
		}
	}()
	return func() time.Duration { close(ended); return <-stood }
}

// gap is how much of the time between two ticks this process did not run.
func gap(between time.Duration) time.Duration {
	if between <= 2*standstillTick {
		return 0
	}
	return between - standstillTick
}
