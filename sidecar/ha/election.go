package ha

import (
	"slices"
	"strconv"
	"time"
)

// rankPause is how long each lesser candidate waits for a better one to begin.
const rankPause = 250 * time.Millisecond

// eligible reports whether this member may lead at all.
func (o *Observation) eligible() bool {
	return !o.Policy.NoFailover && !o.Intent.Shutdown && (!o.Intent.Reinit || o.Intent.Force) && o.Server.DataDir == DataPresent &&
		o.Server.Process == ProcessRunning && o.Server.InRecovery == Yes && o.Consul.Session != ""
}

// stand begins an election if the newest term has no leader that is heard, the
// others that are needed agree, and this member is the best to begin.
func (d *decision) stand() {
	o := &d.o
	if !o.eligible() || d.seen.Leader == o.Self || d.rec.Term != d.seen.Term || d.rec.Phase == PhaseBootstrap {
		return
	}
	if !slices.Contains(d.rec.Members, o.Self) {
		return // the lease of an async primary does not count on it
	}
	if (o.Policy.Paused || !o.Policy.Automatic) && !o.Intent.Force {
		return
	}
	if d.s.Hears || !o.Intent.Force && !d.vacant() {
		return
	}
	if missing := d.preVotes(); missing != "" && !o.Intent.Force {
		d.block(Block{What: "no election is begun", Missing: missing,
			Override: "pgsidecar failover --to " + o.Self + " --accept-data-loss",
			Cost:     "every commit that only the silent members have"})
		return
	}
	if wait := time.Duration(d.rank()) * rankPause; !o.Intent.Force && !d.after(d.s.LostAt, wait) {
		return
	}
	d.ballot("the leader of term " + itoa(d.rec.Term) + " (" + cmpOr(d.rec.Leader, "none") + ") is not heard")
}

// vacant reports whether the newest term's leader is gone, or gets nowhere.
func (d *decision) vacant() bool {
	if d.seen.Phase == PhaseLeading {
		return !d.s.Hears && d.gone(d.peer(d.seen.Leader))
	}
	p := d.peer(d.seen.Leader)
	switch {
	case p != nil && p.Link == LinkRefused:
		return true
	case p == nil || !d.fresh(p):
		return d.after(d.s.PhaseAt, d.o.Policy.FailureTimeout)
	case p.Report.Term > d.seen.Term:
		return true
	}
	wait, policy := d.o.Policy.HandoverTimeout, &d.o.Policy
	if d.rec.Durability.Mode == ModeAsync && d.seen.Phase == PhaseElecting {
		wait = max(wait, policy.Lease+policy.Lease/clockDrift+policy.FailureTimeout) // it may have to wait out the old lease
	}
	if r := &p.Report; d.seen.Phase == PhasePromoting && r.Replay != 0 && r.Replay < r.Position.LSN {
		wait = max(wait, replayTime) // it replays what it has received; whoever deposes it has that before it too
	}
	return d.after(d.s.PhaseAt, wait)
}

// replayTime is how long a candidate that still replays may take to promote.
const replayTime = time.Minute

// gone reports whether a primary that is not heard was heard and is silent, says
// that its server is down, or refuses connections. One that was never heard, or
// whose last report is of an earlier term, gets the failure time-out to be heard
// (S8): a member that has just started takes nobody for lost.
func (d *decision) gone(p *Peer) bool {
	switch {
	case p != nil && p.Link == LinkRefused:
		return true
	case p == nil || p.ReceivedAt == 0 || d.fresh(p) && !p.Report.Down:
		return d.after(max(d.s.LostAt, d.s.PhaseAt), d.o.Policy.FailureTimeout)
	case d.fresh(p):
		// It says itself that its server is down, so it is passing the lock on.
		return d.after(d.s.LostAt, resignPause)
	case p.Report.Term == d.seen.Term && (p.Report.Serving || p.Report.Down):
		return true
	}
	// It was last heard before it led: what it has become since nobody has said.
	return d.after(max(d.s.LostAt, d.s.PhaseAt), d.o.Policy.FailureTimeout)
}

// resignPause is how long a primary whose server is down has to pass the lock
// on: a Consul transaction, with room for a busy machine. A ballot beside it
// would only be in its way.
const resignPause = 100 * time.Millisecond

