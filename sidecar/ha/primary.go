package ha

import (
	"cmp"
	"slices"
	"time"
)

// leaderRules are what the leader of the newest term does, phase by phase.
var leaderRules = [...]rule{
	{"leader-exit", func(v *view) bool { return v.shutdown() && v.stopped() && !v.lockMine() }, (*turn).stopAndExit, ends},
	{"found-leading", (*view).foundLeading, func(t *turn) { t.keepTag = true }, ends},
	{"restate-forced", func(v *view) bool {
		return v.putBack && v.forced() && v.rec.Phase != PhaseBootstrap && !v.confirmedSince()
	},
		func(t *turn) { t.ballot("Consul has lost the record, and nobody can say that it is the newest") }, ends},
	{"found-forced", func(v *view) bool {
		return v.putBack && v.forced() && v.rec.Phase == PhaseBootstrap && !v.confirmedSince() && v.foundsEmpty()
	}, (*turn).takeOver, ends},
	{"refound-forced", func(v *view) bool {
		return v.putBack && v.forced() && v.rec.Phase == PhaseBootstrap && !v.confirmedSince() && v.mayRefound()
	}, (*turn).refound, ends},
	{"restate-asks", func(v *view) bool {
		return v.putBack && !v.confirmedSince() && v.askedJustNow()
	}, blocked(func(v *view) Block {
		return Block{What: "Consul is not relied on", Missing: "the record of term " + itoa(v.rec.Term) + ", which Consul has lost; the members are asked whether a later term has begun"}
	}), goesOn},
	{"restate-unsure", func(v *view) bool {
		return v.putBack && !v.confirmedSince() && !v.askedJustNow()
	}, blocked(func(v *view) Block {
		return Block{What: "Consul is not relied on", Missing: "the record of term " + itoa(v.rec.Term) + ", which Consul has lost, and word from enough members that no later term has begun",
			Override: failoverTo(v.o.Self), Cost: "every commit that " + v.o.Self + " does not have"}
	}), goesOn},
	{"restate-contended", func(v *view) bool { return v.putBack && v.confirmedSince() && v.o.Consul.Record.contends(&v.rec) },
		func(t *turn) { t.ballot("Consul has lost this term's election, and has another of the same term") }, goesOn},
	{"restate", func(v *view) bool { return v.putBack && v.confirmedSince() && !v.o.Consul.Record.contends(&v.rec) }, (*turn).restate, goesOn},
	// Nothing is claimed by an election that may be over.
	{"electing-lost", func(v *view) bool { return v.putBack && v.rec.Phase == PhaseElecting && !v.follower() && !v.shutdown() },
		func(t *turn) { t.keepTag = true }, ends},
	{"lock-held-by-other", func(v *view) bool { return !v.putBack && !v.lockMine() && v.lockTaken() }, blocked(func(v *view) Block {
		return Block{What: "the leader lock is not held", Missing: v.o.Consul.Lock.Holder + " to lose it, as the record names " + v.o.Self + "; it is being taken back"}
	}), goesOn},
	// An earlier process of it has read more than Consul has, so another may have led since as well.
	{"reacquire-unheard", (*view).reacquiresUnheard, blocked((*view).reacquiresUnheardBlock), goesOn},
	{"reacquire", func(v *view) bool { return !v.putBack && !v.lockMine() && !v.reacquiresUnheard() }, (*turn).reacquire, goesOn},
	{"superseded", (*view).superseded, func(t *turn) { t.try(supersededRules[:]) }, ends},
	{"word-decides", (*view).wordDecides, func(t *turn) { t.try(supersededRules[:]) }, ends},
	{"unwitnessed", (*view).unwitnessed, func(t *turn) { t.try(unwitnessedRules[:]) }, ends},
	{"founding-standby-cluster", func(v *view) bool { return v.rec.Phase == PhaseBootstrap && v.follower() }, func(t *turn) { t.try(standbyFounderRules[:]) }, ends},
	{"founding", inPhase(PhaseBootstrap), func(t *turn) { t.try(founderRules[:]) }, ends},
	{"restoring", inPhase(PhaseRestoring), func(t *turn) { t.try(restoringRules[:]) }, ends},
	{"claim-lost-unheard", func(v *view) bool { return v.claimLost() && !v.halfSince(v.s.BegunAt) && !v.forced() }, blocked((*view).claimLostBlock), ends},
	{"claim-lost", (*view).claimLost, (*turn).restoreClaim, ends},
	{"voters-lost", (*view).votersLost, restoreVoters("Consul was put back to an earlier record of this term"), goesOn},
	{"voters-forgotten", func(v *view) bool { return v.lockMine() && v.votersForgotten() && !v.votersLost() },
		restoreVoters("the server does not wait for the voters on record"), goesOn},
	{"electing", inPhase(PhaseElecting), func(t *turn) { t.try(candidateRules[:]) }, ends},
	{"promoting", inPhase(PhasePromoting), func(t *turn) { t.try(promotionRules[:]) }, ends},
	{"leading-standby-cluster", func(v *view) bool { return v.rec.Phase == PhaseLeading && v.follower() }, func(t *turn) { t.try(standbyLeaderRules[:]) }, ends},
	{"leading", inPhase(PhaseLeading), func(t *turn) { t.try(reignRules[:]) }, ends},
}

