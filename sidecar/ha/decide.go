package ha

import "time"

// Decide looks at what is known and says what to do now. It is total and
// deterministic: the same state and observation give the same answer, and
// trouble is a value in it. It must be called again after every change of the
// observation, and no later than State.WakeAt.
func Decide(s State, o Observation) (State, []Action) {
	d := decision{s: s, o: o, rec: o.Consul.Record}
	blocks := s.Blocks
	d.s.WakeAt, d.s.Blocks, d.s.Refused, d.s.LeaseUntil = 0, nil, "", 0
	d.seen = d.o.newestSeen()
	d.s.Hears = d.hears()
	d.remember()
	d.dispatch()
	d.announce()
	d.s.Role = d.role()
	d.dateBlocks(blocks)
	return d.s, d.actions
}

// decision is one run of Decide: what it may look at, and what it has decided
// so far.
type decision struct {
	s       State
	o       Observation
	rec     Record
	seen    RecordSeen // the newest record heard of, from Consul or a peer
	tag     string     // what the service registration should say
	evict   []string   // whose primary tag must be gone first
	keepTag bool       // leave the registration as it is
	actions []Action
}

func (d *decision) dispatch() {
	o := &d.o
	switch {
	case o.Consul.Broken != "":
		d.do(Action{Kind: Exit, Code: 1, Why: o.Consul.Broken +
			"; nothing was changed: put the state key in Consul back as it was, and start the member again"})
	case o.Consul.SeenAt == 0 && o.Intent.Shutdown && o.Server.Process != ProcessUnknown:
		d.leave() // as nothing is known, nothing can be handed over
	case o.Consul.SeenAt == 0:
		d.keepTag = true
		d.block(Block{What: "nothing is decided", Missing: "Consul has not answered yet"})
	case o.Server.Process == ProcessUnknown:
		d.keepTag = true
		d.block(Block{What: "nothing is decided", Missing: "the guard's word on the server"})
	case o.Server.DataDir == DataUnknown:
		d.keepTag = true
		d.block(Block{What: "nothing is decided", Missing: cmpOr(o.Server.Problem, "a look at the data directory")})
	case !d.rec.Exists():
		d.bootstrap()
	case d.foreign() && o.Server.Founding:
		d.abandon()
	case d.foreign():
		d.do(Action{Kind: Exit, Code: 1, Why: "the data directory belongs to another cluster (system identifier " +
			o.Server.SystemID + ", the cluster's is " + d.rec.SystemID + "); it is left untouched"})
	case o.Server.DataDir == DataForeign:
		d.do(Action{Kind: Exit, Code: 1, Why: o.Server.Problem})
	case d.mayLead():
		d.lead()
	default:
		d.follow()
	}
}

// foreign reports whether the data directory is another cluster's.
func (d *decision) foreign() bool {
	return d.rec.SystemID != "" && d.o.Server.SystemID != "" && d.rec.SystemID != d.o.Server.SystemID
}

// mayLead reports whether this member is the newest term's leader. A peer that
// knows of a later term ends our own at once.
func (d *decision) mayLead() bool {
	return d.rec.Leader == d.o.Self && d.seen.Term == d.rec.Term && d.o.Server.Promise <= d.rec.Term
}

// newestSeen is the newest record that this member or a peer knows.
func (o *Observation) newestSeen() RecordSeen {
	r := &o.Consul.Record
	newest := RecordSeen{Term: r.Term, Leader: r.Leader, Phase: r.Phase, Index: r.Index}
	for i := range o.Peers {
		// By the term first: indexes begin anew when Consul has lost all it had.
		if seen := &o.Peers[i].Report.Record; seen.Term > newest.Term || seen.Term == newest.Term && seen.Index > newest.Index {
			newest = *seen
		}
	}
	return newest
}

// noteHolder notes who has taken the lock, and whether he refused connections before it
// was seen: a refusal from then on is news only after his address has answered otherwise.
func (d *decision) noteHolder() {
	s, lock := &d.s, &d.o.Consul.Lock
	refuses := func(member string) bool {
		p := d.peer(member)
		return p != nil && p.Link == LinkRefused
	}
	if lock.Session != "" && lock.Session != s.LockSession {
		s.LockSession = lock.Session
		if refuses(lock.Holder) {
			s.Revived = lock.Holder
		}
	}
	if s.Revived != "" && !refuses(s.Revived) {
		s.Revived = ""
	}
}

