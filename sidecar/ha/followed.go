package ha

// What a process relies on that has not followed the record from the beginning of its term, as it
// has just started, stood still, or did not hear Consul: what Consul has lost since it cannot know.

// foundElected reports whether the term is the first that this process has read of, or that it
// has read none yet since it stood still, or did not hear Consul: it did not see it begin.
func (v *view) foundElected() bool { return v.s.FirstTerm == 0 || v.s.FirstTerm == v.rec.Term }

// votesDecideNothing reports whether this candidate needs nobody's vote, so that no promise of a
// later term would keep it from leading.
func (v *view) votesDecideNothing() bool {
	p := v.peer(v.rec.Origin.Leader)
	return p != nil && v.votes(p) || v.rec.Durability.Mode == ModeAsync || v.rec.Durability.K == 0 || v.rec.Final != nil || v.rec.Origin.Leader == v.o.Self
}

// heardReign reports whether this process has heard the primary of the term since it follows the
// record: what that one has made of the record it has read.
func (v *view) heardReign() bool { return v.s.LedTerm == v.rec.Term && v.s.LedAt > v.s.GapAt }

// ownVoteElects reports whether this member needs no other's vote, as each of the voters on record
// has all that was acknowledged: if the record is an earlier one, they may have been others since.
func (v *view) ownVoteElects() bool {
	dur := &v.rec.Durability
	return dur.Mode == ModeQuorum && dur.K > 0 && dur.VotesNeeded() == 1 && dur.Has(v.o.Self) && !v.follower()
}

// hearsFew reports whether fewer than half of the other members that may live say that they
// know of no later term. The last primary may well be gone.
func (v *view) hearsFew() bool {
	agree, living, last := 0, 0, v.standsForAll()
	if last == v.o.Self {
		last = v.rec.Origin.Leader
	}
	for _, m := range v.others() {
		p := v.peer(m)
		heard := p != nil && v.fresh(p) && p.Report.Record.Term == v.rec.Term && v.sinceGap(p)
		if !heard && (m == last || p != nil && p.Link == LinkRefused && !v.o.Policy.DistrustRefusal && v.afterGap()) {
			continue
		}
		if living++; heard {
			agree++
		}
	}
	return 2*agree < living
}

// reacquiresUnheard reports whether this leader has no lock, Consul is known to have been put back
// while this process did not follow it, and too few say that no later term has begun.
func (v *view) reacquiresUnheard() bool {
	return !v.putBack && !v.lockMine() && v.seenLater() && v.foundElected() && v.hearsFew() && !v.forced()
}

// wokenUnheard reports whether this process has not followed the record, too few have said that no
// later term has begun, and there was no time for that yet.
func (v *view) wokenUnheard() bool {
	since := max(v.s.BegunAt, v.s.GapAt)
	return since != 0 && v.foundElected() && v.hearsFew() && !v.forced() && !v.after(since, reportTime)
}

// ledAlready reports whether others have read that this member leads the term, which Consul has lost.
func (v *view) ledAlready() bool {
	return v.seen.Term == v.rec.Term && v.seen.Leader == v.o.Self && v.seen.Phase == PhaseLeading
}

// afterGap reports whether this process has followed the record for so long that a refusal is no
// news from before, nor of those that are being started with it.
func (v *view) afterGap() bool {
	return v.after(max(v.s.BegunAt, v.s.GapAt), v.o.Policy.FailureTimeout)
}

// sinceGap reports whether the peer's word answers what this process has sent since it follows the
// record: what was said before is read late by one that stood still.
func (v *view) sinceGap(p *Peer) bool { return p.EchoSentAt >= v.s.GapAt }

// foundLeading reports whether this process, whose server is down, found itself the primary on
// record when it began, and has not given the others the time to say that Consul was put back.
func (v *view) foundLeading() bool {
	since := max(v.s.BegunAt, v.s.GapAt)
	began := v.o.Now < since.Add(reportTime) && v.stopped() && !v.lockMine() && v.foundElected() && (v.rec.Phase == PhaseLeading || v.rec.Phase == PhasePromoting)
	return began && !v.putBack && !v.forced() && v.unheardOthers() && !v.after(since, reportTime)
}

// unheardOthers reports whether a member on record is still to be heard, and not known to be gone.
func (v *view) unheardOthers() bool {
	for _, m := range v.others() {
		if p := v.peer(m); p == nil || p.Link != LinkRefused && !(v.fresh(p) && v.sinceGap(p) && p.Report.Record.Term > 0) {
			return true
		}
	}
	return false
}

func (v *view) unheardBlock() Block {
	return Block{What: "this member is not promoted", Missing: "word from at least half of the other members that no later record is known: pgsidecar has not followed this term from its beginning, and Consul may have been restored since",
		Override: failoverTo(v.o.Self), Cost: "every commit that " + v.o.Self + " does not have, if Consul was put back"}
}

func (v *view) reacquiresUnheardBlock() Block {
	b := v.unheardBlock()
	b.What = "the leader lock is not taken back"
	return b
}

func (v *view) restoreUnheardBlock() Block {
	return Block{What: "the restore is not begun", Missing: v.unheardBlock().Missing}
}
