package ha

import (
	"cmp"
	"slices"
	"time"
)

// memberRules are what a member does that does not lead the newest term.
var memberRules = [...]rule{
	{"deposed", func(v *view) bool {
		sv := &v.o.Server
		return v.running() && (v.primary() || sv.InRecovery == Unknown && sv.WasPrimary)
	}, func(t *turn) {
		t.do(Action{Kind: Stop, Immediate: true, Why: "deposed: " + cmp.Or(t.seen.Leader, "nobody") + " leads a later term"})
	}, ends},
	{"handed-over", func(v *view) bool { return v.shutdown() && v.handingOver() }, nil, ends},
	{"member-exit", (*view).shutdown, (*turn).stopAndExit, ends},
	{"consul-put-back", func(v *view) bool {
		return v.recordLost() && v.after(max(v.s.PhaseAt, v.s.PutBackAt, v.s.LaterAt), v.o.Policy.FailureTimeout)
	}, blocked(func(v *view) Block {
		return Block{What: "no leader is elected", Missing: "the record of term " + itoa(v.seen.Term) + ", which members have seen, and Consul has lost: was it restored from a snapshot? " +
			v.whoRestates(), Override: failoverTo(v.hasMost()),
			Cost: "every commit that " + v.hasMost() + " does not have"}
	}), goesOn},
	{"beside-restore", (*view).besideRestore, func(t *turn) { t.try(besideRules[:]) }, ends},
	{"bootstrap-take-over", func(v *view) bool { return v.rec.Phase == PhaseBootstrap }, func(t *turn) { t.try(takeOverRules[:]) }, ends},
	{"discard-half-made", (*view).halfMade, discard("an unfinished copy or rewind was found"), ends},
	{"clone-absent", (*view).absent, clone("there is no data directory yet"), ends},
	{"standby-disarm", func(v *view) bool { return v.stopped() && v.armed() }, disarm("a standby needs no lease"), ends},
	// Crash recovery now would only take the disk from the election, and so would
	// a change of the registration: the successor takes the tag away.
	{"start-later", func(v *view) bool { return v.stopped() && v.o.Server.ExitedAt != 0 && !v.leaderSettled() },
		func(t *turn) { t.keepTag = true }, ends},
	// Servers that followed it before, and whose sidecars stand still, would be sent its log.
	{"standby-strayed", func(v *view) bool { return v.stopped() && v.o.Server.Strayed != "" && !v.forced() },
		func(t *turn) { t.try(strayedRules[:]) }, ends},
	{"standby-start", (*view).stopped, (*turn).startStandby, ends},
	{"standby-armed", (*view).armed, stopNow("it may have been told to promote in a term that is over"), ends},
	{"standby", (*view).standby, func(t *turn) { t.try(standbyRules[:]) }, ends},
	{"starved", func(v *view) bool { return v.o.Server.Starved && v.o.Server.Rewound == "" }, func(t *turn) { t.try(starvedRules[:]) }, ends},
	{"standby-unseen", func(v *view) bool { return v.unseen() && v.o.Server.LoginProblem != "" }, (*turn).sayLogin, goesOn},
	{"rewound-in-vain", func(v *view) bool {
		return v.o.Server.Rewound != "" && v.leaderPeer() != nil && v.seen.Leader != v.o.Server.Rewound
	}, clone("another member leads since the rewind"), ends},
	// That one leads, and has another site's data now, or those of a backup; or another led since, by
	// whose log it may have been rewound itself.
	{"rewound-replaced", func(v *view) bool {
		sv := &v.o.Server
		since := sv.RewoundTerm != 0 && sv.RewoundTerm < v.seen.Term && v.rec.Origin != (Origin{Term: sv.RewoundTerm, Leader: sv.Rewound})
		return (v.follower() || v.rec.Restored != "" || since) && sv.Rewound != "" && sv.Starved && v.leaderPeer() != nil && v.after(sv.StartedAt, startPatience*v.o.Policy.FailureTimeout)
	}, clone("the log that it needs since the rewind does not come, and may be no more"), ends},
	{"rewound-reinit", func(v *view) bool { return v.unseen() && v.o.Server.Rewound != "" && v.o.Intent.Reinit }, clone("a new clone was requested"), ends},
	{"rewound-waits", func(v *view) bool {
		return v.unseen() && v.o.Server.Rewound != "" && v.o.Server.Starved && v.leaderPeer() != nil && v.after(v.o.Server.StartedAt, startPatience*v.o.Policy.FailureTimeout)
	}, blocked(func(v *view) Block {
		return Block{What: "the rewound server takes no connections yet", Missing: "the log of " + v.o.Server.Rewound + " that it needs since the rewind; " +
			cmp.Or(v.o.Server.StreamProblem, "postgresql.log in postgres.state_dir says why it does not come"),
			Override: "pgsidecar reinit " + v.o.Self, Cost: "this member's data directory is cloned anew"}
	}), ends},
}

