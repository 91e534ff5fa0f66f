package ha

import (
	"slices"
	"time"
)

// lead is what the leader of the newest term does.
func (d *decision) lead() {
	v := &d.o.Server
	if d.o.Intent.Shutdown && v.Process == ProcessStopped && !d.lockMine() {
		d.leave()
		return
	}
	if !d.lockMine() {
		d.reacquire()
	}
	switch d.rec.Phase {
	case PhaseBootstrap:
		d.foundCluster()
	case PhaseElecting:
		d.leadElection()
	case PhasePromoting:
		d.leadPromotion()
	case PhaseLeading:
		d.leadCluster()
	}
}

// lockMine reports whether this process's session was last seen to hold the
// leader lock.
func (d *decision) lockMine() bool {
	c := &d.o.Consul
	return c.Session != "" && c.Lock.Session == c.Session
}

// reacquire takes the lock back in the same term (S8): a lost session alone
// deposes nobody, and a session of this member's own earlier process is as good
// as none.
func (d *decision) reacquire() {
	c := &d.o.Consul
	if c.Lock.Session != "" && c.Lock.Holder != d.o.Self {
		d.block(Block{What: "the leader lock is not taken", Missing: "it is held by " + c.Lock.Holder + " although the record names " + d.o.Self})
		return
	}
	d.commit(Change{What: "reacquire", Record: d.rec, Lock: LockTake, Session: c.Session, Prior: c.Lock}, "the session that held the lock is gone")
}

// leadElection is the leader's part between the ballot and the claim.
func (d *decision) leadElection() {
	v := &d.o.Server
	switch {
	case v.Process == ProcessRunning && v.InRecovery == No:
		d.do(Action{Kind: Stop, Immediate: true, Why: "its promotion belongs to an earlier term"})
	case d.o.Intent.Shutdown || v.DataDir != DataPresent:
		if p := d.heir(); p != nil {
			d.pass(p, d.o.Self+" cannot lead", d.rec.Final)
		} else if d.o.Intent.Shutdown {
			d.leave()
		} else if v.DataDir == DataHalfMade {
			d.do(Action{Kind: Discard, Why: "an unfinished copy or rewind was found"})
		}
	case v.Process == ProcessStopped && v.Armed:
		d.do(Action{Kind: Disarm, Why: "a candidate needs no lease before it has the votes"})
	case v.Process == ProcessStopped:
		d.startStandby()
	case v.Armed:
		d.do(Action{Kind: Stop, Immediate: true, Why: "it may have been told to promote in a term that is over"})
	default:
		d.keepTag = d.o.Announced.Tag != "primary" // what follows is short
		d.elect()
	}
}

// heir is the best member that can be passed the candidacy: one on record, as
// leases count on those.
//
// In a planned handover the priority counts first among those that are nearly
// there: what they lack they are sent while the server shuts down.
func (d *decision) heir() *Peer {
	var heir *Peer
	best := candidate{}
	planned := d.o.Intent.Shutdown || d.o.Intent.Switchover || d.stranded()
	for i := range d.o.Peers {
		p := &d.o.Peers[i]
		if !d.fresh(p) || p.Link != LinkUp || !p.Report.Eligible || p.Report.Session == "" || p.Report.Role == RoleStopped ||
			!slices.Contains(d.rec.Members, p.Member) {
			continue
		}
		c := p.candidate()
		if own := &d.o.Server.Position; planned && own.Known() && c.position.TLI == own.TLI && c.position.LSN+maxHandoverLag >= own.LSN {
			c.position = *own
		}
		if heir == nil || c.better(best) {
			heir, best = p, c
		}
	}
	return heir
}

// leadPromotion is the leader's part from the claim until its server takes
// writes.
func (d *decision) leadPromotion() {
	v := &d.o.Server
	inTime := d.extend()
	d.keepTag = v.InRecovery == Yes && d.o.Announced.Tag != "primary"
	switch {
	case v.Process == ProcessStopped && v.DataDir == DataPresent && v.WasPrimary:
		d.startPrimary("the promotion was completed before the server stopped")
	case v.Process == ProcessStopped && v.DataDir == DataPresent:
		d.startStandby()
	case v.Process == ProcessStopped:
		d.block(Block{What: "this member is not promoted", Missing: "its data directory"})
	case v.InRecovery == Yes && d.gaveUp(Promote) && d.o.Busy.FailedAt > d.s.PhaseAt:
		if p := d.heir(); p != nil {
			d.pass(p, "the promotion of "+d.o.Self+" failed", nil)
		}
	case v.InRecovery == Yes && v.Settled && d.lockMine() && inTime && d.armed() && d.rested(Promote):
		d.do(Action{Kind: Promote, Term: d.rec.Term, Timeline: d.rec.Timeline, Why: "elected"})
	case v.InRecovery == No:
		d.serve(inTime)
	}
}

