package ha

import (
	"cmp"
	"slices"
	"time"
)

// candidateRules are the leader's part between the ballot and the claim.
var candidateRules = [...]rule{
	{"candidate-out-of-recovery", (*view).serving, stopNow("its promotion belongs to an earlier term"), ends},
	{"candidate-from-site", (*view).onlyFromSite, (*turn).leadFromSite, ends},
	{"candidate-unfit", func(v *view) bool {
		return v.shutdown() || !v.present() || v.o.Server.Rewound != "" || v.stopped() && v.o.Server.Strayed != "" && !v.forced()
	}, func(t *turn) { t.try(unfitRules[:]) }, ends},
	{"candidate-disarm", func(v *view) bool { return v.stopped() && v.armed() }, disarm("a candidate needs no lease before it has the votes"), ends},
	{"candidate-start", (*view).stopped, (*turn).startStandby, ends},
	{"candidate-armed", (*view).armed, stopNow("it may have been told to promote in a term that is over"), ends},
	{"candidate-registration", func(v *view) bool { return v.o.Announced.Tag != "primary" }, func(t *turn) { t.keepTag = true }, goesOn}, // what follows is short
	{"candidate", nil, func(t *turn) { t.try(electionRules[:]) }, ends},
}

// unfitRules are what a candidate does that cannot lead.
var unfitRules = [...]rule{
	// Its data would show that it has won, and it has none.
	{"unfit-unheard", func(v *view) bool {
		return !v.present() && !v.shutdown() && !v.forced() && v.foundElected() && v.perhapsDecided() != ""
	}, blocked((*view).unfitBlock), ends},
	// One that stops leaves it to those that know more, too.
	{"unfit-pass", func(v *view) bool {
		return v.bestCandidate() != nil && (v.forced() || !v.foundElected() || v.perhapsDecided() == "")
	}, func(t *turn) {
		t.passLock(t.bestCandidate(), t.o.Self+" cannot lead", t.rec.Final)
	}, ends},
	{"unfit-exit", (*view).shutdown, (*turn).stopAndExit, ends},
	{"unfit-discard", (*view).halfMade, discard("an unfinished copy or rewind was found"), ends},
	// Servers that followed it before would be sent its log, which by the numbers goes on from theirs.
	{"unfit-strayed", func(v *view) bool { return v.present() && v.o.Server.Strayed != "" }, blocked((*view).strayedCandidate), ends},
	// It takes no connections before it has the log of who led when it was rewound.
	{"unfit-rewound", (*view).present, blocked(func(v *view) Block {
		return Block{What: "this member is not promoted", Missing: "another member that can lead: the server of " + v.o.Self + " was rewound, and needs the log of " + v.o.Server.Rewound}
	}), ends},
}

func (v *view) contestedBlock() Block {
	return Block{What: "this member is not promoted", Missing: "the first record of term " + itoa(v.rec.Term) +
		", which members have promised to another leader (was Consul restored from a snapshot?); or all members, to elect one of them by what they have",
		Override: failoverTo(v.o.Self), Cost: "every commit that " + v.o.Self + " does not have"}
}

func (v *view) strayedCandidate() Block {
	return Block{What: "this member is not promoted", Missing: "log of this cluster's own: " + v.strayed(),
		Override: failoverTo(v.o.Self), Cost: "every commit since this member's log left the cluster's; all other members are cloned anew"}
}

func (v *view) unfitBlock() Block {
	b := Block{What: "the election is not passed on", Missing: v.perhapsDecided()}
	if p := v.bestCandidate(); p != nil {
		b.Override, b.Cost = failoverTo(p.Member), "every commit that "+p.Member+" does not have"
	}
	return b
}