func inPhase(p Phase) func(*view) bool { return func(v *view) bool { return v.rec.Phase == p } }

// lockTaken reports whether another member holds the leader lock.
func (v *view) lockTaken() bool {
	lock := &v.o.Consul.Lock
	return lock.Session != "" && lock.Holder != v.o.Self
}

// promotionRules are the leader's part from the claim until its server takes
// writes.
var promotionRules = [...]rule{
	{"promotion-lease", nil, (*turn).extendLease, goesOn},
	{"promotion-registration", func(v *view) bool { return v.standby() && v.o.Announced.Tag != "primary" }, func(t *turn) { t.keepTag = true }, goesOn},
	{"promoted-elsewhere", (*view).onUnclaimed, (*turn).stopElsewhere, ends},
	{"promotion-strayed", (*view).strayedInReign, func(t *turn) { t.try(straysInReignRules[:]) }, ends},
	{"promoted-start", func(v *view) bool { return v.stopped() && v.present() && v.o.Server.WasPrimary }, (*turn).startPrimary, ends},
	{"promotion-start", func(v *view) bool { return v.stopped() && v.present() }, (*turn).startStandby, ends},
	{"promotion-no-data", (*view).stopped, blocked(func(*view) Block {
		return Block{What: "this member is not promoted", Missing: "its data directory"}
	}), ends},
	{"promotion-pass", func(v *view) bool { return v.promotionFailed() && v.bestCandidate() != nil }, func(t *turn) {
		t.passLock(t.bestCandidate(), "the promotion of "+t.o.Self+" failed", nil)
	}, ends},
	// It is tried again, as nobody else can.
	{"promotion-failed", (*view).promotionFailed, blocked(func(v *view) Block {
		return Block{What: "this member is not promoted", Missing: "a promotion that succeeds, or another member that can lead: " + cmp.Or(v.o.Server.Problem, "the last one failed")}
	}), goesOn},
	// The claim may be another than the one that the setting was made for (S4).
	{"promotion-set-sync", func(v *view) bool { return v.standby() && v.o.Server.Settled && !v.covered() }, func(t *turn) {
		t.do(Action{Kind: SetSync, Sync: t.promotionSync(), Why: "the durability that was claimed, before the promotion"})
	}, ends},
	// It was promoted by this claim already, or by a later one, and Consul was put back to the claim:
	// its server is a standby by now, and who has led since is not known.
	{"promotion-over-unheard", func(v *view) bool { return v.promotedBefore() && v.hearsFew() && !v.forced() }, blocked((*view).unheardBlock), ends},
	{"promotion-over", (*view).promotedBefore, func(t *turn) {
		t.ballot("the timeline that was claimed has begun already, and Consul has lost what came of it")
	}, ends},
	// It stood still since the claim was sent: another may have led since, and Consul have lost that.
	{"promotion-unheard", func(v *view) bool {
		return v.standby() && v.foundElected() && v.votesDecideNothing() && v.hearsFew() && !v.forced()
	}, blocked((*view).unheardBlock), ends},
	{"promotion-unseen", func(v *view) bool { return v.unseen() && v.o.Server.LoginProblem != "" }, (*turn).sayLogin, ends},
	{"promote", func(v *view) bool {
		return v.standby() && v.o.Server.Settled && v.lockMine() && v.inTime && v.leased() && v.rested(Promote)
	}, func(t *turn) {
		t.do(Action{Kind: Promote, Term: t.rec.Term, Timeline: t.rec.Timeline, Why: "elected"})
	}, ends},
	{"promoted", (*view).primary, func(t *turn) { t.try(serveRules[:]) }, ends},
}