// recordLost reports whether Consul has an earlier record than members have seen, and was
// asked since they did.
func (v *view) recordLost() bool {
	return v.putBack || v.s.LaterAt != 0 && v.o.Consul.SeenAt > v.s.LaterAt
}

// starvedRules replace a standby whose own log is damaged or missing, so that it never
// gets as far as taking connections and being told whom to follow.
var starvedRules = [...]rule{
	{"starved-voter", func(v *view) bool { return v.rec.Durability.Has(v.o.Self) && v.leaderPeer() != nil },
		spare("the data directory, whose log is damaged, is not cloned anew"), ends},
	{"starved-clone", nil, clone("the server waits for log that it has not got"), ends},
}

// spareRules wait until the leader does without this member's copy. Only a strict one
// may never do so.
var spareRules = [...]rule{
	// There is nobody to do without it, nor to clone it from: the request came too early.
	{"voter-spared-alone", func(v *view) bool { return v.o.Intent.Reinit && v.leaderPeer() == nil }, func(t *turn) {
		b := t.sparedBlock()
		b.Override, b.Cost = failoverTo(t.o.Self), "every commit that "+t.o.Self+" does not have"
		t.block(b)
	}, ends},
	{"voter-spared-strict", func(v *view) bool { return v.o.Policy.Strict }, func(t *turn) {
		b := t.sparedBlock()
		b.Override = "pgsidecar settings set durability.strict=false"
		b.Cost = "until the clone is done only the primary has the newest commits"
		t.block(b)
	}, ends},
	{"voter-spared", nil, func(t *turn) { t.block(t.sparedBlock()) }, ends},
}

func (t *turn) sparedBlock() Block {
	return Block{What: t.why, Missing: t.seen.Leader + " to do without this member's copy of the last commits"}
}

func spare(what string) func(*turn) {
	return func(t *turn) {
		t.why = what
		t.try(spareRules[:])
	}
}

// settleTime is how long after a new leader took writes the others have to
// follow it before a server that was stopped is started beside them.
const settleTime = 250 * time.Millisecond

// handingOver reports whether this member led the term before, has stopped cleanly,
// and its successor takes no writes yet. A supervisor starts a member again when
// its process has ended, on the same machine and at once: until the successor
// serves, that would only take processor and disk from it.
func (v *view) handingOver() bool {
	sv, from := &v.o.Server, &v.rec.Origin
	return from.Leader == v.o.Self && from.Term+1 == v.rec.Term && v.stopped() && sv.CleanStop && !v.leaderSettled()
}

// leaderSettled reports whether the newest term has its primary; it is not waited
// for longer than the failure time-out, nor at all if the member that is to be it is
// gone, as this one's vote, or this one itself, may be needed.
func (v *view) leaderSettled() bool {
	if p := v.peer(v.seen.Leader); p != nil && p.Link == LinkRefused {
		return true
	}
	if v.seen.Phase == PhaseLeading {
		return v.after(v.s.PhaseAt, settleTime)
	}
	return v.after(v.s.PhaseAt, v.o.Policy.FailureTimeout/2)
}