// leadCluster is what the primary does.
func (d *decision) leadCluster() {
	v := &d.o.Server
	inTime := d.extend()
	switch {
	case v.Process == ProcessStopped:
		d.revive()
	case v.InRecovery == No:
		d.serve(inTime)
	case v.InRecovery == Yes && !d.o.Policy.Paused:
		d.ballot(d.o.Self + " was restarted as a standby")
	}
}

// withdrawPause is how long a primary whose server is down leaves its tag as it
// is: a successor takes it away sooner, and does not wait for this one's agent.
const withdrawPause = 250 * time.Millisecond

// revive decides, for a primary whose server is down, between handing over and
// starting it again.
func (d *decision) revive() {
	v, intent := &d.o.Server, &d.o.Intent
	if v.ExitedAt != 0 && !d.after(v.ExitedAt, withdrawPause) {
		d.keepTag = true
	}
	if d.o.Busy.Server != NoAction {
		return
	}
	if v.DataDir != DataPresent {
		d.block(Block{What: "the primary is not started", Missing: "its data directory: " + v.Problem})
		return
	}
	leaving := intent.Shutdown || intent.Switchover
	if leaving || v.ExitedAt != 0 && (!intent.Restart || d.gaveUp(Start)) && !d.o.Policy.Paused && d.o.Policy.Automatic {
		if d.handOver() {
			return
		}
	}
	if intent.Shutdown {
		if d.rest(); d.o.Consul.Reachable == No {
			d.leave() // the lock is not released; its session ends by itself
		}
		return
	}
	if d.o.Policy.Paused && v.ExitedAt != 0 && !v.Asked && !intent.Restart {
		d.block(Block{What: "the primary is not started", Missing: "the cluster is paused", Override: "pgsidecar resume", Cost: "none"})
		return
	}
	if !v.WasPrimary {
		d.startStandby()
		return
	}
	d.startPrimary("start the primary in place")
}

// handOver passes the lock to a successor, if one can win the election.
func (d *decision) handOver() bool {
	v := &d.o.Server
	var final *Final
	if v.CleanStop && v.Position.Known() {
		final = &Final{Member: d.o.Self, Position: v.Position}
	}
	p := d.successor(final != nil)
	if p == nil || d.o.Consul.Reachable == No {
		return false
	}
	why := "the server of " + d.o.Self + " is down"
	if d.stranded() {
		why = "the Consul agent of " + d.o.Self + " does not answer"
	}
	if d.o.Intent.Switchover || d.o.Intent.Shutdown {
		why = d.o.Self + " hands over as asked"
	}
	d.pass(p, why, final)
	return true
}

// successor is the member that gets the lock: the one asked for, else the best.
// Without a final position it must also have the votes in sight that it needs,
// for a lock passed to one that cannot win only costs time.
func (d *decision) successor(final bool) *Peer {
	if t := d.o.Intent.Target; t != "" && d.o.Intent.Switchover {
		if p := d.peer(t); d.fresh(p) && p.Link == LinkUp && p.Report.Eligible && p.Report.Session != "" && slices.Contains(d.rec.Members, t) {
			return p
		}
	}
	heir := d.heir()
	if heir == nil || final || d.rec.Durability.Mode == ModeAsync {
		return heir
	}
	dur, votes := &d.rec.Durability, 0
	if dur.K == 0 {
		return nil
	}
	for _, voter := range dur.Voters {
		if p := d.peer(voter); d.fresh(p) && p.Link == LinkUp && p.Report.Role != RoleStopped {
			votes++
		}
	}
	if votes < dur.VotesNeeded() {
		return nil
	}
	return heir
}

// rest records the final position of a primary that stops with nobody to hand
// over to, and releases the lock.
func (d *decision) rest() {
	v := &d.o.Server
	r := d.rec
	r.Final = nil
	if v.CleanStop && v.Position.Known() {
		r.Final = &Final{Member: d.o.Self, Position: v.Position}
	}
	d.commit(Change{What: "rest", Record: r, Lock: LockRelease, Session: d.o.Consul.Session}, "stopped as asked, with nobody to hand over to")
}

// startPrimary starts the server of the term's own primary in place, within a
// lease, and with clients kept out until what it recovered is safe (S9).
func (d *decision) startPrimary(why string) {
	if !d.lockMine() || d.s.LeaseUntil == 0 || !d.armed() {
		d.block(Block{What: "the primary is not started", Missing: "the leader lock, confirmed by Consul or by the members"})
		return
	}
	if d.rec.Final != nil {
		d.resume()
		return
	}
	if d.rested(Start) {
		d.do(Action{Kind: Start, Primary: true, Hidden: true, Term: d.rec.Term, Sync: d.promotionSync(), Why: why})
	}
}