// preVotes counts who else has lost the primary (S8), and says what is missing
// to begin. It asks for as many as the election itself will need: an election
// that cannot be won only unseats.
func (d *decision) preVotes() (missing string) {
	dur := &d.rec.Durability
	if f := d.rec.Final; f != nil && d.o.Server.Position.Contains(f.Position) {
		return ""
	}
	if d.rec.Origin.Leader == d.o.Self && d.rec.Phase == PhaseElecting {
		return ""
	}
	if dur.Mode == ModeAsync {
		return d.preVotesAsync()
	}
	if p := d.peer(d.rec.Origin.Leader); d.rec.Phase == PhaseElecting && p != nil && d.fresh(p) && !p.Report.Serving && p.Report.Role == RoleReplica {
		return "" // its vote will stand for all
	}
	if dur.K == 0 {
		return "the last primary (" + d.standsForAll() + "): no standby held each commit, so only it surely has them all"
	}
	agree, silent := 0, ""
	for _, voter := range dur.Voters {
		if d.lost(voter) {
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

// standsForAll is the last leader that may have acknowledged commits: it has
// all of them.
func (d *decision) standsForAll() string {
	if d.rec.Phase == PhaseLeading || d.rec.Phase == PhasePromoting {
		return d.rec.Leader
	}
	return d.rec.Origin.Leader
}

// lost reports whether the member, reachable, hears no primary.
func (d *decision) lost(member string) bool {
	if member == d.o.Self {
		return true
	}
	p := d.peer(member)
	if p == nil || !d.fresh(p) || p.Report.Record.Term != d.seen.Term || p.Report.Record.Phase != d.seen.Phase {
		return false // it spoke of an earlier phase, in which there was nobody to hear
	}
	return !p.Report.Hears && !p.Report.Serving && p.Report.Role != RoleStopped
}

// preVotesAsync asks for more than half of the living replicas: in async mode
// nobody's vote is needed, so this alone keeps one cut-off member from deposing
// a healthy primary.
func (d *decision) preVotesAsync() string {
	agree, living := 0, 0
	for _, m := range d.rec.Members {
		if m == d.seen.Leader {
			continue
		}
		p := d.peer(m)
		if m != d.o.Self && p != nil && p.Link == LinkRefused {
			continue
		}
		living++
		if d.lost(m) {
			agree++
		}
	}
	if 2*agree > living {
		return ""
	}
	return "more than half of the replicas that have lost the primary; so far " + itoa(uint64(agree)) + " of " + itoa(uint64(living))
}

// rank counts the better candidates that are in sight.
func (d *decision) rank() int {
	better := 0
	me := candidate{member: d.o.Self, position: d.o.Server.Position, late: late(d.o.Server.Position, d.o.Server.Replayed), priority: d.o.Policy.Priority}
	for i := range d.o.Peers {
		p := &d.o.Peers[i]
		if !d.fresh(p) || !p.Report.Eligible || p.Report.Hears {
			continue
		}
		if p.candidate().better(me) {
			better++
		}
	}
	return better
}

// candidate is what the choice between members looks at.
type candidate struct {
	member   string
	position Position
	late     bool // it has much to replay before it takes writes
	priority int
}

func (p *Peer) candidate() candidate {
	r := &p.Report
	return candidate{member: p.Member, position: r.Position, late: late(r.Position, r.Replay), priority: r.Priority}
}

// late reports whether a standby that has received the log up to at has much to
// replay before it takes writes.
func late(at Position, replayed LSN) bool { return replayed != 0 && replayed+maxHandoverLag < at.LSN }

func (c candidate) better(than candidate) bool {
	if order := c.position.Compare(than.position); order != 0 {
		return order > 0
	}
	if c.late != than.late {
		return than.late
	}
	if c.priority != than.priority {
		return c.priority > than.priority
	}
	return c.member < than.member
}

// next is the record of the term after this one.
func (d *decision) next(leader, reason string) Record {
	r := d.rec
	if r.Phase == PhaseLeading || r.Phase == PhasePromoting {
		r.Origin = Origin{Term: r.Term, Leader: r.Leader}
		r.Fenced = false
	}
	r.Term++
	r.Leader, r.Phase, r.Reason = leader, PhaseElecting, reason
	return r
}

// ballot asks for the transaction that begins an election (S1).
func (d *decision) ballot(why string) {
	d.commit(Change{What: "ballot", Record: d.next(d.o.Self, why), Lock: LockTake, Session: d.o.Consul.Session, Prior: d.o.Consul.Lock}, why)
}

// elect is what the leader of a term does that has no primary yet: it fences
// itself, gathers votes, and claims a timeline when it has them (S2, S3).
func (d *decision) elect() {
	v, term := &d.o.Server, d.rec.Term
	if v.InRecovery != Yes {
		return
	}
	sync := d.promotionSync()
	switch {
	case v.Promise < term:
		d.do(Action{Kind: Fence, Term: term, Sync: sync, Why: "this member stands in the election of the term"})
		return
	case d.catchingUp():
		return
	case !v.Fenced || v.halfFenced():
		d.do(Action{Kind: Fence, Term: term, Sync: sync, Why: "its own vote"})
		return
	case !v.Settled || !v.Position.Known():
		return
	}
	ahead := d.ahead()
	if ahead.member != "" {
		d.yield(ahead)
		return
	}
	if missing := d.votesMissing(); missing != "" && !d.o.Intent.Force {
		d.block(Block{What: "this member is not promoted", Missing: missing,
			Override: "pgsidecar failover --to " + d.o.Self + " --accept-data-loss",
			Cost:     "every commit that only the missing members have"})
		return
	}
	if v.SyncUnsure || !sameSync(v.Sync, sync) {
		d.do(Action{Kind: SetSync, Sync: sync, Why: "the durability of the new term, before the promotion"})
		return
	}
	if Covers(sync, d.o.Self, d.rec.Durability) && !d.voteIsNear(sync) {
		d.claim(sync)
	}
}

// voteIsNear reports whether a candidate that needs no votes, as it was handed all
// there is, has still to hear a member that is about to vote: with that vote the
// claim narrows the record, and the cluster outlives the loss of the new primary
// before anybody follows it. All fence at the same time, so it is a short wait.
func (d *decision) voteIsNear(sync SyncSetting) bool {
	dur := &d.rec.Durability
	if d.rec.Final == nil || !dur.Has(d.o.Self) || sync.K < dur.K || !d.narrowedByVotes(sync, d.o.Server.Position).Equal(*dur) {
		return false
	}
	for _, m := range sync.Names {
		if p := d.peer(m); d.fresh(p) && p.Link == LinkUp && p.Report.Role == RoleReplica && !d.votes(p) {
			return !d.after(d.s.PhaseAt, voteTime)
		}
	}
	return false
}

// voteTime is what a vote takes at most where nothing is wrong: 10 ms measured, and
// room for a busy machine.
const voteTime = 30 * time.Millisecond

// claim asks for the transaction after which this member may be primary. It is
// also the last look at lock and term before the promotion (S3).
func (d *decision) claim(sync SyncSetting) {
	r := d.rec
	r.Phase, r.Final = PhasePromoting, nil
	r.Durability = d.narrowedByVotes(sync, d.o.Server.Position)
	r.Timeline = max(r.Timeline, d.o.Server.Position.TLI)
	for i := range d.o.Peers {
		if p := &d.o.Peers[i].Report; p.ServerID == "" || p.ServerID == r.SystemID {
			r.Timeline = max(r.Timeline, p.Position.TLI)
		}
	}
	r.Timeline++
	d.commit(Change{What: "claim", Record: r, Lock: LockKeep, Session: d.o.Consul.Session}, "the votes are enough; the term gets timeline "+itoa(uint64(r.Timeline)))
}

// ahead is the vote that has more than this member, if there is one.
func (d *decision) ahead() candidate {
	best := candidate{position: d.o.Server.Position}
	for i := range d.o.Peers {
		p := &d.o.Peers[i]
		if d.votes(p) && !(d.o.Intent.Force && !d.fresh(p)) && p.Report.Position.Compare(best.position) > 0 {
			best = candidate{member: p.Member, position: p.Report.Position}
		}
	}
	if f := d.rec.Final; f != nil && f.Member != d.o.Self && f.Position.Compare(best.position) > 0 && !d.dispensable(f) {
		best = candidate{member: f.Member, position: f.Position}
	}
	return best
}

// dispensable reports whether a candidate may lead without what a primary had that stopped
// cleanly and cannot give it: if so asked, or if the voters' votes stand for all that was
// acknowledged (S3), as they do for a primary that has crashed.
func (d *decision) dispensable(f *Final) bool {
	p, late := d.peer(f.Member), d.after(d.s.PhaseAt, d.o.Policy.FailureTimeout)
	here := p != nil && d.fresh(p) && p.Link == LinkUp
	if d.o.Intent.Force {
		return !here || late && !d.votes(p) // one that is here is given the time to vote
	}
	return !here && late && d.rec.Durability.Mode == ModeQuorum && d.rec.Durability.K > 0
}

// votes reports whether the peer has voted in the newest term. A vote is a
// promise kept on disk, so it does not age.
func (d *decision) votes(p *Peer) bool { return p.Report.Voted && p.Report.Term == d.rec.Term }

// yield passes the candidacy to the member that is ahead; if that one may not
// lead, it fetches from it what is lacking.
func (d *decision) yield(to candidate) {
	p := d.peer(to.member)
	if p == nil || !d.fresh(p) {
		d.block(Block{What: "this member is not promoted", Missing: to.member + " is ahead (" + to.position.String() + ") and cannot be reached",
			Override: "pgsidecar failover --to " + d.o.Self + " --accept-data-loss", Cost: "what " + to.member + " has beyond " + d.o.Server.Position.String()})
		return
	}
	if p.Report.Eligible && p.Report.Session != "" {
		d.pass(p, to.member+" is ahead", d.rec.Final)
		return
	}
	if p.Report.Role == RoleReplica && d.votes(p) && to.position.Contains(d.o.Server.Position) {
		d.do(Action{Kind: Follow, Term: d.rec.Term, From: to.member, Address: p.Report.Postgres, Position: to.position,
			Why: to.member + " is ahead and may not lead: fetch what is lacking"})
		return
	}
	d.block(Block{What: "this member is not promoted", Missing: to.member + " is ahead (" + to.position.String() + ") and has not voted; its server is " + string(p.Report.Role),
		Override: "pgsidecar failover --to " + d.o.Self + " --accept-data-loss", Cost: "what " + to.member + " has beyond " + d.o.Server.Position.String()})
}

// catchingUp reports whether this candidate streams from a voter that is ahead,
// and has not got all of it yet.
func (d *decision) catchingUp() bool {
	up := d.o.Server.Upstream
	p := d.peer(up)
	return up != "" && p != nil && d.votes(p) && d.fresh(p) && !p.Report.Eligible && !d.o.Server.Position.Contains(p.Report.Position)
}

// pass asks for the transaction that gives the lock and the next term to
// another member.
func (d *decision) pass(to *Peer, why string, final *Final) {
	r := d.next(to.Member, why)
	r.Final = final
	if d.rec.Leader == d.o.Self && (d.rec.Phase == PhaseLeading || d.rec.Phase == PhasePromoting) {
		r.Fenced = d.o.Server.Process == ProcessStopped
	}
	d.commit(Change{What: "pass", Record: r, Lock: LockTake, Session: to.Report.Session, Holder: to.Member, Prior: d.o.Consul.Lock}, why)
}

// votesMissing says what the promotion still lacks, or nothing (S3, S6).
func (d *decision) votesMissing() string {
	me := &d.o.Server.Position
	if f := d.rec.Final; f != nil && me.Contains(f.Position) {
		return ""
	}
	origin := d.rec.Origin.Leader
	if p := d.peer(origin); origin == d.o.Self || p != nil && d.votes(p) {
		return "" // it has all that was ever acknowledged, and is not ahead of us
	}
	if d.rec.Durability.Mode == ModeAsync {
		return d.leaseMissing()
	}
	dur := &d.rec.Durability
	if dur.K == 0 {
		return "the vote of " + origin + ": no standby held each commit, so only it surely has them all"
	}
	votes, silent := 0, ""
	for _, voter := range dur.Voters {
		p := d.peer(voter)
		if voter == d.o.Self || p != nil && d.votes(p) {
			votes++
		} else {
			silent += " " + voter
		}
	}
	if need := dur.VotesNeeded(); votes < need {
		return itoa(uint64(need)) + " votes of the voters; not yet from:" + silent
	}
	return ""
}

// leaseMissing says, in async mode, why the old primary may still be writing
// (S6), or whose position is still awaited; or nothing.
func (d *decision) leaseMissing() string {
	o := &d.o
	if !d.provenDead() {
		lease := o.Policy.Lease + o.Policy.Lease/clockDrift
		if d.s.VotedTerm != d.rec.Term || !d.after(max(d.s.VotedAt, d.s.PhaseAt), lease) {
			return "the end of the lease of " + d.rec.Origin.Leader + ", or proof that its server is down"
		}
	}
	for i := range o.Peers {
		p := &o.Peers[i]
		if p.Member == d.rec.Origin.Leader || !d.fresh(p) || p.Link != LinkUp || d.votes(p) || p.Report.Role == RoleStopped {
			continue
		}
		if !d.after(d.s.PhaseAt, o.Policy.FailureTimeout) {
			return "the position of " + p.Member
		}
	}
	return ""
}

// clockDrift bounds how fast two members' clocks may run apart: by one part in
// this many.
const clockDrift = 20

// provenDead reports whether the old primary's server surely runs no more: its
// own word, or both its ports refuse (the guard makes the second follow from
// the first: S6), and have done so since it was seen to take the lock: it may have
// come back, and be cut off, since they did.
func (d *decision) provenDead() bool {
	if d.rec.Fenced {
		return true
	}
	p := d.peer(d.rec.Origin.Leader)
	if p == nil {
		return false
	}
	if p.Link == LinkRefused && p.PostgresRefused == Yes && d.s.Revived != p.Member {
		return true
	}
	return d.fresh(p) && p.Report.Term >= d.rec.Term && !p.Report.Serving && (p.Report.Voted || p.Report.Down)
}

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }
