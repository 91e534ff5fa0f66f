package ha

import (
	"cmp"
	"slices"
	"strconv"
	"time"
)

// standRules begin an election if the newest term has no leader that is heard, the
// others that are needed agree, and this member is the best to begin.
var standRules = [...]rule{
	{"stand-claim-unknown", func(v *view) bool { return v.claimUnknown() && !v.forced() && v.vacant() }, blocked((*view).claimUnknownBlock), ends},
	{"stand-owes", func(v *view) bool { return v.o.Server.owes() && v.vacant() && !v.forced() }, blocked((*view).owesBlock), ends},
	{"stand-promised-later", func(v *view) bool {
		return v.promisedLater() && !v.mayElectAnew() && v.o.eligible() && v.vacant() && !v.forced()
	}, blocked((*view).promisedBlock), ends},
	{"stand-unfit", (*view).mayNotStand, nil, ends},
	{"stand-manual", func(v *view) bool { return (v.paused() || !v.o.Policy.Automatic) && !v.forced() }, nil, ends},
	{"stand-not-vacant", func(v *view) bool {
		return v.s.Hears || v.forced() && v.candidateAtWork() || !v.forced() && !v.vacant()
	}, nil, ends},
	// The lease of an async primary does not count on a member that is not recorded.
	{"stand-unrecorded", func(v *view) bool { return !slices.Contains(v.rec.Members, v.o.Self) && !v.follower() && !v.forced() }, blocked(func(v *view) Block {
		return Block{What: "no election is begun", Missing: "one of the members on record (" + joined(v.rec.Members) + "): this one is not yet among them",
			Override: failoverTo(v.o.Self), Cost: "every commit that only the members on record have"}
	}), ends},
	{"stand-pre-votes", func(v *view) bool { return v.preVotes() != "" && !v.forced() }, blocked(func(v *view) Block {
		return Block{What: "no election is begun", Missing: v.preVotes(),
			Override: failoverTo(v.o.Self),
			Cost:     "every commit that only the silent members have"}
	}), ends},
	{"stand-replaced", func(v *view) bool { return v.rec.replaced(v.o.Server.Position) && !v.follower() && !v.forced() }, blocked((*view).replacedBlock), ends},
	{"stand-unheard", func(v *view) bool {
		return v.foundElected() && !v.heardReign() && v.ownVoteElects() && v.hearsFew() && !v.forced()
	}, blocked(func(v *view) Block {
		b := v.unheardBlock()
		b.What = "no election is begun"
		return b
	}), ends},
	{"stand-lag", func(v *view) bool { return v.tooFarBehind() && !v.forced() }, blocked((*view).lagBlock), ends},
	{"stand-without-given", func(v *view) bool { return v.lacksGiven() && !v.forced() && !v.givenInSight() }, blocked((*view).givenBlock), ends},
	{"stand-after-better", (*view).betterFirst, nil, ends},
	{"ballot", nil, func(t *turn) {
		t.ballot("the leader of term " + itoa(t.rec.Term) + " (" + cmp.Or(t.rec.Leader, "none") + ") is not heard")
	}, ends},
}

// owesBlock: nobody else may be left that has what this copy may lack.
func (v *view) owesBlock() Block {
	return Block{What: "no election is begun", Missing: "a member that surely has each commit: the copy that " + v.o.Self + " has may lack some that it had acknowledged before (up to " + v.o.Server.Owed.String() + ")",
		Override: failoverTo(v.o.Self), Cost: "every commit that " + v.o.Self + " does not have"}
}

// mayNotStand reports whether this member cannot begin an election of the newest term.
func (v *view) mayNotStand() bool {
	stale := v.stale()
	return !v.o.eligible() || v.seen.Leader == v.o.Self && !stale || stale && !v.forced() && !v.mayElectAnew() || v.strayed() != "" && !v.forced() || v.rec.Phase == PhaseBootstrap
}

// stale reports whether the record is not the newest that is known of: an election by it
// would count votes of voters that may be others by now.
func (v *view) stale() bool { return v.laterKnown() || v.claimUnknown() }

// laterKnown reports whether a later record than Consul's is known of.
func (v *view) laterKnown() bool {
	return v.putBack || v.rec.Term != max(v.seen.Term, v.o.Server.Promise) || v.seenLater() || v.promisedLater()
}

// promisedLater reports whether a member that is heard has promised a later term than any
// whose record it, or this one, knows of: Consul was put back, and who knew that record
// has forgotten it.
func (v *view) promisedLater() bool {
	if v.o.Server.Promise > v.seen.Term || v.contested() {
		return true
	}
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		if known := p.Report.Record.Term; v.fresh(p) && v.related(p) && known > 0 && p.Report.Term > max(known, v.seen.Term) {
			return true
		}
	}
	return false
}

// contested reports whether this member, or one that is heard, has promised the newest term to
// another than its leader, or Consul names another: it was put back to before that one's election.
func (v *view) contested() bool {
	if v.seen.Term == 0 || v.seen.Leader == "" {
		return false
	}
	if v.rec.Term == v.seen.Term && v.toOther(v.rec.Leader) {
		return true
	}
	if sv := &v.o.Server; sv.Promise == v.seen.Term && v.toOther(sv.PromisedTo) {
		return true
	}
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		if v.fresh(p) && v.related(p) && p.Report.Term == v.seen.Term && v.toOther(p.Report.PromisedTo) {
			return true
		}
	}
	return false
}

// toOther reports whether a promise of the newest term is another's than its leader's.
func (v *view) toOther(promisedTo string) bool {
	return promisedTo != "" && promisedTo != v.seen.Leader
}

func (v *view) promisedBlock() Block {
	return Block{What: "no leader is elected", Missing: "the record of term " + itoa(max(v.newestPromise(), v.o.Server.Promise)) +
		", which members have promised or read of, and Consul has lost; or all members, to elect one of them by what they have",
		Override: failoverTo(v.o.Self), Cost: "every commit that " + v.o.Self + " does not have"}
}

// mayElectAnew reports whether nothing can be lost by an election although the newest
// record is not known: every member takes part in it, and none serves, or hears who does.
func (v *view) mayElectAnew() bool {
	for _, m := range v.rec.Members {
		p := v.peer(m)
		if m != v.o.Self && (p == nil || !v.fresh(p) || p.Link != LinkUp || p.Report.ServerID != v.rec.SystemID ||
			p.Report.Role == RoleStopped || p.Report.Hears && v.seen.Leader != v.o.Self || p.Report.leads() || v.strays(p)) {
			return false
		}
	}
	return len(v.rec.Members) > 0 && v.rec.SystemID != "" && !v.unrecordedMayHave()
}

// torn reports whether a member that is heard has a later log than this primary's, and lacks what
// this one has: each may have acknowledged what the other lacks, so that only a person chooses.
func (v *view) torn() bool {
	own := &v.o.Server.Position
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		if at := &p.Report.Position; v.primary() && v.fresh(p) && v.related(p) && !v.strays(p) && at.Compare(*own) > 0 && !at.Contains(*own) {
			return true
		}
	}
	return false
}

// unrecordedMayHave reports whether a member that an earlier record does not name is not heard, or
// has data: it may have joined since, and have what was acknowledged.
func (v *view) unrecordedMayHave() bool {
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		if slices.Contains(v.rec.Members, p.Member) || slices.Contains(v.s.Dismissed, p.Member) || !v.related(p) {
			continue
		}
		if !v.fresh(p) || p.Report.ServerID != "" {
			return true
		}
	}
	return false
}

// seenLater reports whether a member has seen a later record. (Its index says nothing:
// Consul's may have begun anew.)
func (v *view) seenLater() bool { return v.seen.order(v.rec.seen()) > 0 }

// tooFarBehind reports whether this candidate lacks more of what the last primary was heard
// to have than is accepted where nobody's vote is needed.
func (v *view) tooFarBehind() bool {
	led, own, limit := v.s.Led, &v.o.Server.Position, v.o.Policy.MaxLag
	return v.rec.Durability.Mode == ModeAsync && !v.follower() && limit > 0 && led.Known() && own.Known() && !own.Contains(led) && led.LSN > own.LSN+LSN(limit)
}

func (v *view) lagBlock() Block {
	lacks := uint64(v.s.Led.LSN - v.o.Server.Position.LSN)
	return Block{What: "this member is not promoted", Missing: "a member that lacks less than failover.max_lag: this one lacks " + itoa(lacks) + " bytes of what the primary had",
		Override: failoverTo(v.o.Self), Cost: "the last " + itoa(lacks) + " bytes of log"}
}

// betterFirst reports whether better candidates are still given time to begin.
func (v *view) betterFirst() bool {
	wait := time.Duration(v.rank()) * rankPause
	return !v.forced() && !v.after(v.s.LostAt, wait)
}

// rankPause is how long each lesser candidate waits for a better one to begin.
const rankPause = 250 * time.Millisecond