// startStandbyRules start the server as a standby that receives nothing yet.
var startStandbyRules = [...]rule{
	{"start-paused", func(v *view) bool {
		return v.paused() && v.o.Server.ExitedAt != 0 && !v.o.Server.Asked && !v.o.Intent.Restart
	}, blocked(func(*view) Block {
		return Block{What: "the server is not started", Missing: "the cluster is paused", Override: "pgsidecar resume", Cost: "it is started"}
	}), ends},
	{"standby-unread-settings", (*view).unreadSettings, blocked(settingsBlock), ends},
	// Data is given up only if it is damaged (a port in use passes), and not
	// without a leader: this member's vote may be needed.
	{"start-damaged", func(v *view) bool { return v.gaveUp(Start) && v.o.Busy.Damaged && v.leaderPeer() != nil },
		clone("the server does not start as a standby"), ends},
	{"start-rewound", func(v *view) bool { return v.o.Server.Rewound != "" }, func(t *turn) { t.try(startRewoundRules[:]) }, ends},
	{"start-standby", func(v *view) bool { return v.rested(Start) },
		func(t *turn) { t.do(Action{Kind: Start, Why: "start as a standby"}) }, ends},
}

func (t *turn) startStandby() { t.try(startStandbyRules[:]) }

// startRewoundRules start a server that was rewound: it must receive from the source
// of the rewind before it takes connections, so it cannot be asked anything
// before. If another leads by now, it may never get what it needs.
var startRewoundRules = [...]rule{
	{"rewound-no-primary", func(v *view) bool { return v.leaderPeer() == nil }, blocked(func(v *view) Block {
		return Block{What: "the rewound server is not started", Missing: "a primary that answers, of " + cmp.Or(v.seen.Leader, "any member")}
	}), ends},
	{"rewound-other-leader", func(v *view) bool { return v.leaderPeer().Member != v.o.Server.Rewound }, clone("another member leads since the rewind"), ends},
	{"rewound-start", func(v *view) bool { return v.o.Server.Promise <= v.seen.Term && v.rested(Start) }, func(t *turn) {
		p := t.leaderPeer()
		t.do(Action{Kind: Start, Term: t.seen.Term, From: p.Member, Address: p.Report.Postgres, Why: "start as a standby of the source of the rewind"})
	}, ends},
}

// cloneRules ask for a copy of the leader's data directory, as soon as there is a
// leader whose server takes writes.
var cloneRules = [...]rule{
	{"clone-no-primary", func(v *view) bool { return v.leaderPeer() == nil }, blocked(func(v *view) Block {
		b := Block{What: "the data directory is not cloned", Missing: "a primary that answers, of " + cmp.Or(v.seen.Leader, "any member")}
		if v.o.Intent.Reinit && v.standby() { // nobody else may be left that can lead
			b.Override, b.Cost = failoverTo(v.o.Self), "every commit that "+v.o.Self+" does not have"
		}
		return b
	}), ends},
	{"clone", func(v *view) bool { return v.rested(Clone) }, func(t *turn) {
		p := t.leaderPeer()
		t.do(Action{Kind: Clone, From: p.Member, Address: p.Report.Postgres, Term: t.seen.Term, Why: t.why})
	}, ends},
}

func clone(why string) func(*turn) {
	return func(t *turn) {
		t.why = why
		t.try(cloneRules[:])
	}
}