// remember dates what is new in this observation.
func (d *decision) remember() {
	s, now := &d.s, d.o.Now
	if s.PhaseTerm != d.seen.Term || s.Phase != d.seen.Phase || s.PhaseAt == 0 {
		s.PhaseTerm, s.Phase, s.PhaseAt = d.seen.Term, d.seen.Phase, now
	}
	switch {
	case s.Hears:
		s.LostAt = 0
	case s.LostAt == 0 || s.LostTerm != d.seen.Term:
		s.LostAt, s.LostTerm = now, d.seen.Term
	}
	if d.o.Server.votedIn(d.seen.Term) && s.VotedTerm != d.seen.Term {
		s.VotedAt, s.VotedTerm = now, d.seen.Term
	}
	d.noteHolder()
	d.noteAdvance()
	if d.rec.Exists() || d.o.Consul.SeenAt == 0 {
		s.EmptySince = 0
	} else if s.EmptySince == 0 {
		s.EmptySince = now
	}
}

// noteAdvance dates how far this standby has come.
func (d *decision) noteAdvance() {
	s, at, p := &d.s, &d.o.Server.Position, d.peer(d.seen.Leader)
	lacks := d.o.Server.InRecovery == Yes && at.Known() && d.fresh(p) && p.Report.Serving && p.Report.Position.Known() && !at.Contains(p.Report.Position)
	if !lacks || s.AdvancedTLI != at.TLI || s.AdvancedLSN != at.LSN {
		s.AdvancedAt, s.AdvancedTLI, s.AdvancedLSN = d.o.Now, at.TLI, at.LSN
	}
}

// votedIn reports whether this member's vote in the term stands: promised on
// disk, receiving nothing, position final (S2). A server whose guard holds a
// lease may have been told to promote, and a promotion that was asked for cannot
// be called back: it does not vote before it was stopped once.
func (v *Server) votedIn(term uint64) bool {
	return v.Process == ProcessRunning && v.DataDir == DataPresent && v.Promise == term && v.Fenced &&
		v.Settled && v.InRecovery == Yes && v.Position.Known() && !v.Armed
}

// halfFenced reports whether a fence was promised and then not carried out, as by a
// sidecar that was killed meanwhile: the vote would never come.
func (v *Server) halfFenced() bool { return v.Fenced && !v.Settled && v.Upstream != "" }

// do asks for an action. Of the exclusive operations on the server only the
// first asked for counts, and none but a stop while another is under way.
func (d *decision) do(a Action) {
	if a.Kind.OnServer() {
		if f := &d.o.Busy; a.Kind != Stop && f.FailedAt != 0 && f.FailedKind == a.Kind && !d.after(f.FailedAt, min(retryPause, againPause<<min(f.Failures, 7))) {
			return
		}
		if b := d.o.Busy.Server; b != NoAction && (a.Kind != Stop || b == Stop) {
			return
		}
		for i := range d.actions {
			if d.actions[i].Kind.OnServer() {
				return
			}
		}
	}
	if a.Kind == Commit && d.o.Busy.Commit {
		return
	}
	d.actions = append(d.actions, a)
}

// againPause is how long after a failed operation on the server the same is tried
// again; it doubles with each failure, up to retryPause.
const againPause = 5 * time.Millisecond

// inDoubt reports whether the record may be changed at any moment, or may have
// been, by a transaction of this member's own, or of its process before: what
// makes more commits possible must not rest on it (S4).
func (d *decision) inDoubt() bool {
	return d.o.Busy.Commit || d.stray() || !d.lockMine()
}

// stray reports whether a transaction whose outcome is not known may still be
// applied: the record has not moved on.
func (d *decision) stray() bool { return d.o.Busy.Doubt != 0 && d.rec.Index <= d.o.Busy.Doubt }

// commit asks for a transaction, unless one is under way. It is not asked for
// before this member has a session, nor sooner than a short while after one
// failed with its outcome unknown and nothing new read since.
func (d *decision) commit(c Change, why string) {
	if c.Session == "" || d.o.Busy.Commit {
		return
	}
	if at := d.o.Busy.CommitFailedAt; at != 0 {
		again := at.Add(commitPause)
		if d.o.Now < again {
			d.wake(again)
			return
		}
	}
	c.Record.Version = RecordVersion
	c.Holder = cmpOr(c.Holder, d.o.Self)
	d.do(Action{Kind: Commit, Why: why, Term: c.Record.Term, Change: c})
}

// commitPause is how long after a failed transaction the next is tried: long
// enough not to press on a Consul that elects its own leader, short beside any
// time-out.
const commitPause = 20 * time.Millisecond

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// wake asks to be called again at the instant at the latest.
func (d *decision) wake(at Instant) {
	if at > d.o.Now && (d.s.WakeAt == 0 || at < d.s.WakeAt) {
		d.s.WakeAt = at
	}
}