// eligible reports whether this member may lead at all.
func (o *Observation) eligible() bool {
	return !o.Policy.NoFailover && !o.Intent.Shutdown && (!o.Intent.Reinit && o.Server.Strayed == "" && !o.Server.owes() || o.Intent.Force) && o.Server.DataDir == DataPresent &&
		o.Server.Process == ProcessRunning && o.Server.InRecovery == Yes && o.Consul.Session != ""
}

// vacant reports whether the newest term's leader is gone, or gets nowhere.
func (v *view) vacant() bool {
	if v.seen.Phase == PhaseLeading {
		return !v.s.Hears && v.gone(v.peer(v.seen.Leader))
	}
	p := v.peer(v.seen.Leader)
	wait, policy := v.o.Policy.HandoverTimeout, &v.o.Policy
	if dur := &v.rec.Durability; (dur.Mode == ModeAsync || dur.K == 0) && v.seen.Phase == PhaseElecting {
		wait = max(wait, v.longestLease()+v.longestLease()/clockDrift+policy.FailureTimeout) // it may have to wait out the old lease
	}
	switch {
	case p != nil && p.Link == LinkRefused:
		return true
	case p == nil || !v.fresh(p):
		return v.after(v.s.PhaseAt, min(wait, policy.FailureTimeout<<v.failedElections()))
	case p.Report.Term > v.seen.Term:
		return true
	}
	since := v.s.PhaseAt
	if r := &p.Report; v.seen.Phase == PhasePromoting {
		since = max(since, v.s.ReplayAt) // one that has just replayed all is still to record that it leads
		if r.Replay != 0 && r.Replay < r.Position.LSN {
			// It replays what it has received, and a member that took its place would have to as
			// well. So it has the time that it takes, as long as it makes progress.
			wait = max(wait, replayTime)
		}
	}
	return v.after(since, wait)
}

// failedElections counts those since the last primary, up to a few. A member that takes every
// candidate for gone would else end each election before it can be won.
func (v *view) failedElections() uint64 {
	return min(max(v.seen.Term, v.rec.Origin.Term+1)-v.rec.Origin.Term-1, 5)
}

// candidateAtWork reports whether the leader of the newest term has only just begun, and
// is heard: the lock may have been passed to it because it has more than this member.
func (v *view) candidateAtWork() bool {
	p, wait := v.peer(v.seen.Leader), v.o.Policy.FailureTimeout
	if v.rec.Durability.Mode == ModeAsync && v.seen.Phase == PhaseElecting {
		wait += v.longestLease() + v.longestLease()/clockDrift // it may have to wait out the old lease
	}
	return v.seen.Phase != PhaseLeading && v.fresh(p) && p.Link == LinkUp && p.Report.Role != RoleStopped && !v.after(v.s.PhaseAt, wait)
}

// replayTime is how long a candidate that still replays may stand still.
const replayTime = time.Minute

// gone reports whether a primary that is not heard was heard and is silent, says
// that its server is down, or does not come down, or refuses connections. One that hands over as planned has the
// time of a handover. One that was never heard, or
// whose last report is of an earlier term, gets the failure time-out to be heard
// (S8): a member that has just started takes nobody for lost.
func (v *view) gone(p *Peer) bool {
	switch {
	case p != nil && p.Link == LinkRefused:
		return true
	case p == nil || p.ReceivedAt == 0 || v.fresh(p) && !p.Report.Down && !p.Report.Stopping:
		return v.after(max(v.s.LostAt, v.s.PhaseAt), v.o.Policy.FailureTimeout)
	case v.fresh(p) && p.Report.Passing:
		return v.after(v.s.LostAt, v.o.Policy.HandoverTimeout)
	case v.fresh(p):
		// It says itself that its server is down, so it is passing the lock on; or that it
		// does not come down, so it never will.
		return v.after(v.s.LostAt, resignPause)
	case p.Report.Term == v.seen.Term && (p.Report.leads() || p.Report.Down):
		return true
	}
	// It was last heard before it led: what it has become since nobody has said.
	return v.after(max(v.s.LostAt, v.s.PhaseAt), v.o.Policy.FailureTimeout)
}

// resignPause is how long a primary whose server is down has to pass the lock
// on: a Consul transaction, with room for a busy machine. A ballot beside it
// would only be in its way.
const resignPause = 100 * time.Millisecond

// preVotes counts who else has lost the primary (S8), and says what is missing
// to begin. It asks for as many as the election itself will need: an election
// that cannot be won only unseats.
func (v *view) preVotes() (missing string) {
	dur := &v.rec.Durability
	if v.stale() && v.mayElectAnew() {
		return ""
	}
	if v.oneDecides() {
		if missing := v.perhapsDecided(); missing == "" || !v.withoutOrigin() {
			return missing
		}
	}
	if dur.Mode == ModeAsync || v.follower() || v.nothingAcknowledged() {
		return v.preVotesAsync()
	}
	if dur.K == 0 {
		return v.lastPrimary() + ": no standby held each commit, so only it surely has them all"
	}
	agree, silent := 0, ""
	for _, voter := range dur.Voters {
		if v.lost(voter) {
			agree++
		} else {
			silent += " " + voter
		}
	}
	if need := dur.VotesNeeded(); agree < need {
		return itoa(uint64(need)) + " of the voters that have lost the primary and can be reached; not so:" + silent
	}
	return ""
}

// withoutOrigin reports whether the voters may elect as if the last primary were not heard, whose word
// is no proof of what it has missed.
func (v *view) withoutOrigin() bool {
	origin := v.rec.Origin.Leader
	return origin != v.o.Self && v.deposedUnheard(origin) && v.rec.Durability.K > 0 && v.beyond() == ""
}

// oneDecides reports whether the log of one member has all that was acknowledged, be it this
// one's own, so that its word is enough to elect.
func (v *view) oneDecides() bool {
	f, origin := v.rec.Final, v.rec.Origin.Leader
	if f != nil && v.o.Server.Position.Contains(f.Position) || v.rec.Phase == PhaseElecting && origin == v.o.Self {
		return true
	}
	p := v.peer(origin)
	return v.rec.Phase == PhaseElecting && v.rec.Durability.Mode == ModeQuorum && !v.follower() && p != nil && v.fresh(p) && !p.Report.Serving && p.Report.Role == RoleReplica
}

// perhapsDecided says whose word is missing that an election which is under way by Consul's
// record was not decided: Consul may have been put back to it, and who was elected have led
// since. Who has begun to read the record amid the election knows no more of it. A primary that
// has passed the lock to the only other member began the election itself; where that one has taken
// the lock, it may have stood still for as long as it was away by a clock that stood still as well.
func (v *view) perhapsDecided() string {
	others := v.others()
	if v.rec.Phase != PhaseElecting || v.follower() || len(others) == 1 && v.s.PassedTerm == v.rec.Term && v.s.FirstTerm > 0 && v.s.FirstTerm <= v.rec.Origin.Term {
		return ""
	}
	if v.beyond() != "" {
		return v.beyondMissing()
	}
	if v.allHeard() {
		return "" // nobody else could know more
	}
	agree, living, silent, gone := 0, 0, "", ""
	for _, m := range others {
		p := v.peer(m)
		switch {
		case p != nil && v.fresh(p) && p.Report.Record.Term == v.rec.Term && v.sawItBegin(p) && v.sinceGap(p) && !v.deposedUnheard(m):
			agree++
		case m == v.rec.Origin.Leader && !v.fresh(p) || p != nil && v.deadByPorts(p) && !v.foundElected():
			gone += " " + m
			continue // it may well be gone; or, where this one has just started, be starting as well
		case p == nil || !v.fresh(p) || !v.deposedUnheard(m):
			silent += " " + m
		}
		living++
	}
	if agree == 0 && v.rec.Leader != v.o.Self {
		living, silent = len(others), silent+gone // who has led since may be gone by now
	}
	if 2*agree < living {
		return "word that nobody has won the election of term " + itoa(v.rec.Term) + ", from at least half of the other members, and from such as were there when it began: " +
			"Consul may have been restored from a snapshot. Not yet from:" + silent
	}
	return ""
}

// beyond is a member that is heard and is on a later timeline than any in Consul's record, while
// an election is under way by it, and says nothing of having come there by hand; empty: none.
func (v *view) beyond() string {
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		if v.rec.Phase == PhaseElecting && !v.follower() && v.fresh(p) && p.Report.Strayed == "" && p.Report.ServerID == v.rec.SystemID && p.Report.Position.TLI > v.rec.Timeline {
			return p.Member
		}
	}
	return ""
}

func (v *view) beyondMissing() string {
	return "the record of the term that began the timeline of " + v.beyond() + ", which is later than any in Consul's record: was Consul restored from a snapshot?"
}

func (v *view) beyondBlock() Block {
	return Block{What: "this member is not promoted", Missing: v.beyondMissing(),
		Override: failoverTo(v.o.Self), Cost: "every commit that " + v.o.Self + " does not have"}
}