// promotionFailed reports whether the promotion of this term failed so often that
// another is to try.
func (v *view) promotionFailed() bool {
	sv := &v.o.Server
	if v.standby() && sv.Replayed != 0 && sv.Replayed < sv.Position.LSN && !v.after(max(v.s.PhaseAt, v.s.ReplayAt), replayTime) {
		return false // it replays what any other would have to replay as well
	}
	return v.standby() && v.gaveUp(Promote) && v.o.Busy.FailedAt > v.s.PhaseAt
}

func (t *turn) stopElsewhere() {
	t.s.StrayedTerm = t.rec.Term
	t.do(Action{Kind: Stop, Immediate: true, Why: "it is on timeline " + itoa(uint64(t.o.Server.Position.TLI)) +
		", which no term has claimed: was the server promoted by hand?"})
}

// strayedInReign reports whether this leader's log is none of this cluster's, as its server
// was run by hand since it was elected, or was seen on a timeline that no term has claimed:
// it leads nothing by itself.
func (v *view) strayedInReign() bool {
	if v.stopped() {
		return v.present() && (v.s.StrayedTerm == v.rec.Term || v.o.Server.Strayed != "")
	}
	return v.standby() && v.strayed() != "" && !v.forced()
}

// straysInReignRules give the lead of such a member to another, or to itself in a new term
// if a person says so.
var straysInReignRules = [...]rule{
	{"strays-forced", (*view).forced, func(t *turn) { t.ballot(t.o.Self + " leads with what it wrote outside of the cluster, as asked") }, ends},
	{"strays-pass", func(v *view) bool { return v.bestCandidate() != nil }, func(t *turn) {
		t.passLock(t.bestCandidate(), "the server of "+t.o.Self+" was run as a primary by hand", nil)
	}, ends},
	{"strays-alone", nil, blocked(func(v *view) Block {
		return Block{What: "the primary is not started", Missing: "another member that can lead: this one's server was run as a primary by hand, outside of its term",
			Override: failoverTo(v.o.Self), Cost: "every commit that " + v.o.Self + " does not have"}
	}), ends},
}