// after reports whether d has passed since the instant, and asks to be woken
// then if not.
func (d *decision) after(since Instant, wait time.Duration) bool {
	at := since.Add(wait)
	if d.o.Now >= at {
		return true
	}
	d.wake(at)
	return false
}

func (d *decision) block(b Block) { d.s.Blocks = append(d.s.Blocks, b) }

// dateBlocks keeps the date of a block that stood before.
func (d *decision) dateBlocks(before []Block) {
	for i := range d.s.Blocks {
		b := &d.s.Blocks[i]
		b.Since = d.o.Now
		for j := range before {
			if before[j].What == b.What && before[j].Missing == b.Missing {
				b.Since = before[j].Since
			}
		}
	}
}

func (d *decision) peer(member string) *Peer {
	for i := range d.o.Peers {
		if d.o.Peers[i].Member == member {
			return &d.o.Peers[i]
		}
	}
	return nil
}

// fresh reports whether the peer was heard within the failure time-out.
func (d *decision) fresh(p *Peer) bool {
	if p == nil || p.ReceivedAt == 0 || p.Link == LinkRefused {
		return false
	}
	until := p.ReceivedAt.Add(d.o.Policy.FailureTimeout)
	if d.o.Now > until {
		return false
	}
	d.wake(until + 1)
	return true
}

// hears reports whether this member hears the primary of the newest term: by
// that primary's own report, or by the log it streams (S8).
func (d *decision) hears() bool {
	o := &d.o
	if d.seen.Phase != PhaseLeading || d.seen.Leader == "" {
		return false
	}
	if d.seen.Leader == o.Self {
		return d.serving()
	}
	p := d.peer(d.seen.Leader)
	if p != nil && d.fresh(p) && p.Link != LinkSilent && p.Report.Term == d.seen.Term {
		if p.Report.Serving || p.Report.Restarting {
			return true
		}
		if p.Report.Down {
			return false
		}
	}
	v := &o.Server
	if v.Process != ProcessRunning || v.Receiving != Yes || v.Upstream != d.seen.Leader || v.Promise != d.seen.Term {
		return false
	}
	until := v.SeenAt.Add(o.Policy.FailureTimeout)
	d.wake(until + 1)
	return o.Now <= until
}

// serving reports whether the local server may acknowledge commits.
func (d *decision) serving() bool {
	return d.o.Server.Process == ProcessRunning && d.o.Server.InRecovery == No
}

func (d *decision) role() Role {
	v := &d.o.Server
	switch {
	case v.Process != ProcessRunning || v.InRecovery == Unknown:
		return RoleStopped
	case v.InRecovery == No:
		return RolePrimary
	case d.rec.Leader == d.o.Self:
		return RoleCandidate
	}
	return RoleReplica
}

// announce asks for the registration to say what is true.
func (d *decision) announce() {
	a := &d.o.Announced
	if d.keepTag || a.Known && a.Tag == d.tag && (d.tag != "primary" || a.Term == d.rec.Term) {
		return
	}
	d.do(Action{Kind: Announce, Tag: d.tag, Evict: d.evict, Term: d.rec.Term, Why: "the registration follows the role"})
}

// MakeReport writes what this member tells the others. Seq, Echo and the
// addresses are the shell's to fill.
func MakeReport(s State, o Observation) Report {
	v := &o.Server
	r := Report{
		Member: o.Self, Term: v.Promise, Role: s.Role, Leader: v.Upstream, Position: v.Position, Hears: s.Hears,
		Voted: v.votedIn(v.Promise), Streaming: v.Receiving == Yes && v.Process == ProcessRunning,
		Serving:      v.Process == ProcessRunning && v.InRecovery == No,
		Down:         v.Process == ProcessStopped,
		Checkpointed: v.Checkpointed, Eligible: o.eligible(), Priority: o.Policy.Priority, NoSync: o.Policy.NoSync || o.Policy.ReplicateFrom != "" || o.Intent.Reinit,
		Session: o.Consul.Session, Record: o.newestSeen(), ServerID: v.SystemID, Pending: v.PendingRestart,
	}
	r.Agentless, r.Replay = o.Consul.AgentLostAt != 0, v.Replayed
	r.Restarting = !r.Serving && o.Intent.Restart && !o.Busy.gaveUp(Start) && o.Consul.Record.Leader == o.Self && o.Consul.Record.Phase == PhaseLeading
	r.Writable = r.Serving && v.Writable == Yes && !v.Hidden && s.LeaseUntil > o.Now
	if o.Consul.Record.Leader == o.Self && r.Term < o.Consul.Record.Term {
		r.Term = o.Consul.Record.Term
	}
	if len(s.Blocks) > 0 {
		r.Blocked = s.Blocks[0].What + ": " + s.Blocks[0].Missing
	}
	return r
}
