package sidecar

import (
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// lagClock remembers when the leader's log was first seen to reach where, so that
// how far a replica is behind can be told in time: bytes say little to people, and
// the commit time of what was last replayed says nothing of a cluster at rest.
type lagClock struct {
	timeline ha.TLI
	marks    []lagMark // rising in both
}

type lagMark struct {
	at  ha.Instant
	lsn ha.LSN
}

const (
	// lagStep is how far apart two marks are at least; decisions come at least
	// once a second.
	lagStep = 250 * time.Millisecond
	// lagMarks is how many are kept: a quarter of an hour to an hour. Who is
	// further behind counts as so long behind.
	lagMarks = 4096
)

// note takes over where the log is now. A new timeline begins anew.
func (c *lagClock) note(now ha.Instant, p ha.Position) {
	if p.TLI != c.timeline {
		c.timeline, c.marks = p.TLI, nil
	}
	if n := len(c.marks); n > 0 {
		last := &c.marks[n-1]
		if p.LSN <= last.lsn || last.at.Within(lagStep, now) {
			return
		}
	}
	if len(c.marks) == lagMarks {
		c.marks = slices.Delete(c.marks, 0, lagMarks/4)
	}
	c.marks = append(c.marks, lagMark{now, p.LSN})
}

// since is when the log was first seen beyond a position; zero: it was not.
func (c *lagClock) since(lsn ha.LSN) ha.Instant {
	i, _ := slices.BinarySearchFunc(c.marks, lsn+1, func(m lagMark, lsn ha.LSN) int {
		switch {
		case m.lsn < lsn:
			return -1
		case m.lsn > lsn:
			return 1
		}
		return 0
	})
	if i == len(c.marks) {
		return 0
	}
	return c.marks[i].at
}

// behind notes where the leader's log is, and returns since when each replica
// lacks some of it.
func (c *lagClock) behind(o *ha.Observation, own ha.Report) map[string]ha.Instant {
	reports := make(map[string]*ha.Report, len(o.Peers)+1)
	reports[o.Self] = &own
	for i := range o.Peers {
		if p := &o.Peers[i]; p.ReceivedAt != 0 {
			reports[p.Member] = &p.Report
		}
	}
	leader := reports[o.Consul.Record.Leader]
	if leader == nil || !leader.Position.Known() {
		return nil
	}
	c.note(o.Now, leader.Position)
	lag := map[string]ha.Instant{}
	for member, r := range reports {
		at := r.Replay
		if at == 0 {
			at = r.Position.LSN
		}
		if r == leader || at == 0 || r.Position.TLI != c.timeline {
			continue
		}
		if since := c.since(at); since != 0 {
			lag[member] = since
		}
	}
	return lag
}