// reignRules are what the primary of the newest term does.
var reignRules = [...]rule{
	{"lease", nil, (*turn).extendLease, goesOn},
	{"crash-loop", func(v *view) bool { return v.rec.Crashes >= maxCrashes }, blocked((*view).crashLoopBlock), goesOn},
	{"reigns-elsewhere", (*view).onUnclaimed, (*turn).stopElsewhere, ends},
	// Until Consul has answered this is a primary like any other.
	// What it would replace may be a later term's, which Consul has lost.
	{"restore-asked-unheard", func(v *view) bool { return v.restoreAsked() && v.wokenUnheard() }, blocked((*view).restoreUnheardBlock), goesOn},
	{"restore-asked", func(v *view) bool { return v.restoreAsked() && !v.wokenUnheard() }, (*turn).beginRestore, goesOn},
	{"elect-anew", func(v *view) bool {
		return v.promisedLater() && (v.mayElectAnew() && !v.paused() && !v.torn() || v.forced())
	}, func(t *turn) {
		if t.forced() && t.primary() {
			t.s.ChosenTerm = t.next(t.o.Self, "").Term
		}
		t.ballot("members have promised term " + itoa(t.newestPromise()) + ", whose record Consul has lost")
	}, ends},
	{"promised-later", (*view).promisedLater, blocked((*view).promisedBlock), goesOn},
	{"reign-strayed", (*view).strayedInReign, func(t *turn) { t.try(straysInReignRules[:]) }, ends},
	{"primary-down", (*view).stopped, func(t *turn) { t.try(downRules[:]) }, ends},
	{"primary", (*view).primary, func(t *turn) { t.try(serveRules[:]) }, ends},
	{"primary-as-standby-alone", func(v *view) bool { return v.standby() && !v.paused() && v.stale() && !v.mayElectAnew() && !v.forced() },
		blocked((*view).promisedBlock), ends},
	{"primary-as-standby-unheard", func(v *view) bool {
		return v.standby() && !v.paused() && v.foundElected() && v.hearsFew() && !v.forced()
	}, blocked((*view).unheardBlock), ends},
	{"primary-unseen", (*view).unseen, func(t *turn) { t.try(unseenRules[:]) }, ends},
	{"primary-as-standby", func(v *view) bool { return v.standby() && !v.paused() },
		func(t *turn) { t.ballot(t.o.Self + " was restarted as a standby") }, ends},
}

// unseenRules are what a primary does whose server runs and has not answered since its
// start: nobody has seen it take writes, so nobody is worse off without it.
var unseenRules = [...]rule{
	{"unseen-exit", (*view).shutdown, func(t *turn) { t.do(Action{Kind: Stop, Why: "this member is asked to stop"}) }, ends},
	{"unseen-hands-over", func(v *view) bool {
		return v.serverHangs() || v.startsTooLong() || v.o.Server.SessionsUsed && v.leftByPerson()
	}, func(t *turn) {
		t.s.UnseenTerm = t.rec.Term
		t.do(Action{Kind: Stop, Immediate: true, Why: "another member can lead, and this one's server is not seen to take writes: " +
			cmp.Or(t.o.Server.LoginProblem, t.stillStarting())})
	}, ends},
	{"unseen-login", func(v *view) bool { return v.o.Server.LoginProblem != "" }, (*turn).sayLogin, ends},
}

// stillStarting says why a server that runs, and refuses no login, is not seen.
func (v *view) stillStarting() string {
	if v.o.Server.SessionsUsed {
		return "all its sessions were used, and it has not answered since"
	}
	return "it is still starting"
}

// startsTooLong reports whether a primary that was started in its place recovers for so
// long that another, which can lead at once, is to. A sidecar that has just begun, beside
// a server that runs, has not looked yet; and one whose sessions are all used has started.
func (v *view) startsTooLong() bool {
	sv, policy := &v.o.Server, &v.o.Policy
	return sv.StartedAt != 0 && !sv.SessionsUsed && policy.Automatic && !policy.Paused && v.after(max(sv.StartedAt, v.s.PhaseAt), startPatience*policy.FailureTimeout) && v.chosenSuccessor(false) != nil
}

// startPatience is how many failure time-outs a primary may take to start.
const startPatience = 5

// sayLogin says why nothing is known of a server that runs.
func (t *turn) sayLogin() {
	t.block(Block{What: "the server of " + t.o.Self + " is not looked at", Missing: "a login of pgsidecar: " + t.o.Server.LoginProblem})
}

// withdrawPause is how long a primary whose server is down leaves its tag as it
// is: a successor takes it away sooner, and does not wait for this one's agent.
const withdrawPause = 250 * time.Millisecond