// standsForAll is the last leader that may have acknowledged commits: it has
// all of them.
func (v *view) standsForAll() string {
	if v.rec.Phase == PhaseLeading || v.rec.Phase == PhasePromoting {
		return v.rec.Leader
	}
	return v.rec.Origin.Leader
}

func (v *view) lastPrimary() string {
	if m := v.standsForAll(); m != "" {
		return "the last primary (" + m + ")"
	}
	return "the last primary, which the record does not name"
}

// lost reports whether the member, reachable, hears no primary.
func (v *view) lost(member string) bool {
	if member == v.o.Self {
		return true
	}
	p := v.peer(member)
	if p == nil || !v.fresh(p) || p.Report.Record.Term != v.seen.Term || p.Report.Record.Phase != v.seen.Phase {
		return false // it spoke of an earlier phase, in which there was nobody to hear
	}
	return !p.Report.Hears && !p.Report.leads() && p.Report.Role != RoleStopped
}

// preVotesAsync asks for more than half of the living replicas: in async mode, and in a
// standby cluster, nobody's vote is needed, so this alone keeps one cut-off member from deposing
// a healthy primary.
func (v *view) preVotesAsync() string {
	agree, living, all := 0, 0, v.rec.Members
	if v.follower() {
		all = union(all, []string{v.o.Self}) // nobody's lease counts on those on record
	}
	for _, m := range all {
		if m == v.seen.Leader {
			continue
		}
		p := v.peer(m)
		if m != v.o.Self && p != nil && p.Link == LinkRefused && v.afterGap() {
			continue
		}
		living++
		if v.lost(m) || v.serverless(m) {
			agree++
		}
	}
	if 2*agree > living {
		return ""
	}
	return "more than half of the replicas that have lost the primary; so far " + itoa(uint64(agree)) + " of " + itoa(uint64(living))
}

// serverless reports whether the member, reachable, has no server that runs, and hears no
// primary: one that is being cloned, say. In async mode it is not asked for a vote.
func (v *view) serverless(member string) bool {
	p := v.peer(member)
	return p != nil && v.fresh(p) && p.Report.Role == RoleStopped && p.Report.Down && !p.Report.Hears &&
		p.Report.Record.Term == v.seen.Term && p.Report.Record.Phase == v.seen.Phase
}

// next is the record of the term after this one. Where a person decides what nobody can say, whether
// the election in Consul's record was won, its numbers may be in use.
func (t *turn) next(leader, reason string) Record {
	return t.nextTerm(t.stale() || t.forced() && (t.beyond() != "" || t.perhapsDecided() != ""), leader, reason)
}

// nextTerm is that; old says that the record is not the newest, so that it is made anew.
func (t *turn) nextTerm(old bool, leader, reason string) Record {
	r := t.rec
	r.endRestore()
	if r.Phase == PhaseLeading || r.Phase == PhasePromoting {
		r.Origin = Origin{Term: r.Term, Leader: r.Leader}
		r.Fenced = false
	}
	r.Term = max(r.Term, t.seen.Term, t.o.Server.Promise) + 1
	switch {
	case old:
		t.anew(&r)
	case r.claimsUnknown() || r.Phase == PhaseElecting && t.rec.Leader == t.o.Self && !t.present() && !t.follower():
		t.beyondClaims(&r)
	}
	r.Leader, r.Phase, r.Reason = leader, PhaseElecting, reason
	return r
}

// anew makes a record out of one that is not the newest, as Consul was put back: what was
// claimed since is not known, so that the logs are taken as they are. Nor is it known who the
// voters were, so that all members must vote: somebody has each commit that was acknowledged. Whom
// a person has decided for leads without them, but nobody after it.
func (t *turn) anew(r *Record) {
	r.Term = max(r.Term, t.newestPromise()) + unseenTerms
	r.Timeline, r.Claims, r.Diverged, r.Final = t.ofSite(max(r.Timeline, t.newestTimeline())+TLI(r.Term)), nil, nil, nil
	if !t.forced() {
		r.Origin, r.Fenced = Origin{}, false
	}
	if r.Durability.Mode == ModeQuorum {
		r.Durability.K, r.Durability.Voters = 1, slices.Clone(r.Members)
	}
}

// ballot asks for the transaction that begins an election (S1).
func (t *turn) ballot(why string) {
	r := t.next(t.o.Self, why)
	r.Members = union(r.Members, []string{t.o.Self})
	t.commit(Change{What: "ballot", Record: r, Lock: LockTake, Session: t.o.Consul.Session, Prior: t.o.Consul.Lock}, why)
}

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

// counted is a number of things, with the words for one or for many.
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