// electionRules are what the leader of a term does that has no primary yet: it fences
// itself, gathers votes, and claims a timeline when it has them (S2, S3).
var electionRules = [...]rule{
	{"elect-unready", func(v *view) bool { return !v.standby() }, nil, ends},
	// Those that have promised more cannot vote in this term, and may have what was acknowledged.
	{"elect-beyond-promised", func(v *view) bool { return v.forced() && v.promisedLater() }, func(t *turn) {
		t.ballot("members have promised term " + itoa(t.newestPromise()) + ", whose record Consul has lost")
	}, ends},
	// A term has one leader: the next is to have none of its votes.
	{"elect-contested", func(v *view) bool { return v.contested() && v.mayElectAnew() }, func(t *turn) {
		t.ballot("members have promised term " + itoa(t.rec.Term) + " to another, and Consul has lost that")
	}, ends},
	{"elect-contested-alone", (*view).contested, blocked((*view).contestedBlock), ends},
	{"elect-fence", func(v *view) bool { return v.o.Server.Promise < v.rec.Term }, fenceToElect("this member stands in the election of the term"), ends},
	{"elect-catch-up", (*view).catchingUp, nil, ends},
	{"elect-vote", func(v *view) bool { return !v.o.Server.Fenced || v.o.Server.halfFenced() }, fenceToElect("its own vote"), ends},
	{"elect-unsettled", (*view).unsettled, nil, ends},
	{"elect-claim-unknown", func(v *view) bool { return v.claimUnknown() && !v.forced() }, blocked((*view).claimUnknownBlock), ends},
	{"elect-later-timeline", func(v *view) bool { return v.foundElected() && v.beyond() != "" && !v.forced() }, blocked((*view).beyondBlock), ends},
	{"elect-strayed", func(v *view) bool { return v.strayed() != "" && !v.forced() }, blocked((*view).strayedCandidate), ends},
	// Members that are here are given the time to vote: it may have more.
	{"elect-wait-for-heard", func(v *view) bool { return v.forced() && v.positionMissing("") != "" }, nil, ends},
	{"elect-behind", func(v *view) bool { return v.ahead().member != "" && !v.sourceHas(v.ahead().position) }, func(t *turn) { t.try(yieldRules[:]) }, ends},
	{"elect-without-given", func(v *view) bool { return v.lacksGiven() && !v.forced() }, blocked((*view).givenBlock), ends},
	{"elect-unheard", func(v *view) bool { return v.foundElected() && v.votesDecideNothing() && v.hearsFew() && !v.forced() }, blocked((*view).unheardBlock), ends},
	// It is soon over, so that nobody has to decide to have two primaries.
	{"elect-lease", func(v *view) bool { return v.forced() && v.leaseRuns() != "" }, blocked(func(v *view) Block {
		return Block{What: "this member is not promoted", Missing: v.leaseRuns()}
	}), ends},
	{"elect-votes", func(v *view) bool { return v.votesMissing() != "" && !v.forced() }, blocked(func(v *view) Block {
		return Block{What: "this member is not promoted", Missing: v.votesMissing(),
			Override: failoverTo(v.o.Self),
			Cost:     "every commit that only the missing members have"}
	}), ends},
	// The record may be an earlier one, and others have been voters since.
	{"elect-found-reign", func(v *view) bool { return !v.forced() && v.unvotedInReign() != "" }, blocked(func(v *view) Block {
		b := v.unheardBlock()
		b.Missing = "votes from" + v.unvotedInReign() + ": by the record one vote is enough, but pgsidecar has not followed the last primary's term from its beginning, and Consul may have been restored since"
		return b
	}), ends},
	{"elect-standby-leader", (*view).follower, (*turn).leadStandby, ends},
	{"elect-lag", func(v *view) bool { return v.tooFarBehind() && !v.forced() }, blocked((*view).lagBlock), ends},
	{"elect-unsure-of-site", (*view).unsureOfSite, blocked((*view).siteBlock), ends},
	{"elect-set-sync", func(v *view) bool { return v.o.Server.SyncUnsure || !sameSync(v.o.Server.Sync, v.electionSync()) }, func(t *turn) {
		t.do(Action{Kind: SetSync, Sync: t.electionSync(), Why: "the durability of the new term, before the promotion"})
	}, ends},
	{"claim", func(v *view) bool {
		sync := v.electionSync()
		return Covers(sync, v.o.Self, v.narrowedByVotes(sync, v.o.Server.Position)) && !v.voteIsNear(sync)
	}, func(t *turn) { t.claim(t.electionSync()) }, ends},
}