// downRules decide, for a primary whose server is down, between handing over and
// starting it again.
var downRules = [...]rule{
	{"down-registration", func(v *view) bool { return v.o.Server.ExitedAt != 0 && !v.after(v.o.Server.ExitedAt, withdrawPause) },
		func(t *turn) { t.keepTag = true }, goesOn},
	{"down-busy", func(v *view) bool { return v.o.Busy.Server != NoAction }, nil, ends},
	{"down-no-data", func(v *view) bool { return !v.present() }, blocked(func(v *view) Block {
		return Block{What: "the primary is not started", Missing: "its data directory: " + v.o.Server.Problem}
	}), ends},
	{"site-release", func(v *view) bool { return v.o.Intent.ReleaseSite && v.final() != nil && v.o.Policy.StandbyOf != "" }, (*turn).releaseSite, ends},
	{"down-rests", (*view).restsAfterCrash, blocked((*view).restsBlock), ends},
	{"down-damped", func(v *view) bool { return v.s.Damped }, (*turn).startPrimary, ends},
	{"pass", func(v *view) bool { return v.isToPass() && v.passTarget() != nil && v.o.Consul.Reachable != No }, (*turn).handOver, ends},
	{"resign-without-consul", func(v *view) bool { return v.shutdown() && v.o.Consul.Reachable == No }, func(t *turn) {
		t.resign()
		t.stopAndExit() // the lock is not released; its session ends by itself
	}, ends},
	{"resign", (*view).shutdown, (*turn).resign, ends},
	// Its block stands already.
	{"down-promised-later", (*view).promisedLater, nil, ends},
	{"restart-paused", func(v *view) bool {
		return v.paused() && v.o.Server.ExitedAt != 0 && !v.o.Server.Asked && !v.o.Intent.Restart
	}, blocked(func(*view) Block {
		return Block{What: "the primary is not started", Missing: "the cluster is paused", Override: "pgsidecar resume", Cost: "it is started, or another member leads"}
	}), ends},
	{"restart-as-standby", func(v *view) bool { return !v.o.Server.WasPrimary }, (*turn).startStandby, ends},
	{"restart-primary", nil, (*turn).startPrimary, ends},
}

// isToPass reports whether a primary whose server is down is to hand over rather than
// start it again.
func (v *view) isToPass() bool {
	sv, intent := &v.o.Server, &v.o.Intent
	return intent.Shutdown || intent.Switchover ||
		sv.ExitedAt != 0 && (!intent.Restart || v.gaveUp(Start) || v.s.UnseenTerm == v.rec.Term) && !v.paused() && v.o.Policy.Automatic
}

// final is the last position of a server that was stopped cleanly as primary.
func (v *view) final() *Final {
	if sv := &v.o.Server; sv.CleanStop && sv.Position.Known() {
		return &Final{Member: v.o.Self, Position: sv.Position}
	}
	return nil
}

// passTarget is who gets the lock of a primary whose server is down, if somebody
// can win the election.
func (v *view) passTarget() *Peer { return v.chosenSuccessor(v.final() != nil) }

// handOver passes the lock on.
func (t *turn) handOver() {
	why := "the server of " + t.o.Self + " is down"
	if t.agentGone() {
		why = t.strandedWhy()
	}
	if t.o.Intent.Switchover || t.o.Intent.Shutdown {
		why = t.o.Self + " hands over as asked"
	}
	t.passLock(t.passTarget(), why, t.final())
}

// chosenSuccessor is the member that gets the lock: the one asked for, else the best.
// Without a final position it must also have the votes in sight that it needs,
// for a lock passed to one that cannot win only costs time.
func (v *view) chosenSuccessor(final bool) *Peer {
	if t := v.o.Intent.Target; t != "" && v.o.Intent.Switchover {
		if p := v.peer(t); v.fresh(p) && p.Link == LinkUp && p.Report.Eligible && p.Report.Session != "" && slices.Contains(v.rec.Members, t) && !v.rec.replaced(p.Report.Position) {
			return p
		}
	}
	heir := v.bestCandidate()
	if heir == nil || final || v.rec.Durability.Mode == ModeAsync {
		return heir
	}
	dur, votes := &v.rec.Durability, 0
	if dur.K == 0 {
		return nil
	}
	for _, voter := range dur.Voters {
		if p := v.peer(voter); v.fresh(p) && p.Link == LinkUp && p.Report.Role != RoleStopped {
			votes++
		}
	}
	if votes < dur.VotesNeeded() {
		return nil
	}
	return heir
}

// resign records the final position of a primary that stops with nobody to hand
// over to, and releases the lock.
func (t *turn) resign() {
	r := t.rec
	r.Final = t.final()
	t.commit(Change{What: "rest", Record: r, Lock: LockRelease, Session: t.o.Consul.Session}, "stopped as asked, with nobody to hand over to")
}

// startPrimaryRules start the server of the term's own primary in place, within a
// lease, and with clients kept out until what it recovered is safe (S9).
var startPrimaryRules = [...]rule{
	{"start-without-lease", func(v *view) bool { return !v.lockMine() || v.s.LeaseUntil == 0 || !v.leased() || !v.inTime }, blocked(func(*view) Block {
		return Block{What: "the primary is not started", Missing: "the leader lock, confirmed by Consul or by the members"}
	}), ends},
	{"start-unsure-of-site", (*view).unsureOfSite, blocked((*view).siteBlock), ends},
	{"start-unread-settings", (*view).unreadSettings, blocked(settingsBlock), ends},
	{"start-resume", func(v *view) bool { return v.rec.Final != nil }, (*turn).resume, ends},
	{"start-primary", func(v *view) bool { return v.rested(Start) }, func(t *turn) {
		t.do(Action{Kind: Start, Primary: true, Hidden: true, Term: t.rec.Term, Sync: t.promotionSync(), Why: t.startWords()})
	}, ends},
}

func (v *view) unreadSettings() bool { return v.o.SettingsUnread }

// settingsBlock: what is not known yet is not "none".
func settingsBlock(*view) Block {
	return Block{What: "the server is not started", Missing: "the cluster's settings: Consul has not answered with them yet, or they are no JSON; this member has no copy of them"}
}

func (t *turn) startPrimary() { t.try(startPrimaryRules[:]) }

func (v *view) startWords() string {
	switch v.rec.Phase {
	case PhaseBootstrap:
		return "found the cluster"
	case PhaseRestoring:
		return "recover the restored data"
	case PhasePromoting:
		return "the promotion was completed before the server stopped"
	default:
		return "start the primary in place"
	}
}

