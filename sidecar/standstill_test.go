package sidecar

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestStandstill: what is counted is the time in which this process did not run, in the
// middle of a stretch and at its end.
func TestStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var paused atomic.Int64 // the clock goes on by so much, and no timer does
		began := time.Now()
		now := func() ha.Instant { return ha.Instant(1).Add(time.Since(began) + time.Duration(paused.Load())) }
		for _, pause := range []time.Duration{0, 40 * time.Millisecond, 3 * time.Second} {
			for _, at := range []time.Duration{10 * time.Millisecond, 475 * time.Millisecond, time.Second} {
				end := watchStandstill(now)
				time.Sleep(at)
				paused.Add(int64(pause))
				time.Sleep(time.Second - at)
				got := end()
				if want := max(pause-standstillTick, 0); got < want || got > want+2*standstillTick {
					t.Errorf("a pause of %v after %v: %v, want %v", pause, at, got, want)
				}
			}
		}
	})
}