func fenceToElect(why string) func(*turn) {
	return func(t *turn) { t.do(Action{Kind: Fence, Term: t.rec.Term, Sync: t.promotionSync(), Why: why}) }
}

// yieldRules pass the candidacy to the member that is ahead; if that one may not
// lead, they fetch from it what is lacking.
var yieldRules = [...]rule{
	{"yield-unreachable", func(v *view) bool { return !v.fresh(v.peer(v.ahead().member)) }, blocked(func(v *view) Block {
		to := v.ahead()
		return v.behind(to, to.member+" is ahead ("+to.position.String()+") and cannot be reached")
	}), ends},
	// Its successor would take the election for one that it has seen begin.
	{"yield-unheard", func(v *view) bool { return v.foundElected() && v.hearsFew() && !v.forced() }, blocked((*view).unheardBlock), ends},
	{"yield", func(v *view) bool {
		r := &v.peer(v.ahead().member).Report
		return r.Eligible && r.Session != "" && (r.Paused == "" || v.o.Server.Paused != "") &&
			(!v.passedInVain(v.ahead().member) || v.after(v.s.PhaseAt, 2*v.o.Policy.FailureTimeout))
	}, func(t *turn) {
		to := t.ahead().member
		t.passLock(t.peer(to), to+" is ahead", t.rec.Final)
	}, ends},
	{"yield-fetch", func(v *view) bool {
		to := v.ahead()
		p := v.peer(to.member)
		return p.Report.Role == RoleReplica && v.votes(p) && to.position.Contains(v.o.Server.Position)
	}, func(t *turn) {
		to := t.ahead()
		t.do(Action{Kind: Follow, Term: t.rec.Term, From: to.member, Address: t.peer(to.member).Report.Postgres, Position: to.position,
			Why: to.member + " is ahead and may not lead: fetch what is lacking"})
	}, ends},
	{"yield-not-voted", nil, blocked(func(v *view) Block {
		to := v.ahead()
		return v.behind(to, to.member+" is ahead ("+to.position.String()+") and has not voted; its server is "+string(v.peer(to.member).Report.Role))
	}), ends},
}

// passedInVain reports whether this candidate has passed the lock to that member since there was
// a primary, and nothing has come of it, nor does that one vote: its disk may hang.
func (v *view) passedInVain(member string) bool {
	return !v.votes(v.peer(member)) && v.s.PassedTo == member && v.s.PassedTerm > v.rec.Origin.Term && v.s.PassedTerm < v.rec.Term
}

// behind is the block of a candidate that lacks what another has.
func (v *view) behind(to candidate, missing string) Block {
	return Block{What: "this member is not promoted", Missing: missing,
		Override: failoverTo(v.o.Self), Cost: "what " + to.member + " has beyond " + v.o.Server.Position.String()}
}

// bestCandidate is the best member that can be passed the candidacy: one on record, as
// leases count on those.
//
// In a planned handover the priority counts first among those that are nearly
// there: what they lack they are sent while the server shuts down.
func (v *view) bestCandidate() *Peer {
	var heir *Peer
	best := candidate{}
	planned := v.o.Intent.Shutdown || v.o.Intent.Switchover || v.agentGone()
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		if !v.fresh(p) || p.Link != LinkUp || !p.Report.Eligible || p.Report.Session == "" || p.Report.Role == RoleStopped ||
			!slices.Contains(v.rec.Members, p.Member) || v.strays(p) || v.rec.replaced(p.Report.Position) {
			continue
		}
		c := p.candidate()
		if own := &v.o.Server.Position; planned && own.Known() && c.position.TLI == own.TLI && c.position.LSN+maxHandoverLag >= own.LSN {
			c.position = *own
		}
		if heir == nil || c.better(best) {
			heir, best = p, c
		}
	}
	return heir
}

// voteIsNear reports whether a candidate that needs no votes, as it was handed all
// there is, has still to hear a member that is about to vote: with that vote the
// claim narrows the record, and the cluster outlives the loss of the new primary
// before anybody follows it. All fence at the same time, so it is a short wait.
func (v *view) voteIsNear(sync SyncSetting) bool {
	dur := &v.rec.Durability
	if v.rec.Final == nil || !dur.Has(v.o.Self) || sync.K < dur.K || !v.narrowedByVotes(sync, v.o.Server.Position).Equal(*dur) {
		return false
	}
	for _, m := range sync.Names {
		if p := v.peer(m); v.fresh(p) && p.Link == LinkUp && p.Report.Role == RoleReplica && !v.votes(p) {
			return !v.after(v.s.PhaseAt, voteTime)
		}
	}
	return false
}

// voteTime is what a vote takes at most where nothing is wrong: 10 ms measured, and
// room for a busy machine.
const voteTime = 30 * time.Millisecond

// claim asks for the transaction after which this member may be primary. It is
// also the last look at lock and term before the promotion (S3).
func (t *turn) claim(sync SyncSetting) {
	r := t.rec
	r.Phase, r.Final = PhasePromoting, nil
	r.Durability = t.narrowedByVotes(sync, t.o.Server.Position)
	own, timeline := &t.o.Server, t.ofSite(max(r.Timeline, t.newestTimeline())+1+r.unclaimed())
	c := Claim{TLI: timeline, Term: r.Term, Parent: own.Position.TLI, Low: min(own.Replayed, own.Position.LSN)}
	if t.strayed() != "" {
		// A person takes this log for the cluster's, which begins anew with it. What others
		// have of it by their numbers and positions says nothing.
		r.Claims, r.Base, c.Parent, c.Low = nil, timeline, 0, 0
		r.Durability = t.rec.Durability
	}
	if r.replaced(own.Position) {
		r.Since = 0 // as a person wants
	}
	r.Claims = r.claims(c)
	r.Timeline = timeline
	r.Lease = t.o.Policy.Lease
	t.commit(Change{What: "claim", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "the votes are enough; the term gets timeline "+itoa(uint64(r.Timeline)))
}

// ahead is the vote that has more than this member, if there is one. Nothing is ahead of a log
// that a person takes for the cluster's, which is none of it: numbers say nothing there.
func (v *view) ahead() candidate {
	if v.strayed() != "" {
		return candidate{}
	}
	best := candidate{position: v.o.Server.Position}
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		if v.votes(p) && !(v.o.Intent.Force && (!v.fresh(p) || v.chosenOver(p))) && p.Report.Position.Compare(best.position) > 0 {
			best = candidate{member: p.Member, position: p.Report.Position}
		}
	}
	if f := v.rec.Final; f != nil && f.Member != v.o.Self && f.Position.Compare(best.position) > 0 && !v.dispensable(f) {
		best = candidate{member: f.Member, position: f.Position}
	}
	return best
}

// chosenOver reports whether a person has decided that this member, which led, is to lead on, and
// the peer lacks what it has: of the two logs one had been chosen.
func (v *view) chosenOver(p *Peer) bool {
	return v.s.ChosenTerm == v.rec.Term && !p.Report.Position.Contains(v.o.Server.Position)
}

// dispensable reports whether a candidate may lead without what a primary had that stopped
// cleanly and cannot give it: if so asked, or if the voters' votes stand for all that was
// acknowledged (S3), as they do for a primary that has crashed.
func (v *view) dispensable(f *Final) bool {
	p, late := v.peer(f.Member), v.after(v.s.PhaseAt, v.o.Policy.FailureTimeout)
	here := p != nil && v.fresh(p) && p.Link == LinkUp
	if v.o.Intent.Force {
		return !here || late && !v.votes(p) // one that is here is given the time to vote
	}
	// One that is here, and has no data or a server that does not start, will not vote.
	late = late && (!here || v.after(v.s.PhaseAt, 2*v.o.Policy.FailureTimeout) && !v.votes(p))
	return late && v.rec.Durability.Mode == ModeQuorum && v.rec.Durability.K > 0
}

// votes reports whether the peer has voted in the newest term. A vote is a
// promise kept on disk, so it does not age.
func (v *view) votes(p *Peer) bool {
	return p.Report.Voted && p.Report.Term == v.rec.Term && (p.Report.PromisedTo == "" || p.Report.PromisedTo == v.rec.Leader) && !v.strays(p)
}

// catchingUp reports whether this candidate streams from a voter that is ahead,
// and has not got all of it yet.
func (v *view) catchingUp() bool {
	up := v.o.Server.Upstream
	p := v.peer(up)
	return up != "" && p != nil && v.votes(p) && v.fresh(p) && (!p.Report.Eligible || v.passedInVain(up)) && !v.o.Server.Position.Contains(p.Report.Position)
}

// passLock asks for the transaction that gives the lock and the next term to
// another member.
func (t *turn) passLock(to *Peer, why string, final *Final) {
	r := t.next(to.Member, why)
	r.Final, t.s.PassedTerm, t.s.PassedTo = final, r.Term, to.Member
	if t.rec.Leader == t.o.Self && (t.rec.Phase == PhaseLeading || t.rec.Phase == PhasePromoting) {
		r.Fenced, r.Crashes = t.stopped() && t.o.Server.Stray == 0, t.crashes()
	}
	t.commit(Change{What: "pass", Record: r, Lock: LockTake, Session: to.Report.Session, Holder: to.Member, Prior: t.o.Consul.Lock}, why)
}

// votesMissing says what the promotion still lacks, or nothing (S3, S6).
func (v *view) votesMissing() string {
	me := &v.o.Server.Position
	if f := v.rec.Final; f != nil && me.Contains(f.Position) {
		return ""
	}
	if v.follower() {
		return v.positionMissing("") // nothing is acknowledged here
	}
	if v.hasAllGiven() {
		return "" // and nobody here can have more
	}
	origin := v.rec.Origin.Leader
	if p := v.peer(origin); origin == "" && v.rec.Durability.Mode == ModeQuorum && v.rec.Durability.K == 0 {
		return v.positionMissing("") // a person has decided that nobody's commits are waited for
	} else if origin == v.o.Self || p != nil && v.votes(p) {
		return "" // it has all that was ever acknowledged, and is not ahead of us
	}
	if v.rec.Durability.Mode == ModeAsync {
		return v.leaseMissing()
	}
	dur := &v.rec.Durability
	if dur.K == 0 {
		return "the vote of " + origin + ": no standby held each commit, so only it surely has them all"
	}
	votes, silent := 0, ""
	for _, voter := range dur.Voters {
		p := v.peer(voter)
		if voter == v.o.Self || p != nil && v.votes(p) {
			votes++
		} else {
			silent += " " + voter
		}
	}
	if need := dur.VotesNeeded(); votes < need {
		return counted(need, "vote", "votes") + " of the voters; not yet from:" + silent
	}
	return ""
}

// unvotedInReign are the members that have not voted, where by the record one vote elects, and
// this process has neither followed the last reign from its beginning nor heard its primary: if the
// record is an earlier one, any member may have been its voter; and none at all, as only the primary
// may know, if this one has lost its state. Empty: none, or not so.
func (v *view) unvotedInReign() string {
	dur, origin := &v.rec.Durability, v.rec.Origin
	p := v.peer(origin.Leader)
	if v.follower() || dur.Mode != ModeQuorum || dur.K == 0 || dur.VotesNeeded() != 1 || origin.Leader == v.o.Self || p != nil && v.votes(p) ||
		v.rec.Final != nil || v.s.FirstTerm != 0 && v.s.FirstTerm < origin.Term || v.s.LedTerm == origin.Term && v.s.LedAt > v.s.GapAt {
		return ""
	}
	silent := ""
	for _, m := range v.others() {
		p := v.peer(m)
		if m == origin.Leader && v.s.ForgotTerm == origin.Term {
			silent += " " + m
			continue
		}
		if m == origin.Leader || p != nil && (v.votes(p) || v.strays(p) || p.Link == LinkRefused && v.afterGap()) {
			continue
		}
		silent += " " + m
	}
	return silent
}

// leaseMissing says, in async mode, why the old primary may still be writing
// (S6), or whose position is still awaited; or nothing.
func (v *view) leaseMissing() string {
	return cmp.Or(v.leaseRuns(), v.positionMissing(v.rec.Origin.Leader))
}

// leaseRuns says why the old primary may still be writing (S6), in async mode, or where nobody
// else was to have its commits; or nothing.
func (v *view) leaseRuns() string {
	origin := v.rec.Origin.Leader
	p := v.peer(origin)
	if v.rec.Durability.Mode != ModeAsync && v.rec.Durability.K > 0 || v.follower() || v.provenDead() || origin == v.o.Self || p != nil && v.votes(p) {
		return ""
	}
	lease := v.longestLease() + v.longestLease()/clockDrift
	if v.s.VotedTerm == v.rec.Term && v.after(max(v.s.VotedAt, v.s.PhaseAt), lease) {
		return ""
	}
	return "the end of the lease of " + cmp.Or(origin, "the last primary") + ", or proof that its server is down"
}

// positionMissing says whose position is still waited for, of the members that are heard
// but one.
func (v *view) positionMissing(but string) string {
	o := &v.o
	for i := range o.Peers {
		p := &o.Peers[i]
		if p.Member == but || v.strays(p) || !v.fresh(p) || p.Link != LinkUp || v.votes(p) || p.Report.Role == RoleStopped {
			continue
		}
		// Others, whose settings may differ, wait no longer for this candidate than for a handover.
		if !v.after(v.s.PhaseAt, min(o.Policy.FailureTimeout, o.Policy.HandoverTimeout/2)) {
			return "the position of " + p.Member
		}
	}
	return ""
}

// clockDrift bounds how fast two members' clocks may run apart: by one part in
// this many.
const clockDrift = 20

// deadByPorts reports whether both of the member's ports refuse, and that says that nobody is
// there.
func (v *view) deadByPorts(p *Peer) bool {
	return p.Link == LinkRefused && p.PostgresRefused == Yes && !v.o.Policy.DistrustRefusal
}

// provenDead reports whether the old primary's server surely runs no more: its
// own word, or both its ports refuse (the guard makes the second follow from
// the first: S6), and have done so since it was seen to take the lock: it may have
// come back, and be cut off, since they did.
func (v *view) provenDead() bool {
	if v.rec.Fenced {
		return true
	}
	p := v.peer(v.rec.Origin.Leader)
	if p == nil {
		return false
	}
	if v.deadByPorts(p) && v.s.Revived != p.Member {
		return true
	}
	if v.fresh(p) && p.Report.Down && p.Report.ServerID == "" && p.Report.Term > 0 && p.Report.Record.Term >= v.rec.Term {
		return true // it has its state, and no data to serve, so that it promises nothing
	}
	return v.fresh(p) && p.Report.Term >= v.rec.Term && !p.Report.Serving && (p.Report.Voted || p.Report.Down)
}