// resume takes the final position out of the record.
func (t *turn) resume() {
	r := t.rec
	r.Final = nil
	t.commit(Change{What: "resume", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "the stopped primary starts again")
}

// serveRules are what a running primary does in its own term.
var serveRules = [...]rule{
	// So it is while the server is being stopped, too.
	{"durability-relaxed", func(v *view) bool {
		return v.o.Server.Relaxed != "" && (v.o.Policy.Mode == ModeQuorum || v.rec.Durability.Mode == ModeQuorum)
	}, blocked(func(v *view) Block {
		return Block{What: "commits are acknowledged before a standby has them", Missing: "settings that wait: " + v.o.Server.Relaxed,
			Cost: "a failover, or a crash, may lose acknowledged commits"}
	}), goesOn},
	{"lease-ends", func(v *view) bool { return !v.inTime }, func(t *turn) {
		t.block(Block{What: "the primary does not serve", Missing: t.confirmationMissing()})
		t.do(Action{Kind: Stop, Immediate: true, Why: "the lease ends without a confirmation"})
	}, ends},
	{"stop-hangs", func(v *view) bool { return v.o.hangs() }, blocked(func(v *view) Block {
		return Block{What: "the primary does not stop", Missing: "the end of its processes: the disk of its data directory may hang. Another member may lead meanwhile"}
	}), ends},
	{"server-hangs", (*view).serverHangs, func(t *turn) {
		t.do(Action{Kind: Stop, Immediate: true, Why: cmp.Or(t.o.Server.LoginProblem, "the server has stopped answering")})
	}, ends},
	{"login-refused", func(v *view) bool { return v.o.Server.LoginProblem != "" }, (*turn).sayLogin, goesOn},
	{"server-silent", func(v *view) bool { return v.silentLong() && v.o.Server.LoginProblem == "" }, blocked((*view).silentBlock), goesOn},
	// A rest of this member's, that was under way when the server was started, has
	// been done since: nothing may be acknowledged beyond what it stands for (S3).
	{"final-is-stale", func(v *view) bool { return v.rec.Final != nil && v.lockMine() }, (*turn).resume, ends},
	{"recovery-hidden", func(v *view) bool { return v.mayReveal() && !v.recoverySafe() }, blocked((*view).hiddenBlock), goesOn},
	{"reveal", func(v *view) bool { return v.mayReveal() && (v.recoverySafe() || v.forced()) },
		func(t *turn) { t.do(Action{Kind: Unhide, Why: "what the server recovered is safe"}) }, goesOn},
	{"promotion-leads", func(v *view) bool {
		return v.rec.Phase == PhasePromoting && (v.o.Server.Writable == Yes || v.ledAlready())
	}, (*turn).leads, ends},
	{"promotion-no-writes", func(v *view) bool {
		return v.rec.Phase == PhasePromoting && v.o.Server.Writable == No && v.after(v.s.PhaseAt, v.o.Policy.FailureTimeout)
	}, blocked((*view).noWritesBlock), goesOn},
	{"promotion-not-writable", inPhase(PhasePromoting), nil, ends},
	{"register-primary", func(v *view) bool { return v.o.Server.Writable != No && !v.o.Server.Hidden },
		func(t *turn) { t.tag, t.evict = "primary", t.others() }, goesOn},
	{"no-writes", func(v *view) bool { return v.o.Server.Writable == No }, blocked((*view).noWritesBlock), goesOn},
	{"both-sites", (*view).bothSites, blocked((*view).bothSitesBlock), goesOn},
	{"machine-fault", (*view).machineFault, func(t *turn) {
		sv := &t.o.Server
		t.do(Action{Kind: Stop, Immediate: sv.WritesHang, Why: "it takes no writes, and another member can: " + sv.WriteProblem})
	}, ends},
	{"port-silent", (*view).portSilent, func(t *turn) {
		t.do(Action{Kind: Stop, Immediate: true, Why: "nothing answers at its server's port, from " + joined(t.waiting()) + ", and another member can lead"})
	}, ends},
	{"port-unreached", (*view).unreached, blocked((*view).unreachedBlock), goesOn},
	{"claim-record", (*view).claimToRecord, (*turn).recordClaim, goesOn},
	{"lease-record", (*view).leaseToRecord, (*turn).recordLease, goesOn},
	{"steady", (*view).steady, (*turn).recordSteady, goesOn},
	{"diverged-members", func(v *view) bool {
		return v.lockMine() && (len(v.newlyDiverged()) > 0 || slices.ContainsFunc(v.rec.Diverged, v.renewed))
	}, (*turn).listDiverged, goesOn},
	{"hand-over", (*view).handoverDue, func(t *turn) { t.try(handoverRules[:]) }, goesOn},
	{"handing-over", func(v *view) bool { return v.leaves }, nil, ends},
	{"admit", func(v *view) bool { return len(v.newMembers()) > 0 }, (*turn).admit, goesOn},
	{"dismiss-refused", func(v *view) bool { return v.dismissAsked() && v.indispensable(v.o.Intent.Remove) != "" },
		func(t *turn) { t.s.Refused = t.indispensable(t.o.Intent.Remove) }, goesOn},
	{"dismiss", func(v *view) bool {
		return v.dismissAsked() && v.indispensable(v.o.Intent.Remove) == "" && v.lockMine()
	}, (*turn).dismiss, goesOn},
	{"durability", nil, func(t *turn) { t.try(durabilityRules[:]) }, goesOn},
	{"checkpoint", func(v *view) bool { return !v.o.Server.Checkpointed && v.after(v.s.PhaseAt, checkpointPause) },
		func(t *turn) {
			t.do(Action{Kind: Checkpoint, Why: "pg_rewind from this server needs one on the new timeline"})
		}, ends},
}

// leads records that the promoted server takes writes.
func (t *turn) leads() {
	t.tag, t.evict = "primary", t.others()
	r := t.rec
	r.Phase, r.Given = PhaseLeading, nil
	r.Claims = t.claimsAsBegun()
	if t.claimForgotten() {
		r.Timeline = t.o.Server.Position.TLI
		r.Claims = []Claim{{TLI: r.Timeline, Term: r.Term}}
	}
	if t.promotedAsVoted() {
		r.Durability = t.narrowedByVotes(t.o.Server.Sync, t.o.Server.Position.origin())
	}
	t.commit(Change{What: "lead", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "the server takes writes")
}

// promotedAsVoted reports whether the server is still the one that voted: nothing is
// in its log that was not acknowledged under the setting of the promotion. One that
// was restarted since may have recovered commits that nobody else has (S9).
func (v *view) promotedAsVoted() bool {
	sv := &v.o.Server
	return v.s.VotedTerm == v.rec.Term && sv.StartedAt != 0 && sv.StartedAt < v.s.VotedAt &&
		sv.Position.TLI == v.rec.Timeline && !sv.SyncUnsure && sameSync(sv.Sync, v.promotionSync())
}

// checkpointPause is how long a new primary leaves disk and processor to the
// clients that come back, before it makes the checkpoint for pg_rewind.
const checkpointPause = 500 * time.Millisecond

// covered reports whether the setting with which the server was started asks for
// no fewer of the recorded voters than the record: the record may have been
// narrowed by a transaction whose outcome this member did not know then (S4).
func (v *view) covered() bool {
	dur, sv := &v.rec.Durability, &v.o.Server
	return dur.Mode == ModeAsync || dur.K == 0 || !sv.SyncUnsure && Covers(sv.Sync, v.o.Self, *dur)
}

// mayReveal reports whether clients are kept out, and only for what the server recovered.
func (v *view) mayReveal() bool {
	// In async mode it needs no flush of the others, and may hear at once who has led since.
	woken := v.rec.Durability.Mode == ModeAsync && v.wokenUnheard()
	return v.o.Server.Hidden && !v.inDoubt() && v.covered() && !woken
}

// votersToFlush is how many voters besides this member must hold what it recovered.
func (v *view) votersToFlush() int {
	dur := &v.rec.Durability
	need := dur.K
	if dur.Has(v.o.Self) {
		need--
	}
	if dur.Mode == ModeAsync {
		return 0
	}
	return max(0, need)
}

// recoverySafe reports whether the voters have flushed all that this server
// recovered: only then may clients see it (S9).
func (v *view) recoverySafe() bool {
	need, end := v.votersToFlush(), v.o.Server.RecoveryEnd
	return need == 0 || end != 0 && v.flushed(v.rec.Durability.Voters, end) >= need
}

func (v *view) hiddenBlock() Block {
	return Block{What: "clients are kept out of the restarted primary", Missing: itoa(uint64(v.votersToFlush())) +
		" of its voters to have flushed what it recovered (" + v.o.Server.RecoveryEnd.String() + ")",
		Override: failoverTo(v.o.Self), Cost: "commits that clients see may be lost by the next failover"}
}