// standbyRules are what a running standby does: it fences for every new term, then
// follows that term's leader; and it stands in the election if there is none.
var standbyRules = [...]rule{
	{"fence-delayed", func(v *view) bool {
		return v.o.Server.Promise < v.seen.Term && v.o.Server.Delayed > 0 && v.o.Busy.FailedKind == Fence
	}, blocked((*view).delayedBlock), goesOn},
	{"fence", func(v *view) bool { return v.o.Server.Promise < v.seen.Term }, (*turn).fenceForTerm, ends},
	{"promised-more", func(v *view) bool { return v.o.Server.Promise > v.seen.Term && !v.forced() }, blocked(func(v *view) Block {
		return Block{What: "no leader is followed", Missing: "Consul's record of term " + itoa(v.o.Server.Promise) + ", which this member has promised",
			Override: failoverTo(v.o.Self), Cost: "every commit that " + v.o.Self + " does not have"}
	}), ends},
	{"fence-again", func(v *view) bool { return v.seen.Phase == PhaseElecting && v.o.Server.halfFenced() }, func(t *turn) {
		t.do(Action{Kind: Fence, Term: t.seen.Term, Why: "its vote, which was promised and not given"})
	}, ends},
	// A start makes it anew; what is not answered after that is another fault.
	{"socket-gone", func(v *view) bool {
		sv := &v.o.Server
		return sv.LoginProblem != "" && !sv.LoginRefused && !v.paused() && v.after(sv.FailingSince, v.o.Policy.FailureTimeout)
	}, func(t *turn) { t.do(Action{Kind: Stop, Why: t.o.Server.LoginProblem}) }, ends},
	{"standby-login", func(v *view) bool { return v.o.Server.LoginProblem != "" }, (*turn).sayLogin, goesOn},
	{"restart-standby", func(v *view) bool { return v.o.Intent.Restart },
		func(t *turn) { t.do(Action{Kind: Stop, Why: "a restart was requested"}) }, ends},
	{"reinit", func(v *view) bool { return v.o.Intent.Reinit && !v.rec.Durability.Has(v.o.Self) && !v.forced() }, clone("a new clone was requested"), ends},
	{"reinit-voter", func(v *view) bool { return v.o.Intent.Reinit }, spare("the data directory is not cloned anew"), goesOn},
	{"strayed", func(v *view) bool { return v.strayed() != "" }, func(t *turn) { t.try(strayedRules[:]) }, goesOn},
	{"join", func(v *view) bool { return v.strayed() == "" && !v.follows() }, func(t *turn) { t.try(joinRules[:]) }, goesOn},
	{"follow-leader", func(v *view) bool { return v.strayed() == "" && v.follows() }, func(t *turn) { t.try(followRules[:]) }, goesOn},
	// Between two leaders a replica still answers reads.
	{"keep-replica", (*view).replicaForNow, func(t *turn) { t.keepTag = true }, goesOn},
	{"stand", nil, func(t *turn) { t.try(standRules[:]) }, ends},
}

// fenceForTerm promises a term that has just become known.
func (t *turn) fenceForTerm() {
	t.keepTag = t.o.Announced.Tag == "replica" // between two leaders a replica still answers reads
	a := Action{Kind: Fence, Term: t.seen.Term, Why: "a new term has begun"}
	if t.seen.Leader == t.o.Self {
		a.Sync = t.promotionSync() // the lock was passed to this member: be quick
	}
	t.do(a)
}

// follows reports whether the server is told to stream from whom it should.
func (v *view) follows() bool {
	sv := &v.o.Server
	return sv.Upstream != "" && !sv.Fenced && sv.Upstream == v.upstream(v.peer(v.seen.Leader)).Member
}

func (v *view) replicaForNow() bool {
	return v.keepTag || v.tag == "" && v.o.Announced.Tag == "replica" && !v.after(v.s.PhaseAt, v.o.Policy.FailureTimeout)
}

// followRules watch a standby that follows the newest term's leader.
var followRules = [...]rule{
	// Whom it follows is elsewhere now: the address changed within the term.
	{"upstream-moved", func(v *view) bool { return v.upstreamMoved() && v.rested(Follow) }, func(t *turn) {
		t.keepTag = true
		t.follow()
	}, ends},
	{"follow-delayed", func(v *view) bool { return v.standsStill() && v.o.Server.Delayed > 0 }, blocked((*view).delayedBlock), ends},
	{"stands-still", (*view).standsStill, blocked(func(v *view) Block {
		sv := &v.o.Server
		why := "postgresql.log in postgres.state_dir says why it does not come"
		if sv.StreamProblem != "" {
			why = "PostgreSQL says: " + sv.StreamProblem
		}
		return Block{What: "this standby comes no further than " + sv.Position.String(), Missing: "what " + sv.Upstream + " has beyond; " + why,
			Override: "pgsidecar reinit " + v.o.Self, Cost: "this member's data directory is cloned anew"}
	}), ends},
	{"replica", func(v *view) bool { return v.o.Server.Receiving == Yes }, func(t *turn) { t.tag = "replica" }, ends},
	// What it follows with may end inside a record, which holds nothing (joinRules).
	{"diverged", func(v *view) bool { return v.divergedFromLeader() && v.rested(Fence) }, func(t *turn) {
		t.do(Action{Kind: Fence, Term: t.seen.Term, Why: "find out whether the server has what " + t.seen.Leader + " does not"})
	}, ends},
}

