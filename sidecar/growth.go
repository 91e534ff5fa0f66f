package sidecar

import (
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// growth remembers when the leader's log was first seen to reach where, so that
// how far a replica is behind can be told in time: bytes say little to people, and
// the commit time of what was last replayed says nothing of a cluster at rest.
type growth struct {
	timeline ha.TLI
	marks    []growthMark // rising in both
}

type growthMark struct {
	at  ha.Instant
	lsn ha.LSN
}

const (
	// growthStep is how far apart two marks are at least; decisions come at least
	// once a second.
	growthStep = 250 * time.Millisecond
	// growthMarks is how many are kept: a quarter of an hour to an hour. Who is
	// further behind counts as so long behind.
	growthMarks = 4096
)

// note takes over where the log is now. A new timeline begins anew.
func (g *growth) note(now ha.Instant, p ha.Position) {
	if p.TLI != g.timeline {
		g.timeline, g.marks = p.TLI, nil
	}
	if n := len(g.marks); n > 0 {
		last := &g.marks[n-1]
		if p.LSN <= last.lsn || last.at.Within(growthStep, now) {
			return
		}
	}
	if len(g.marks) == growthMarks {
		g.marks = slices.Delete(g.marks, 0, growthMarks/4)
	}
	g.marks = append(g.marks, growthMark{now, p.LSN})
}

// since is when the log was first seen beyond a position; zero: it was not.
func (g *growth) since(lsn ha.LSN) ha.Instant {
	i, _ := slices.BinarySearchFunc(g.marks, lsn+1, func(m growthMark, lsn ha.LSN) int {
		switch {
		case m.lsn < lsn:
			return -1
		case m.lsn > lsn:
			return 1
		}
		return 0
	})
	if i == len(g.marks) {
		return 0
	}
	return g.marks[i].at
}

// behind notes where the leader's log is, and returns since when each replica
// lacks some of it.
func (g *growth) behind(o *ha.Observation, own ha.Report) map[string]ha.Instant {
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
	g.note(o.Now, leader.Position)
	lag := map[string]ha.Instant{}
	for member, r := range reports {
		at := r.Replay
		if at == 0 {
			at = r.Position.LSN
		}
		if r == leader || at == 0 || r.Position.TLI != g.timeline {
			continue
		}
		if since := g.since(at); since != 0 {
			lag[member] = since
		}
	}
	return lag
}
