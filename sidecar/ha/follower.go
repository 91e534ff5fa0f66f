package ha

import "time"

// cloneAfter is how many times in a row an operation that can be repeated for
// ever (a start, a rewind) may fail before the data directory is cloned anew.
const cloneAfter = 2

// retryPause is the time between two tries of an operation that failed.
const retryPause = time.Second

// follow is what a member does that does not lead the newest term.
func (d *decision) follow() {
	v := &d.o.Server
	if v.Process == ProcessRunning && (v.InRecovery == No || v.InRecovery == Unknown && v.WasPrimary) {
		d.do(Action{Kind: Stop, Immediate: true, Why: "deposed: " + cmpOr(d.seen.Leader, "nobody") + " leads a later term"})
		return
	}
	if d.o.Intent.Shutdown {
		if !d.handingOver() {
			d.leave()
		}
		return
	}
	if d.rec.Term < d.seen.Term && d.after(d.s.PhaseAt, d.o.Policy.FailureTimeout) {
		d.block(Block{What: "no leader is followed", Missing: "the record of term " + itoa(d.seen.Term) + ", which other members have seen; Consul has that of term " +
			itoa(d.rec.Term) + ", and was put back to an earlier state"})
	}
	switch {
	case d.rec.Phase == PhaseBootstrap:
		d.takeOverBootstrap()
	case v.DataDir == DataHalfMade:
		d.do(Action{Kind: Discard, Why: "an unfinished copy or rewind was found"})
	case v.DataDir == DataAbsent:
		d.clone("there is no data directory yet")
	case v.Process == ProcessStopped && v.Armed:
		d.do(Action{Kind: Disarm, Why: "a standby needs no lease"})
	case v.Process == ProcessStopped && v.ExitedAt != 0 && !d.leaderSettled():
		// Crash recovery now would only take the disk from the election, and so would
		// a change of the registration: the successor takes the tag away.
		d.keepTag = true
	case v.Process == ProcessStopped:
		d.startStandby()
	case v.Armed:
		d.do(Action{Kind: Stop, Immediate: true, Why: "it may have been told to promote in a term that is over"})
	case v.InRecovery == Yes:
		d.attend()
	case v.Starved && v.Rewound == "":
		d.restore()
	case v.Rewound != "" && d.leaderPeer() != nil && d.seen.Leader != v.Rewound:
		d.clone("another member leads since the rewind")
	}
}

// restore replaces a standby whose own log is damaged or missing, so that it never
// comes so far as to take connections and be told whom to follow.
func (d *decision) restore() {
	if d.rec.Durability.Has(d.o.Self) && d.leaderPeer() != nil {
		d.spared("the data directory, whose log is damaged, is not cloned anew")
		return
	}
	d.clone("the server waits for log that it has not got")
}

// spared waits until the leader does without this member's copy. Only a strict one
// may never do so.
func (d *decision) spared(what string) {
	b := Block{What: what, Missing: d.seen.Leader + " to do without this member's copy of the last commits"}
	if d.o.Policy.Strict {
		b.Override = "pgsidecar config set durability.strict=false"
		b.Cost = "until the clone is done only the primary has the newest commits"
	}
	d.block(b)
}

// settleTime is how long after a new leader took writes the others have to
// follow it before a server that was stopped is started beside them.
const settleTime = 250 * time.Millisecond

// handingOver reports whether this member led the term before, has stopped cleanly,
// and its successor takes no writes yet. A supervisor starts a member again when
// its process has ended, on the same machine and at once: until the successor
// serves, that would only take processor and disk from it.
func (d *decision) handingOver() bool {
	v, from := &d.o.Server, &d.rec.Origin
	return from.Leader == d.o.Self && from.Term+1 == d.rec.Term && v.Process == ProcessStopped && v.CleanStop && !d.leaderSettled()
}

// leaderSettled reports whether the newest term has its primary; it is not waited
// for longer than the failure time-out, nor at all if the member that is to be it is
// gone, as this one's vote, or this one itself, may be needed.
func (d *decision) leaderSettled() bool {
	if p := d.peer(d.seen.Leader); p != nil && p.Link == LinkRefused {
		return true
	}
	if d.seen.Phase == PhaseLeading {
		return d.after(d.s.PhaseAt, settleTime)
	}
	return d.after(d.s.PhaseAt, d.o.Policy.FailureTimeout/2)
}