// resume takes the final position out of the record.
func (d *decision) resume() {
	r := d.rec
	r.Final = nil
	d.commit(Change{What: "resume", Record: r, Lock: LockKeep, Session: d.o.Consul.Session}, "the stopped primary starts again")
}

// serve is what a running primary does in its own term.
func (d *decision) serve(inTime bool) {
	v := &d.o.Server
	if !inTime {
		d.block(Block{What: "the primary does not serve", Missing: "confirmation of its lease, by Consul or by the members"})
		d.do(Action{Kind: Stop, Immediate: true, Why: "the lease ends without a confirmation"})
		return
	}
	if d.wedged() {
		d.do(Action{Kind: Stop, Immediate: true, Why: "the server has stopped answering"})
		return
	}
	if d.rec.Final != nil && d.lockMine() {
		// A rest of this member's, that was under way when the server was started, has
		// been done since: nothing may be acknowledged beyond what it stands for (S3).
		d.resume()
		return
	}
	if v.Hidden && !d.inDoubt() && d.covered() && d.recoverySafe() {
		d.do(Action{Kind: Unhide, Why: "what the server recovered is safe"})
	}
	if d.rec.Phase == PhasePromoting {
		if v.Writable == Yes {
			d.tag, d.evict = "primary", d.others()
			r := d.rec
			r.Phase = PhaseLeading
			if d.promotedAsVoted() {
				r.Durability = d.narrowedByVotes(v.Sync, v.Position.origin())
			}
			d.commit(Change{What: "lead", Record: r, Lock: LockKeep, Session: d.o.Consul.Session}, "the server takes writes")
		}
		return
	}
	if v.Writable != No && !v.Hidden {
		d.tag, d.evict = "primary", d.others()
	}
	if v.Writable == No && d.faulty() {
		return
	}
	if d.depart() {
		return
	}
	d.admit()
	d.dismiss()
	d.keepDurability()
	if !v.Checkpointed && d.after(d.s.PhaseAt, checkpointPause) {
		d.do(Action{Kind: Checkpoint, Why: "pg_rewind from this server needs one on the new timeline"})
	}
}

// promotedAsVoted reports whether the server is still the one that voted: nothing is
// in its log that was not acknowledged under the setting of the promotion. One that
// was restarted since may have recovered commits that nobody else has (S9).
func (d *decision) promotedAsVoted() bool {
	v := &d.o.Server
	return d.s.VotedTerm == d.rec.Term && v.StartedAt != 0 && v.StartedAt < d.s.VotedAt &&
		v.Position.TLI == d.rec.Timeline && !v.SyncUnsure && sameSync(v.Sync, d.promotionSync())
}

// checkpointPause is how long a new primary leaves disk and processor to the
// clients that come back, before it makes the checkpoint for pg_rewind.
const checkpointPause = 500 * time.Millisecond

// wedged reports whether a server that did answer has been silent so long that
// another should take over, and one can.
func (d *decision) wedged() bool {
	v := &d.o.Server
	return v.SeenAt != 0 && v.FailingSince != 0 && d.o.Policy.Automatic && !d.o.Policy.Paused &&
		d.after(v.FailingSince, d.o.Policy.FailureTimeout) && d.successor(false) != nil
}

// faulty says that the server takes no writes, and stops one whose machine is at
// fault, if another can take over. It reports whether it does so.
func (d *decision) faulty() bool {
	v := &d.o.Server
	d.block(Block{What: "the primary takes no writes", Missing: cmpOr(v.WriteProblem, "a write that succeeds")})
	if v.FaultyAt == 0 || !d.o.Policy.Automatic || d.o.Policy.Paused || !d.after(v.FaultyAt, d.o.Policy.FailureTimeout) || d.successor(false) == nil {
		return false
	}
	d.do(Action{Kind: Stop, Why: "it takes no writes, and another member can: " + v.WriteProblem})
	return true
}

// stranded reports whether this primary's own agent has been gone so long that
// another member, which DNS does not hide, is to lead. Where all of Consul is away
// nothing can be handed over, and nobody would be better off.
func (d *decision) stranded() bool {
	at, policy := d.o.Consul.AgentLostAt, &d.o.Policy
	return at != 0 && d.o.Consul.Reachable == Yes && policy.AgentTimeout > 0 && policy.Automatic && !policy.Paused && d.after(at, policy.AgentTimeout)
}

// covered reports whether the setting with which the server was started asks for
// no fewer of the recorded voters than the record: the record may have been
// narrowed by a transaction whose outcome this member did not know then (S4).
func (d *decision) covered() bool {
	dur, v := &d.rec.Durability, &d.o.Server
	return dur.Mode == ModeAsync || dur.K == 0 || !v.SyncUnsure && Covers(v.Sync, d.o.Self, *dur)
}

