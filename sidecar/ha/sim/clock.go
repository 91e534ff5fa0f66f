package sim

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// clock is one host's CLOCK_BOOTTIME: it goes on while the host sleeps, and
// drifts against the world's time by a fixed rate.
type clock struct {
	bootedAt int64 // the world's time
	drift    int64 // parts per million
}

// clockStart is what a clock shows when its host has booted: not zero, which
// means never.
const clockStart = 7 * second

func (c *clock) read(now int64) ha.Instant {
	d := now - c.bootedAt
	return ha.Instant(clockStart + d + d/1000*c.drift/1000)
}

// when is the world's time at which the clock shows at least i.
func (c *clock) when(i ha.Instant) int64 {
	d := int64(i) - clockStart
	t := c.bootedAt + d - d/1000*c.drift/1000 - d/1_000_000*c.drift/1000*c.drift/1000
	for c.read(t) < i {
		t += 1 + int64(i-c.read(t))/2
	}
	return t
}