// leave stops the server and ends the process; roles were passed on before.
func (d *decision) leave() {
	if d.o.Server.Process == ProcessRunning {
		d.do(Action{Kind: Stop, Why: "this member is asked to stop"})
		return
	}
	if d.o.Busy.Server == NoAction && !d.o.Busy.Commit {
		d.do(Action{Kind: Exit, Why: "stopped as asked"})
	}
}

// startStandby starts the server as a standby that receives nothing yet.
func (d *decision) startStandby() {
	if d.o.Policy.Paused && d.o.Server.ExitedAt != 0 && !d.o.Server.Asked {
		d.block(Block{What: "the server is not started", Missing: "the cluster is paused", Override: "pgsidecar resume", Cost: "none"})
		return
	}
	// Data is given up only if it is damaged (a port in use passes), and not
	// without a leader: this member's vote may be needed.
	if d.gaveUp(Start) && d.o.Busy.Damaged && d.leaderPeer() != nil {
		d.clone("the server does not start as a standby")
		return
	}
	if d.o.Server.Rewound != "" {
		d.startRewound()
		return
	}
	if d.rested(Start) {
		d.do(Action{Kind: Start, Why: "start as a standby"})
	}
}

// startRewound starts a server that was rewound: it must receive from the source
// of the rewind before it takes connections, so it cannot be asked anything
// before. If another leads by now, it may never get what it needs.
func (d *decision) startRewound() {
	p := d.leaderPeer()
	switch {
	case p == nil:
		d.block(Block{What: "the rewound server is not started", Missing: "a primary that answers, of " + cmpOr(d.seen.Leader, "any member")})
	case p.Member != d.o.Server.Rewound:
		d.clone("another member leads since the rewind")
	case d.o.Server.Promise <= d.seen.Term && d.rested(Start):
		d.do(Action{Kind: Start, Term: d.seen.Term, From: p.Member, Address: p.Report.Postgres, Why: "start as a standby of the source of the rewind"})
	}
}

// gaveUp reports whether the operation failed so often that another is due.
func (d *decision) gaveUp(kind ActionKind) bool { return d.o.Busy.gaveUp(kind) }

func (b *Busy) gaveUp(kind ActionKind) bool { return b.FailedKind == kind && b.Failures >= cloneAfter }

// rested reports whether the operation may be tried (again).
func (d *decision) rested(kind ActionKind) bool {
	b := &d.o.Busy
	return b.FailedAt == 0 || b.FailedKind != kind || d.after(b.FailedAt, retryPause)
}

// clone asks for a copy of the leader's data directory, as soon as there is a
// leader whose server takes writes.
func (d *decision) clone(why string) {
	p := d.leaderPeer()
	if p == nil {
		d.block(Block{What: "the data directory is not cloned", Missing: "a primary that answers, of " + cmpOr(d.seen.Leader, "any member")})
		return
	}
	if d.rested(Clone) {
		d.do(Action{Kind: Clone, From: p.Member, Address: p.Report.Postgres, Term: d.seen.Term, Why: why})
	}
}

// leaderPeer is the newest term's leader if it is heard as a primary.
func (d *decision) leaderPeer() *Peer {
	p := d.peer(d.seen.Leader)
	if d.seen.Phase != PhaseLeading || p == nil || !d.fresh(p) || !p.Report.Serving || p.Report.Term != d.seen.Term {
		return nil
	}
	return p
}

// attend is what a running standby does: it fences for every new term, then
// follows that term's leader; and it stands in the election if there is none.
func (d *decision) attend() {
	v := &d.o.Server
	switch {
	case v.Promise < d.seen.Term:
		// Between two leaders a replica still answers reads.
		d.keepTag = d.o.Announced.Tag == "replica"
		a := Action{Kind: Fence, Term: d.seen.Term, Why: "a new term has begun"}
		if d.seen.Leader == d.o.Self {
			a.Sync = d.promotionSync() // the lock was passed to this member: be quick
		}
		d.do(a)
		return
	case v.Promise > d.seen.Term:
		d.block(Block{What: "no leader is followed", Missing: "Consul's answer for the term that was promised"})
		return
	case d.seen.Phase == PhaseElecting && v.halfFenced():
		d.do(Action{Kind: Fence, Term: d.seen.Term, Why: "its vote, which was promised and not given"})
		return
	case d.o.Intent.Restart:
		d.do(Action{Kind: Stop, Why: "a restart was asked for"})
		return
	case d.o.Intent.Reinit && !d.rec.Durability.Has(d.o.Self):
		d.clone("a new clone was asked for")
		return
	}
	if d.o.Intent.Reinit {
		d.spared("the data directory is not cloned anew")
	}
	switch {
	case v.Upstream != "" && !v.Fenced && v.Upstream == d.upstream(d.peer(d.seen.Leader)).Member:
		switch {
		case d.standsStill():
		case v.Receiving == Yes:
			d.tag = "replica"
		default:
			d.checkUpstream()
		}
	default:
		d.join()
	}
	d.keepTag = d.keepTag || d.tag == "" && d.o.Announced.Tag == "replica" && !d.after(d.s.PhaseAt, d.o.Policy.FailureTimeout)
	d.stand()
}