// upstream is whom this standby streams from: the leader, or the replica that
// its tag names, while that one streams from the leader itself (so there are
// neither rings nor chains).
func (v *view) upstream(leader *Peer) Peer {
	p := v.peer(v.o.Policy.ReplicateFrom)
	if p != nil && v.fresh(p) && p.Link == LinkUp && p.Report.Term == v.seen.Term && p.Report.Streaming && p.Report.Leader == v.seen.Leader {
		return *p
	}
	if leader == nil {
		return Peer{Member: v.seen.Leader}
	}
	return *leader
}

// upstreamMoved reports whether whom this standby follows is heard from another address
// than the server has for it.
func (v *view) upstreamMoved() bool {
	at, leader := v.o.Server.UpstreamAt, v.peer(v.seen.Leader)
	if at == "" || v.leaderUnheard() || v.seen.Phase != PhaseLeading {
		return false
	}
	up := v.upstream(leader)
	return v.fresh(&up) && up.Report.Term == v.seen.Term && up.Report.Postgres != "" && up.Report.Postgres != at
}

// divergedFromLeader reports whether a standby that follows the leader, and receives
// nothing from it, has what that one has not.
func (v *view) divergedFromLeader() bool {
	p, own := v.leaderPeer(), &v.o.Server.Position
	return p != nil && p.Report.Position.Known() && own.Known() && v.s.Partial != own.LSN &&
		!p.Report.Position.Contains(*own) && p.Report.Position.TLI != own.TLI
}

// delayedBlock says of a standby that follows late on purpose why it streams nothing meanwhile.
// It is no reason to clone it: people want its older copy.
func (v *view) delayedBlock() Block {
	return Block{What: "this standby does not stream from " + cmp.Or(v.seen.Leader, "the leader") + " yet",
		Missing: "the replay of the log that it has, which recovery_min_apply_delay (" + v.o.Server.Delayed.String() + ") holds back; it streams by itself after that"}
}

// standstillTime is how long a standby that streams may lack what the leader has,
// and come no further, before that is said: its walreceiver is refused, again and
// again, and is seen to stream for a moment each time.
const standstillTime = 10 * time.Second

// heardLately reports whether the peer was heard in the time in which a standstill shows, also
// where this member's failure time-out is shorter than the others send reports.
func (v *view) heardLately(p *Peer) bool {
	return p != nil && p.ReceivedAt != 0 && p.Link != LinkRefused && v.o.Now <= p.ReceivedAt.Add(max(standstillTime, v.o.Policy.FailureTimeout))
}

// standsStill reports whether this standby has come no further for that long.
func (v *view) standsStill() bool {
	p, own := v.peer(v.seen.Leader), v.o.Server.Position
	return v.seen.Phase == PhaseLeading && v.heardLately(p) && p.Report.leads() && p.Report.Term == v.seen.Term && (p.Report.Position.Contains(own) || v.s.Partial == own.LSN) && !own.Contains(p.Report.Position) && v.after(v.s.AdvancedAt, standstillTime)
}

