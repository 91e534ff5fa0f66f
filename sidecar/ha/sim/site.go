package sim

import (
	"strconv"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// siteName is the other site's cluster, which the members follow (Options.Follower).
const siteName = "pg@dc1"

// site is the other site's cluster. It is one server, in the place after the last member:
// a failover there loses the end of its log, begins a timeline and changes its address.
type site struct {
	address  int
	timeline ha.TLI // its newest
	gone     bool   // for good: an operator lets the members take the writes
	goneAt   int64  // zero: never
	life     uint32 // of the process that the copy is of (Pair)
}

// siteAddress is where the other site's primary is.
func (w *World) siteAddress() string { return "site" + strconv.Itoa(w.site.address) }

// beginSite makes the other site's cluster.
func (w *World) beginSite() {
	w.site = site{timeline: 1}
	b := &w.members[w.n]
	b.reset(w.n, 0)
	b.hostUp = true
	if w.opt.pair != nil {
		return // it is a copy of what is there
	}
	s := &b.server
	w.records++
	s.data, s.systemID, s.log, s.flushed = ha.DataPresent, "system-1", append(s.log[:0], uint64(1)<<40|w.records), 1
	s.run, s.onTLI, s.epoch, s.term = up, true, w.life(), 1
	w.at(w.shape.writeGap, evSite, w.n)
	if w.extra.chance(400) {
		w.site.goneAt = w.extra.between(3*second, w.shape.length+3*second)
	}
}

// siteGoes is what the other site does by itself: a write, now and then a failover.
func (w *World) siteGoes() {
	if w.site.gone {
		w.promoteSite()
		return
	}
	w.at(w.extra.between(w.shape.writeGap/2, w.shape.writeGap*3/2), evSite, w.n)
	s := &w.members[w.n].server
	switch {
	case w.site.goneAt != 0 && w.now >= w.site.goneAt && w.consul.record.Phase == ha.PhaseLeading:
		w.loseSite()
	case s.pausedUntil > w.now:
	case !w.calm && w.extra.chance(12):
		w.failoverThere()
	default:
		w.records++
		s.log = append(s.log, uint64(w.site.timeline)<<40|w.records)
		s.flushed = len(s.log)
		for j := range w.n {
			if s.senders[j].active {
				w.pump(w.n, j)
			}
		}
	}
}

// failoverThere loses the end of the log, which a member here may have received.
func (w *World) failoverThere() {
	s := &w.members[w.n].server
	w.dropStreams(w.n)
	s.log, s.born = s.log[:max(1, len(s.log)-w.extra.below(4))], w.life()
	s.flushed = len(s.log)
	w.site.timeline++
	w.check.own(w, w.n, w.site.timeline, w.position(s, len(s.log)))
	w.records++
	s.log = append(s.log, uint64(w.site.timeline)<<40|w.records)
	s.flushed = len(s.log)
	w.site.address++
	s.epoch, s.pausedUntil = w.life(), w.now+w.extra.between(50*milli, 3*second)
	w.tell(-1, "the other site fails over to timeline %d at %d records", w.site.timeline, len(s.log))
}

// loseSite is the end of the other site.
func (w *World) loseSite() {
	w.tell(-1, "the other site is lost")
	w.dropStreams(w.n)
	w.members[w.n].server.run = stopped
	w.site.gone = true
	w.promoteSite()
}

// promoteSite types `pgsidecar site promote` until it was done.
func (w *World) promoteSite() {
	if r := &w.consul.record; r.Exists() && r.StandbyOf == "" {
		return
	}
	for m := range w.n {
		if s := &w.members[m].sidecar; s.alive {
			s.intent.PromoteSite, s.intent.Since = true, w.members[m].read(w.now)
			w.step(m)
		}
	}
	w.at(2*second, evSite, w.n)
}

// count counts what is fetched as a whole.
func (w *World) count(a *ha.Action) {
	if a.Kind == ha.Clone {
		w.copies++
	}
	if ha.IsSite(a.From) && (a.Kind == ha.Clone || a.Kind == ha.Rewind) {
		w.fromSite++
	}
}

// siteRound is how often a member that does not lead asks all servers of the other site which is
// the primary, where it knows of none.
const siteRound = 5 * second

// askSite is one question of m's sidecar to the other site's primary.
func (w *World) askSite(m int) {
	b := &w.members[m]
	src, s := &b.sidecar.source, &w.members[w.n].server
	now := b.read(w.now)
	if w.opt.pair != nil && w.opt.pair.standbysHeard(w) {
		src.HeardAt = now
	}
	if w.consul.record.Leader != b.name && src.Problem != "" && w.now < b.sidecar.siteAskedAt+siteRound {
		return // it asks all servers seldom, and a standby between
	}
	b.sidecar.siteAskedAt = w.now
	if p := w.opt.pair; w.site.gone || s.pausedUntil > w.now || s.run != up || p != nil && p.stops(w) {
		src.Problem = "it does not answer"
		return
	}
	*src = ha.Source{Witness: src.Witness, HeardAt: now, SeenAt: now, Address: w.siteAddress(), SystemID: s.systemID, Position: w.position(s, s.flushed)}
}

// nameOf is how a server is called in facts.
func (w *World) nameOf(i int) string {
	if i == w.n && w.twoSites() {
		return siteName
	}
	return names[i]
}

// there reports whether the server that m was told to stream from is where it was then.
func (w *World) there(m, p int) bool {
	return p < w.n || w.members[m].server.siteAt == w.siteAddress()
}

// twoSites reports whether there is another site.
func (w *World) twoSites() bool { return w.opt.Follower || w.opt.pair != nil }

// follows reports whether the members still follow the other site.
func (w *World) follows() bool {
	r := &w.consul.record
	return w.twoSites() && (w.opt.Follower && !r.Exists() || r.StandbyOf != "")
}

// noCopyLeft reports whether the other site was lost while no member had a whole copy of
// its data: there is nothing to promote.
func (w *World) noCopyLeft() bool {
	if !w.site.gone {
		return false
	}
	for m := range w.n {
		if s := &w.members[m].server; s.data == ha.DataPresent && !s.half && s.rewound < 0 {
			return false
		}
	}
	return true
}

// unsettledSite says what is not yet as it should be in a cluster that follows, or nothing.
func (w *World) unsettledSite() string {
	r := &w.consul.record
	if !r.Exists() || r.Phase != ha.PhaseLeading {
		return "there is no leader"
	}
	l := w.index(r.Leader)
	for m := range w.n {
		s, from := &w.members[m].server, w.n
		if m != l {
			from = l
		}
		if s.run != up || !s.inRecovery || !s.receiver.active || s.flushed+20 < w.members[from].server.flushed {
			return names[m] + " does not stream"
		}
	}
	return ""
}