// recoverySafe reports whether the voters have flushed all that this server
// recovered: only then may clients see it (S9).
func (d *decision) recoverySafe() bool {
	dur := &d.rec.Durability
	need := dur.K
	if dur.Has(d.o.Self) {
		need--
	}
	if dur.Mode == ModeAsync || need <= 0 {
		return true
	}
	end := d.o.Server.RecoveryEnd
	if end != 0 && d.flushed(dur.Voters, end) >= need {
		return true
	}
	d.block(Block{What: "clients are kept out of the restarted primary", Missing: itoa(uint64(need)) +
		" of its voters to have flushed what it recovered (" + end.String() + ")",
		Override: "pgsidecar failover --to " + d.o.Self + " --accept-data-loss", Cost: "commits that clients see may be lost by the next failover"})
	return d.o.Intent.Force
}

// depart begins a planned handover: a checkpoint, so that the stop is short;
// then the registration is withdrawn, by which proxies hold their clients; then
// the server is stopped, and the final position is the vote. A switchover that
// open transactions would not let happen is given up, and the registration comes
// back. It reports whether the primary is leaving.
func (d *decision) depart() bool {
	intent, b := &d.o.Intent, &d.o.Busy
	stranded := d.stranded()
	if !intent.Switchover && !intent.Shutdown && !intent.Restart && !stranded {
		return false
	}
	if stranded && !intent.Switchover && !intent.Shutdown && !intent.Restart {
		if d.unready() != "" || d.successor(true).Report.Agentless {
			return false // nobody would be better off
		}
	}
	yield := intent.Switchover && !intent.Shutdown
	if yield && b.FailedKind == Stop && b.FailedAt > intent.Since {
		d.s.Refused = cmpOr(d.o.Server.Problem, "the server was not stopped")
		return false
	}
	if !intent.Restart {
		if why := d.unready(); why != "" && !intent.Shutdown {
			if v := &d.o.Server; v.SeenAt > intent.Since || v.FailingSince != 0 {
				d.s.Refused = why // not by what was seen before it was asked for
			}
			return false
		}
	}
	since := max(intent.Since, d.o.Consul.AgentLostAt)
	if d.o.Server.CheckpointAt < since && !d.after(since, checkpointPatience) {
		d.do(Action{Kind: Checkpoint, Planned: true, Why: "the stop that follows is to be short"})
		return false
	}
	if yield && d.o.Consul.Reachable == No && b.Server != Stop { // it may be for a moment only
		if d.after(max(since, d.o.Server.CheckpointAt), d.o.Policy.FailureTimeout) {
			d.s.Refused = "Consul does not answer, and a handover needs it"
		}
		return false
	}
	d.tag, d.evict = "", nil
	if (!d.o.Announced.Known || d.o.Announced.Tag == "primary") && d.o.Consul.AgentLostAt == 0 &&
		!d.after(max(since, d.o.Server.CheckpointAt), d.o.Policy.FailureTimeout) {
		return true // the successor evicts what an agent does not withdraw
	}
	why := "hand over as asked"
	if stranded {
		why = "hand over: this member's Consul agent does not answer, and DNS hides the node"
	}
	d.do(Action{Kind: Stop, Planned: true, Yield: yield, Why: why})
	return true
}

// checkpointPatience bounds the checkpoint before a planned stop, which then
// makes one that takes as long, with clients waiting.
const checkpointPatience = 30 * time.Second

// maxHandoverLag is how far the target of a switchover may be behind, in receiving
// and in replaying: what is left is sent while the server shuts down, and replayed
// before the target takes writes, and clients wait for it.
const maxHandoverLag = 16 << 20

// unready says why no switchover can begin.
func (d *decision) unready() string {
	p := d.successor(true)
	switch {
	case p == nil:
		return "no other member can lead now"
	case d.o.Intent.Target != "" && p.Member != d.o.Intent.Target:
		return d.o.Intent.Target + " cannot lead now"
	case p.candidate().late:
		return p.Member + " has more than 16 MiB to replay, and writes would wait for that; pgsidecar status shows its lag"
	}
	for i := range d.o.Server.Walsenders {
		w := &d.o.Server.Walsenders[i]
		if w.Member == p.Member && w.Streaming && w.Flush+maxHandoverLag >= d.o.Server.Position.LSN {
			return ""
		}
	}
	return p.Member + " does not stream, or is more than 16 MiB behind"
}

// others are the members but this one.
func (d *decision) others() []string {
	others := make([]string, 0, len(d.rec.Members))
	for _, m := range d.rec.Members {
		if m != d.o.Self {
			others = append(others, m)
		}
	}
	return others
}