// upstream is whom this standby streams from: the leader, or the replica that
// its tag names, while that one streams from the leader itself (so there are
// neither rings nor chains).
func (d *decision) upstream(leader *Peer) Peer {
	p := d.peer(d.o.Policy.ReplicateFrom)
	if p != nil && d.fresh(p) && p.Link == LinkUp && p.Report.Term == d.seen.Term && p.Report.Streaming && p.Report.Leader == d.seen.Leader {
		return *p
	}
	if leader == nil {
		return Peer{Member: d.seen.Leader}
	}
	return *leader
}

// checkUpstream looks again at a standby that follows the leader but receives
// nothing from it.
func (d *decision) checkUpstream() {
	p := d.leaderPeer()
	if p == nil || !p.Report.Position.Known() || !d.o.Server.Position.Known() {
		return
	}
	if !p.Report.Position.Contains(d.o.Server.Position) && p.Report.Position.TLI != d.o.Server.Position.TLI {
		d.rejoin(p)
	}
}

// standstillTime is how long a standby that streams may lack what the leader has,
// and come no further, before that is said: its walreceiver is refused, again and
// again, and is seen to stream for a moment each time.
const standstillTime = 10 * time.Second

// standsStill says so, and what would help.
func (d *decision) standsStill() bool {
	v := &d.o.Server
	p := d.leaderPeer()
	if p == nil || !p.Report.Position.Contains(v.Position) || v.Position.Contains(p.Report.Position) || !d.after(d.s.AdvancedAt, standstillTime) {
		return false
	}
	d.block(Block{What: "this standby comes no further than " + v.Position.String(), Missing: "what " + v.Upstream +
		" has beyond; postgresql.log in postgres.state_dir says why it does not come",
		Override: "pgsidecar reinit " + d.o.Self, Cost: "this member's data directory is cloned anew"})
	return true
}

// join makes the server follow the newest term's leader, once that is known to
// contain what the server has (S7).
func (d *decision) join() {
	v := &d.o.Server
	p := d.peer(d.seen.Leader)
	if p == nil || !d.fresh(p) || p.Report.Term != d.seen.Term || !p.Report.Position.Known() {
		return
	}
	if d.seen.Phase != PhaseLeading && d.seen.Phase != PhasePromoting {
		return
	}
	if !v.Settled || !v.Position.Known() {
		if (v.Upstream != "" || d.after(d.s.AdvancedAt, standstillTime)) && d.rested(Fence) {
			d.do(Action{Kind: Fence, Term: d.seen.Term, Why: "find out what the server has before it follows another leader"})
		}
		return
	}
	theirs := p.Report.Position
	switch {
	case theirs.Contains(v.Position):
		up, why := d.upstream(p), "follow the leader of the term"
		if up.Member != p.Member {
			why = "follow a replica of the leader, as replicatefrom asks"
		}
		d.do(Action{Kind: Follow, Term: d.seen.Term, From: up.Member, Address: up.Report.Postgres, Position: theirs, Why: why})
	case d.seen.Phase != PhaseLeading || !p.Report.Serving:
		// A candidate that lacks what we have will not promote; wait.
	case theirs.TLI == v.Position.TLI:
		// The leader went on from the same log, so it has more than its last report says.
	default:
		d.rejoin(p)
	}
}

// rejoin brings a diverged server onto the leader's history: by pg_rewind, else
// by a new clone.
func (d *decision) rejoin(p *Peer) {
	if d.gaveUp(Rewind) {
		d.clone("pg_rewind failed")
		return
	}
	if !p.Report.Checkpointed {
		d.block(Block{What: "the server is not rewound", Missing: "a checkpoint of " + p.Member + " after its promotion"})
		return
	}
	if d.rested(Rewind) {
		d.do(Action{Kind: Rewind, From: p.Member, Address: p.Report.Postgres, Term: d.seen.Term,
			Why: "the server has what " + p.Member + " does not: " + d.o.Server.Position.String()})
	}
}