// joinRules make the server follow the newest term's leader, once that is known to
// contain what the server has (S7).
var joinRules = [...]rule{
	{"join-unheard", (*view).leaderUnheard, nil, ends},
	{"join-no-leader", func(v *view) bool { return v.seen.Phase != PhaseLeading && v.seen.Phase != PhasePromoting }, nil, ends},
	// PostgreSQL asks for more log when it has replayed its own, which takes as long as its delay.
	{"join-delayed", func(v *view) bool { return v.unsettled() && v.o.Server.Upstream == "" && v.o.Server.Delayed > 0 }, blocked((*view).delayedBlock), ends},
	{"join-fence", func(v *view) bool {
		return v.unsettled() && (v.o.Server.Upstream != "" || v.after(v.s.AdvancedAt, standstillTime)) && v.rested(Fence)
	}, func(t *turn) {
		t.do(Action{Kind: Fence, Term: t.seen.Term, Why: "find out what the server has before it follows another leader"})
	}, ends},
	{"join-unsettled", (*view).unsettled, nil, ends},
	// By the numbers its log may continue this member's own, and does not. (A primary's does: its
	// term has claimed the timeline, also where a person promoted it.)
	{"join-strayed", func(v *view) bool {
		p := v.peer(v.seen.Leader)
		return !p.Report.leads() && v.strays(p) || v.leadsElsewhere(p)
	}, nil, ends},
	// Its log may end inside a record, before which the leader's timeline begins.
	{"join-follow", func(v *view) bool { return v.peer(v.seen.Leader).Report.Position.Contains(v.o.Server.whole()) }, (*turn).follow, ends},
	// A candidate that lacks what this member has will not promote.
	{"join-wait-for-candidate", func(v *view) bool { return v.seen.Phase != PhaseLeading || !v.peer(v.seen.Leader).Report.leads() }, nil, ends},
	// The leader went on from the same log, so it has more than its last report says.
	{"join-same-timeline", func(v *view) bool { return v.peer(v.seen.Leader).Report.Position.TLI == v.o.Server.Position.TLI }, nil, ends},
	{"join-diverged", nil, (*turn).rejoin, ends},
}

func (v *view) leaderUnheard() bool {
	p := v.peer(v.seen.Leader)
	return p == nil || !v.fresh(p) || p.Report.Term != v.seen.Term || !p.Report.Position.Known()
}

// unsettled reports whether it is not known what the server has.
func (v *view) unsettled() bool { return !v.o.Server.Settled || !v.o.Server.Position.Known() }

// follow points the server at its upstream.
func (t *turn) follow() {
	p := t.peer(t.seen.Leader)
	up, why := t.upstream(p), "follow the leader of the term"
	if up.Member != p.Member {
		why = "follow a replica of the leader, as replicatefrom asks"
	}
	if own := &t.o.Server; own.whole().LSN != own.Position.LSN {
		t.s.Partial = own.Position.LSN // the leader may begin its timeline before that, also later
	}
	t.do(Action{Kind: Follow, Term: t.seen.Term, From: up.Member, Address: up.Report.Postgres, Position: t.lineOf(p), Why: why})
}

// lineOf is where the leader's log goes: of one that is about to be promoted, onto the timeline
// that its term has claimed.
func (v *view) lineOf(leader *Peer) Position {
	at, r := leader.Report.Position, &v.seen
	if r.Leader != leader.Member || r.Phase != PhasePromoting || leader.Report.Term != r.Term || leader.Report.leads() || !at.Known() || at.TLI >= r.Timeline {
		return at
	}
	return Position{History: append(slices.Clone(at.History), Fork{TLI: at.TLI, End: at.LSN, Mark: at.Mark}), TLI: r.Timeline, LSN: at.LSN}
}

// rejoinRules bring a diverged server onto the leader's history: by pg_rewind, else
// by a new clone.
var rejoinRules = [...]rule{
	{"rejoin-clone", func(v *view) bool { return v.gaveUp(Rewind) && !v.o.Busy.Unserved }, clone("pg_rewind failed"), ends},
	// A clone would fail by the same, and cost the data.
	{"rejoin-unserved", func(v *view) bool { return v.gaveUp(Rewind) }, blocked(func(v *view) Block {
		return Block{What: "the server is not rewound", Missing: "a source that serves it; " + v.seen.Leader + " does not: " + cmp.Or(v.o.Server.Problem, "see the log")}
	}), goesOn},
	{"rejoin-no-checkpoint", func(v *view) bool { return !v.peer(v.seen.Leader).Report.Checkpointed }, blocked(func(v *view) Block {
		return Block{What: "the server is not rewound", Missing: "a checkpoint of " + v.seen.Leader + " after its promotion"}
	}), ends},
	{"rewind", func(v *view) bool { return v.rested(Rewind) }, func(t *turn) {
		p := t.peer(t.seen.Leader)
		t.do(Action{Kind: Rewind, From: p.Member, Address: p.Report.Postgres, Term: t.seen.Term,
			Why: "the server has what " + p.Member + " does not: " + t.o.Server.Position.String()})
	}, ends},
}

func (t *turn) rejoin() { t.try(rejoinRules[:]) }
