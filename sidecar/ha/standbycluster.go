package ha

import (
	"cmp"
	"slices"
	"time"
)

// A standby cluster has members, a lock, terms and elections as any other, and no
// primary: its leader's server streams from the primary of another site's cluster, and
// the others from it. Nothing is acknowledged here, so an election needs nobody's votes
// and no lease ends first; whatever a candidate lacks, the other site has, and only where
// that one is not heard the member with most must lead. Its record has StandbyOf.

// standbyFounderRules are what the founder of a standby cluster does until its server
// runs as a standby.
var standbyFounderRules = [...]rule{
	{"standby-founder-exit", (*view).shutdown, (*turn).stopAndExit, ends},
	{"standby-founder-discard", (*view).halfMade, discard("an unfinished copy was found"), ends},
	{"standby-founder-source", func(v *view) bool { return v.sourceProblem() != "" && (v.absent() || v.sourceForeign()) }, blocked(func(v *view) Block {
		return Block{What: "no standby cluster is founded", Missing: v.sourceProblem()}
	}), ends},
	{"standby-founder-clone", (*view).absent, cloneSource("there is no data directory yet"), ends},
	{"standby-founder-start", (*view).stopped, (*turn).startStandby, ends},
	{"standby-founder-serving", (*view).serving, exit(func(v *view) string {
		return "the data directory is a primary's, and the cluster is to follow " + v.rec.StandbyOf + ": empty the data directory, or remove standby_of; nothing was changed"
	}), ends},
	{"standby-founded", (*view).standby, func(t *turn) {
		r := t.rec
		r.SystemID, r.Phase = t.o.Server.SystemID, PhaseLeading
		t.commit(Change{What: "lead", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "the server follows "+r.StandbyOf)
	}, ends},
}

// standbyLeaderRules are what the leader of a standby cluster does.
var standbyLeaderRules = [...]rule{
	{"relay-serving", (*view).serving, stopNow("the cluster follows another site's: was the server promoted by hand?"), ends},
	{"relay-pass", func(v *view) bool { return v.relayEnds() && v.relayHeir() != nil }, func(t *turn) {
		why := "the server of " + t.o.Self + " is down"
		if t.shutdown() || t.o.Intent.Switchover {
			why = t.o.Self + " hands over as asked"
		} else if t.agentGone() {
			why = t.strandedWhy()
		}
		t.passLock(t.relayHeir(), why, nil)
	}, ends},
	{"relay-refused", func(v *view) bool { return v.o.Intent.Switchover }, func(t *turn) { t.s.Refused = t.noHeir() }, goesOn},
	{"relay-exit", (*view).shutdown, (*turn).resignAndExit, ends},
	{"relay-discard", (*view).halfMade, discard("an unfinished copy or rewind was found"), ends},
	{"relay-clone", (*view).absent, cloneSource("there is no data directory"), ends},
	{"relay-disarm", func(v *view) bool { return v.stopped() && v.armed() }, disarm("a standby needs no lease"), ends},
	{"relay-start-rewound", func(v *view) bool { return v.stopped() && v.o.Server.Rewound == v.rec.StandbyOf }, func(t *turn) {
		t.do(Action{Kind: Start, Term: t.rec.Term, From: t.rec.StandbyOf, Address: t.o.Source.Address, Why: "start as a standby of the source of the rewind"})
	}, ends},
	{"relay-start", (*view).stopped, (*turn).startStandby, ends},
	{"relay-armed", (*view).armed, stopNow("it may have been told to promote in a term that is over"), ends},
	{"relay-login", func(v *view) bool { return v.o.Server.LoginProblem != "" }, (*turn).sayLogin, goesOn},
	// The other site has lost log that the rewind relied on.
	{"relay-rewound-in-vain", func(v *view) bool {
		sv := &v.o.Server
		return v.running() && !v.standby() && sv.Rewound == v.rec.StandbyOf && sv.Starved && v.after(sv.StartedAt, startPatience*v.o.Policy.FailureTimeout)
	}, cloneSource("the rewound server waits for log that nobody has"), ends},
	{"relay-unready", func(v *view) bool { return !v.standby() }, nil, ends},
	{"relay-restart", func(v *view) bool { return v.o.Intent.Restart }, func(t *turn) { t.do(Action{Kind: Stop, Why: "a restart was requested"}) }, ends},
	{"relay-fence", func(v *view) bool { return v.o.Server.Promise < v.rec.Term }, func(t *turn) {
		t.do(Action{Kind: Fence, Term: t.rec.Term, Why: "this member leads the term"})
	}, ends},
	{"site-promote-refused", func(v *view) bool {
		return v.o.Intent.PromoteSite && !v.promotionBegun() && (v.promotionOver() || v.promotionRefused() != "")
	}, (*turn).refusePromotion, goesOn},
	{"site-promote", func(v *view) bool {
		return v.o.Intent.PromoteSite && !v.promotionOver() && v.promotionRefused() == "" && v.hasSiteFinal() && v.lockMine() && (v.o.Policy.Witness == "" || v.wordGiven())
	}, (*turn).promoteSite, ends},
	{"relay-register", nil, func(t *turn) { t.tag = "standby-leader" }, goesOn},
	{"relay-admit", func(v *view) bool { return len(v.newFollowers()) > 0 && v.lockMine() }, func(t *turn) {
		r := t.rec
		r.Members = union(r.Members, t.newFollowers())
		t.commit(Change{What: "admit", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "a new member streams")
	}, goesOn},
	{"relay-dismiss-refused", func(v *view) bool { return v.dismissAsked() && v.fresh(v.peer(v.o.Intent.Remove)) }, func(t *turn) {
		t.s.Refused = t.o.Intent.Remove + " is running; stop its pgsidecar first"
	}, goesOn},
	{"relay-dismiss", func(v *view) bool {
		return v.dismissAsked() && !v.fresh(v.peer(v.o.Intent.Remove)) && v.o.Intent.Remove != v.o.Self && v.lockMine()
	}, (*turn).dismiss, goesOn},
	// A rewind from this server is right only then; by itself it would make one in minutes.
	{"relay-checkpoint", func(v *view) bool {
		sv := &v.o.Server
		return sv.Receiving == Yes && !sv.Checkpointed && (sv.CheckpointAt == 0 || v.after(sv.CheckpointAt, relayCheckpointPause))
	}, func(t *turn) {
		t.do(Action{Kind: Checkpoint, Why: "pg_rewind from this server needs one on the new timeline"})
	}, goesOn},
	{"source", nil, func(t *turn) { t.try(sourceRules[:]) }, ends},
}

// sourceRules keep the server of a standby cluster's leader on the log of the other site's
// primary, wherever that one is.
var sourceRules = [...]rule{
	{"source-streams", func(v *view) bool { return v.followsSource() && v.o.Server.Receiving == Yes }, nil, ends},
	{"source-problem", func(v *view) bool { return v.sourceProblem() != "" }, blocked(func(v *view) Block {
		b := Block{What: "this cluster does not follow " + v.rec.StandbyOf, Missing: v.sourceProblem()}
		switch {
		case v.promotionRefused() != "":
		case v.rec.Released != nil && v.o.Server.Position.Contains(*v.rec.Released) && v.o.Server.Position.TLI == v.rec.Released.TLI:
			b.Override, b.Cost = "pgsidecar site promote --accept-data-loss", "none, if "+v.rec.StandbyOf+" has not taken the writes"
		default:
			b.Override, b.Cost = "pgsidecar site promote --accept-data-loss", "every commit of "+v.rec.StandbyOf+" beyond "+v.o.Server.Position.String()
		}
		return b
	}), ends},
	{"source-follows", func(v *view) bool { return v.followsSource() && !v.leftSource() }, nil, ends},
	{"source-fence", func(v *view) bool { return v.unsettled() && v.o.Server.Upstream != "" && v.rested(Fence) }, func(t *turn) {
		t.do(Action{Kind: Fence, Term: t.rec.Term, Why: "find out what the server has before it follows " + t.rec.StandbyOf})
	}, ends},
	{"source-unsettled", (*view).unsettled, nil, ends},
	// What it receives may be on a later timeline than the one that this site would take.
	{"source-promotion-begun", (*view).mayTakeWrites, (*turn).withdrawPromotion, ends},
	{"source-follow", func(v *view) bool { return v.o.Source.Position.Contains(v.o.Server.whole()) }, func(t *turn) {
		t.do(Action{Kind: Follow, Term: t.rec.Term, From: t.rec.StandbyOf, Address: t.o.Source.Address, Position: t.o.Source.Position,
			Why: "follow the primary of the other site"})
	}, ends},
	// It has written on since it was asked.
	{"source-same-timeline", func(v *view) bool { return v.o.Source.Position.TLI == v.o.Server.Position.TLI }, nil, ends},
	{"source-not-asked", func(v *view) bool { return !v.askedSince() }, nil, ends},
	{"source-clone", func(v *view) bool { return v.gaveUp(Rewind) }, cloneSource("pg_rewind failed"), ends},
	{"source-rewind", func(v *view) bool { return v.rested(Rewind) }, func(t *turn) {
		t.do(Action{Kind: Rewind, Term: t.rec.Term, From: t.rec.StandbyOf, Address: t.o.Source.Address,
			Why: "the server has what " + t.rec.StandbyOf + " does not: " + t.o.Server.Position.String()})
	}, ends},
}

// relayCheckpointPause is how long after a checkpoint of a standby the next is made: it is
// none while the other site's primary has not made its own.
const relayCheckpointPause = 2 * time.Second

// follower reports whether the cluster follows another site's.
func (v *view) follower() bool { return v.rec.StandbyOf != "" }

// relays reports whether this member leads a standby cluster, and its server runs as a
// standby.
func (v *view) relays() bool {
	return v.follower() && v.rec.Leader == v.o.Self && v.rec.Phase == PhaseLeading && v.running() && v.standby()
}

// relayEnds reports whether the leader of a standby cluster is to hand over.
func (v *view) relayEnds() bool {
	sv, intent := &v.o.Server, &v.o.Intent
	return intent.Shutdown || intent.Switchover || v.agentGone() ||
		v.stopped() && sv.ExitedAt != 0 && !v.o.rewindsToSite() && v.o.Busy.Server == NoAction && !intent.Restart && !v.paused() && v.o.Policy.Automatic || v.absent() && v.o.Policy.Automatic
}

// rewindsToSite reports whether this leader's server is down to be brought onto the log of the
// other site, which is heard. Nobody takes its place meanwhile: he would have the same to fetch,
// over the same long way, and the others would follow neither.
func (o *Observation) rewindsToSite() bool {
	r, src := &o.Consul.Record, &o.Source
	return r.StandbyOf != "" && r.Leader == o.Self && r.Phase == PhaseLeading && !o.Busy.gaveUp(Rewind) &&
		(o.Busy.Server == Rewind || o.Server.Rewound == r.StandbyOf) && src.SeenAt != 0 && o.Now < src.SeenAt.Add(max(o.Policy.FailureTimeout, siteSilence))
}

// relayHeir is the member that a standby cluster's leader hands over to: the one asked
// for, else the best.
func (v *view) relayHeir() *Peer {
	if v.o.Consul.Reachable == No {
		return nil
	}
	heir := v.chosenSuccessor(true)
	if to := v.o.Intent.Target; v.o.Intent.Switchover && to != "" && heir != nil && heir.Member != to {
		return nil
	}
	return heir
}

func (v *view) noHeir() string {
	if v.o.Intent.Target != "" {
		return v.cannotLead(v.o.Intent.Target)
	}
	return "no other member can lead now"
}

// resignAndExit releases the lock, if it is held, and ends the member.
func (t *turn) resignAndExit() {
	if t.lockMine() && t.o.Consul.Reachable != No && t.stopped() {
		t.resign()
		return
	}
	t.stopAndExit()
}

// newFollowers are the members that stream from this one and are not on record.
func (v *view) newFollowers() []string {
	var names []string
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		if v.fresh(p) && p.Report.Streaming && p.Report.Term == v.rec.Term && p.Report.ServerID == v.rec.SystemID && !slices.Contains(v.rec.Members, p.Member) {
			names = append(names, p.Member)
		}
	}
	return names
}

// sourceProblem says why the other site's primary cannot be followed; empty: it can.
func (v *view) sourceProblem() string {
	src := &v.o.Source
	own := cmp.Or(v.rec.SystemID, v.o.Server.SystemID)
	switch {
	case v.o.Policy.StandbyOf != v.rec.StandbyOf:
		return "the setting standby_of, which names " + cmp.Or(v.o.Policy.StandbyOf, "no cluster") + ": this cluster follows " + v.rec.StandbyOf
	case src.Address == "" || src.SeenAt == 0:
		return "the primary of " + v.rec.StandbyOf + ": " + cmp.Or(src.Problem, "it has not answered yet")
	case v.sourceForeign():
		return "a cluster with the same data: " + v.rec.StandbyOf + " at " + src.Address + " has the system identifier " + src.SystemID + ", and this one " + own
	case src.Problem != "" && !v.sourceServes():
		return "the primary of " + v.rec.StandbyOf + " at " + src.Address + ": " + src.Problem
	}
	return ""
}

// sourceForeign reports whether what answers at the other site has other data than this
// cluster.
func (v *view) sourceForeign() bool {
	own, src := cmp.Or(v.rec.SystemID, v.o.Server.SystemID), &v.o.Source
	return own != "" && src.SeenAt != 0 && src.SystemID != own
}

// sourceHas reports whether the other site is heard to have the log up to the position:
// who lacks it fetches it there.
func (v *view) sourceHas(p Position) bool {
	src := &v.o.Source
	if !v.follower() || v.sourceProblem() != "" || !v.sourceServes() {
		return false
	}
	return src.Position.Contains(p) || src.Position.TLI == p.TLI
}

// followsSource reports whether the server is told to stream from where the other site's
// primary is.
func (v *view) followsSource() bool {
	sv := &v.o.Server
	return sv.Upstream == v.rec.StandbyOf && !sv.Fenced && sv.UpstreamAt == v.o.Source.Address
}

// leftSource reports whether a server that follows the source, and receives nothing from
// it, has what that one has not.
func (v *view) leftSource() bool {
	src, own := &v.o.Source.Position, &v.o.Server.Position
	return v.o.Server.Receiving == No && v.askedSince() && src.Known() && own.Known() && !src.Contains(v.o.Server.whole()) && src.TLI != own.TLI
}

// askedSince reports whether the other site was asked since this server stands where it is.
func (v *view) askedSince() bool { return v.o.Source.SeenAt > v.s.StoodAt }

// leadStandby records that this candidate leads a standby cluster's term.
func (t *turn) leadStandby() {
	r := t.rec
	r.Phase, r.Final, r.Origin, r.Histories = PhaseLeading, nil, Origin{}, Histories{}
	r.Durability = Durability{Mode: t.o.Policy.Mode, Voters: []string{}}
	r.Timeline, r.Lease = max(r.Timeline, t.newestTimeline()), t.o.Policy.Lease
	t.commit(Change{What: "lead", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "it leads a standby cluster, which promotes nobody")
}

// onlyFromSite reports whether this candidate of a standby cluster has no data of its own to
// stand with, or its rewound server comes up only with the other site's log: the leader has
// both fetched there, and a candidate would wait for a leader.
func (v *view) onlyFromSite() bool {
	return v.follower() && !v.shutdown() && !v.standby() && (v.absent() || v.halfMade() || v.o.Server.Rewound == v.rec.StandbyOf)
}

func (t *turn) leadFromSite() {
	if best := t.bestCandidate(); best != nil {
		t.passLock(best, t.o.Self+" has no data to lead with", t.rec.Final)
		return
	}
	t.leadStandby()
}

// siteTimelines is how many timelines a site has in each epoch. An epoch's first half is
// one site's and its second the other's, so that no number names two histories, and of two
// sites that both took the writes in one epoch, as they could not hear each other, both know
// which is to stay. A site that takes the writes begins the first epoch that the other
// cannot come to in fewer than half as many failovers while it has not heard of this. It is
// no larger because each standby fetches the history file of every number in between from
// its primary, one by one, before it follows (PostgreSQL's walreceiver.c,
// WalRcvFetchTimeLineHistoryFiles): 3072 of them took half a minute on a busy machine.
const siteTimelines = 32

// EpochTimelines is how many timelines an epoch has.
const EpochTimelines = 2 * siteTimelines

// EpochOf is the epoch of sites in which a timeline was begun. A cluster begins in 0.
func EpochOf(t TLI) uint64 { return uint64(t) / EpochTimelines }

// half is whose of two sites' a timeline is: 0 or 1.
func half(t TLI) TLI { return t / siteTimelines % 2 }

// timelineOfSites is the highest timeline that either site is known to have come to.
func (v *view) timelineOfSites() TLI {
	return max(v.rec.Timeline, v.newestTimeline(), v.o.Source.Position.TLI)
}

// timelineOfWrites is that, but for those of this site's own that it gave up to the other's.
func (v *view) timelineOfWrites() TLI {
	if v.rec.Void < v.rec.Timeline {
		return v.timelineOfSites()
	}
	return max(v.o.Source.Position.TLI, v.o.Server.Position.TLI)
}

// ownHalf is this site's half of each epoch. Who takes writes is in it, and who follows is
// not in the other's; where this site has given up the writes, and the other has not begun
// a timeline of its own yet, the newest is this one's.
func (v *view) ownHalf() TLI {
	switch {
	case v.rec.Half != 0:
		return v.rec.Half - 1
	case !v.follower():
		return half(v.rec.Timeline)
	case v.rec.Released != nil:
		return half(v.rec.Released.TLI)
	}
	return 1 - half(v.timelineOfSites())
}

// ofSite is the first timeline from t on that is this site's.
func (v *view) ofSite(t TLI) TLI { return inHalf(t, v.ownHalf()) }

func inHalf(t, h TLI) TLI {
	if half(t) == h {
		return t
	}
	return (t/siteTimelines + 1) * siteTimelines
}

// bothSites reports whether the other site is heard to take writes as well as this one,
// and not to have taken them later. What was heard before this one took them says nothing.
func (v *view) bothSites() bool {
	return v.o.Policy.StandbyOf != "" && v.sourceServes() && v.o.Source.SeenAt >= v.s.PhaseAt && v.o.Source.SystemID == v.rec.SystemID && v.o.Server.Position.Known()
}

func (v *view) bothSitesBlock() Block {
	src := &v.o.Source
	b := Block{What: "both sites take writes", Missing: v.o.Policy.StandbyOf + ", at " + src.Address + ", to give way: it is on timeline " + itoa(uint64(src.Position.TLI)) +
		", and this site took the writes later; it stops as soon as it hears this one, if its setting standby_of names it"}
	if src.Position.TLI == v.o.Server.Position.TLI { // neither followed the other before
		b.Missing = "one site that takes writes: " + v.o.Policy.StandbyOf + ", at " + src.Address + ", is a primary on timeline " + itoa(uint64(src.Position.TLI)) +
			" as well, so that neither site gives way; stop the members of the site whose writes are not wanted, empty their data directories, and start them: they will follow"
	}
	return b
}

// hasSiteFinal reports whether this member has all that the other site had.
func (v *view) hasSiteFinal() bool {
	f := v.o.Intent.SiteFinal
	return f == nil || v.o.Server.Position.Contains(*f)
}

// sourceServes reports whether a primary at the other site was heard just now.
func (v *view) sourceServes() bool {
	src := &v.o.Source
	return src.SeenAt != 0 && !v.after(src.SeenAt, max(v.o.Policy.FailureTimeout, siteSilence))
}

// siteSilence is how long a primary at another site, which is asked once a second, may take
// to answer before it is not heard any more.
const siteSilence = 3 * time.Second

// releaseSite gives up the writes, with the final position of the primary that has
// stopped: the cluster follows the other site from then on.
func (t *turn) releaseSite() {
	r := t.next(t.o.Self, "the writes go to "+t.o.Policy.StandbyOf+", as asked")
	r.StandbyOf, r.Final, r.Fenced = t.o.Policy.StandbyOf, t.final(), true
	r.Released, r.Given, r.Half = &r.Final.Position, nil, t.ownHalf()+1
	t.commit(Change{What: "site", Record: r, Lock: LockTake, Session: t.o.Consul.Session, Prior: t.o.Consul.Lock}, r.Reason)
}

// supersededRules end the reign of a site in whose place the other takes writes: it
// follows that one, and what it has beyond is kept aside by the rewind.
var supersededRules = [...]rule{
	{"superseded-stop", func(v *view) bool { return v.running() && !v.standby() }, func(t *turn) {
		t.do(Action{Kind: Stop, Immediate: true, Why: t.o.Policy.StandbyOf + " takes writes in the place of this site"})
	}, ends},
	{"superseded-follow", func(v *view) bool { return v.lockMine() }, func(t *turn) {
		// That this member's log is on a later timeline is no lost claim: it may be that site's.
		r := t.nextTerm(t.laterKnown(), t.o.Self, t.o.Policy.StandbyOf+" takes writes in the place of this site")
		r.StandbyOf, r.Released, r.Given, r.Final, r.Fenced = t.o.Policy.StandbyOf, nil, nil, nil, true
		if r.Timeline, r.Half = t.timelineOfSites(), t.ownHalf()+1; r.Timeline > t.o.Source.Position.TLI {
			r.Void = r.Timeline
		}
		t.commit(Change{What: "site", Record: r, Lock: LockTake, Session: t.o.Consul.Session, Prior: t.o.Consul.Lock}, r.Reason)
	}, ends},
}

// superseded reports whether the other site has a primary that took the writes after this
// one did: its timeline is beyond all that this site has come to. Or this site was to take
// them, and its candidate was given the other's data before it knew.
func (v *view) superseded() bool {
	src := &v.o.Source
	if v.o.Policy.StandbyOf == "" || v.follower() || v.rec.Phase == PhaseBootstrap || !v.sourceServes() || src.SystemID != v.rec.SystemID {
		return false
	}
	own := v.o.Server.Position.TLI
	given := v.rec.Phase == PhaseElecting && // it takes no writes with such data, and nobody else did
		(IsSite(v.o.Server.Rewound) || own > v.rec.Timeline && src.Position.Passed(own))
	return given || src.Position.TLI > max(v.rec.Timeline, v.newestTimeline())
}

// unsureOfSite reports whether the other site may take writes in the place of this one,
// as far as this member knows: it has not heard it since it started.
func (v *view) unsureOfSite() bool {
	if v.o.Policy.StandbyOf == "" || v.follower() || v.forced() || v.o.Source.HeardAt != 0 || v.witnessHeld() {
		return false
	}
	return v.o.Policy.ClosedAlone || !v.after(v.s.BegunAt, v.o.Policy.FailureTimeout)
}

func (v *view) siteBlock() Block {
	return Block{What: "this site takes no writes", Missing: "an answer of " + v.o.Policy.StandbyOf + ", which may take writes in its place",
		Override: failoverTo(v.o.Self), Cost: "if it does, both sites take writes, and one of them will lose them"}
}

// siteToFollow is what a cluster that is founded, or founded anew, follows: the other
// site, unless this member knows that this one took the writes, or its data say so. That
// it took them once says nothing where the other is heard to take them.
func (v *view) siteToFollow() string {
	src := &v.o.Source
	if v.standbyData() && v.sourceServes() && src.SystemID == v.o.Server.SystemID && src.Position.TLI >= v.newestTimeline() {
		return v.o.Policy.StandbyOf // its data are of the site that takes writes now
	}
	if v.o.Server.Epoch > 0 || v.present() && !v.standbyData() {
		return ""
	}
	return v.o.Policy.StandbyOf
}

// cloneSource asks for a copy of the other site's primary.
func cloneSource(why string) func(*turn) {
	return func(t *turn) {
		if problem := t.sourceProblem(); problem != "" {
			t.block(Block{What: "the data directory is not cloned", Missing: problem})
			return
		}
		if t.rested(Clone) {
			t.do(Action{Kind: Clone, From: t.rec.StandbyOf, Address: t.o.Source.Address, Term: t.rec.Term, Why: why})
		}
	}
}
