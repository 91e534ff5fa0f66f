package sim

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// settle looks, after the faults have ceased, whether the cluster is whole, and
// whether it took too long.
func (w *World) settle() {
	w.at(250*milli, evSettle, 0)
	if w.opt.Outside != 0 {
		w.rescue()
		return
	}
	if w.opt.pair != nil {
		w.opt.pair.settle(w)
		return
	}
	c := &w.check
	since := w.now - c.calmAt
	if since > writableWithin && w.res.Recovered == 0 && !w.follows() {
		w.fail("recovery", -1, "no commit was possible for %d s after the faults ceased", since/second)
		return
	}
	why := w.unsettled()
	if why == "" {
		c.settled = true
		return
	}
	if since > settledWithin {
		w.fail("recovery", -1, "%d s after the faults ceased %s", since/second, why)
	}
}

// unsettled says what is not yet as it should be, or nothing.
func (w *World) unsettled() string {
	if w.follows() {
		if w.noCopyLeft() {
			w.beyond.outcome.Nothing = true
			return ""
		}
		if w.site.goneAt != 0 {
			return "this site does not take the writes"
		}
		return w.unsettledSite()
	}
	r := &w.consul.record
	if !r.Exists() || r.Phase != ha.PhaseLeading {
		return "there is no leader"
	}
	l := w.index(r.Leader)
	if !w.accepts(l) {
		return names[l] + " leads and takes no writes"
	}
	if w.res.Recovered == 0 {
		return "no commit was acknowledged"
	}
	for m := range w.n {
		s := &w.members[m].server
		if m != l && !w.members[m].gone && (s.run != up || !s.receiver.active || s.flushed+20 < w.members[l].server.flushed) {
			return names[m] + " does not stream"
		}
	}
	return ""
}

// checkEnd: at the end nothing that was acknowledged is missing.
func (w *World) checkEnd() {
	r := &w.consul.record
	l := w.index(r.Leader)
	if l < 0 || !w.check.settled || w.beyond.outcome.Nothing {
		return
	}
	s := &w.members[l].server
	for i := range w.check.acked {
		if a := &w.check.acked[i]; len(s.log) < a.n || s.log[a.n-1] != a.id {
			w.fail("lost", l, "at the end %s lacks commit %d, acknowledged by %s in term %d", names[l], a.n, names[a.server], a.term)
			return
		}
	}
}

// sticky is how long a member must have been left alone to count as healthy.
const sticky = 8 * second

// checkSticky is S8: a healthy primary is not deposed by one member that is cut
// off, where the word of others counts, nor by one that has just started.
func (w *World) checkSticky(m int, old *ha.Record) {
	r, c := &w.consul.record, &w.check
	p := w.index(old.Leader)
	if !old.Exists() || old.Phase != ha.PhaseLeading || c.asked || w.calm || w.shape.lossy > 20 || w.now < sticky || m == p || r.Leader == old.Leader {
		return
	}
	if s := &w.members[p].server; s.run != up || s.inRecovery || s.hung > w.now {
		return
	}
	since := w.now - sticky
	for i := range w.n {
		if i != m && max(c.lastHarm[i], c.crashHarm[i], c.doubted[i][p]) > since {
			return // who is wrong about the primary, as m may be, is a second that has lost it
		}
		for j := range w.n {
			if i != m && j != m && c.linkHarm[i][j] > since {
				return
			}
		}
	}
	cutOff := c.lastHarm[m] > since || max(c.linkHarm[m][p], c.doubted[m][p]) > since
	if cutOff && aloneElects(old) {
		return
	}
	w.fail("S8", m, "%s deposes %s, which is healthy and heard by the others", names[m], old.Leader)
}

// aloneElects says whether one member's word is enough to elect by the record:
// a cluster of two cannot tell which of them is cut off.
func aloneElects(r *ha.Record) bool {
	if r.Durability.Mode == ha.ModeAsync {
		return len(r.Members) <= 2
	}
	return r.Durability.VotesNeeded() <= 1
}
