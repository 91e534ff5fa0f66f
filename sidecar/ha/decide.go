package ha

import (
	"cmp"
	"time"
)

// Decide looks at what is known and says what to do now. It is total and
// deterministic: the same state and observation give the same answer, and
// trouble is a value in it. It must be called again after every change of the
// observation, and no later than State.WakeAt.
func Decide(s State, o Observation) (State, []Action) { return new(turn).decide(s, o, "") }

func (t *turn) decide(s State, o Observation, without string) (State, []Action) {
	*t = turn{view: view{s: s, o: o, rec: o.Consul.Record}, without: without}
	blocks := s.Blocks
	t.s.WakeAt, t.s.Blocks, t.s.Rules, t.s.Refused, t.s.LeaseUntil, t.s.VouchedUntil = 0, nil, make([]string, 0, 12), "", 0, 0
	t.noteRecord()
	t.noteHeard()
	t.noteForced()
	t.s.Hears = t.hears()
	t.remember()
	t.try(situationRules[:])
	t.try(registrationRules[:])
	t.s.Role = t.role()
	t.dateBlocks(blocks)
	return t.s, t.actions
}

// situationRules are the questions that come before all others: is anything
// known, is there a cluster, is the data directory its own, and who leads.
var situationRules = [...]rule{
	// A newer program's record is not for this one to replace.
	{"record-newer", func(v *view) bool { return v.o.Consul.Newer }, exit(func(v *view) string { return v.o.Consul.Broken + "; nothing was changed" }), ends},
	// Whatever keeps a handover from its end, a supervisor kills this process soon.
	{"exit-overdue", func(v *view) bool {
		return v.shutdown() && v.after(v.o.Intent.Since, 2*v.o.Policy.StopTimeout+overdueTime)
	}, func(t *turn) {
		t.do(Action{Kind: Exit, Why: "stopped as asked, before all was done that comes before it"})
	}, ends},
	{"stop-overdue", func(v *view) bool {
		return v.shutdown() && v.running() && v.o.Busy.Server != Stop && v.after(v.o.Intent.Since, v.o.Policy.StopTimeout)
	}, func(t *turn) {
		t.do(Action{Kind: Stop, Why: "this member is asked to stop, and the handover takes too long"})
	}, ends},
	{"record-broken", func(v *view) bool {
		return v.o.Consul.Broken != "" && !v.putBack && (!v.forced() || v.foundsEmpty() && !v.foundsOverBroken())
	}, (*turn).sayBroken, ends},
	// As nothing is known, nothing can be handed over.
	{"exit-without-consul", func(v *view) bool {
		return v.o.Consul.SeenAt == 0 && v.shutdown() && v.o.Server.Process != ProcessUnknown
	}, (*turn).stopAndExit, ends},
	{"wait-for-consul", func(v *view) bool { return v.o.Consul.SeenAt == 0 },
		nothingDecided(func(*view) string { return "Consul has not answered yet" }), ends},
	{"wait-for-guard", func(v *view) bool { return v.o.Server.Process == ProcessUnknown },
		nothingDecided(func(*view) string { return "the guard's report on the server" }), ends},
	{"wait-for-files", func(v *view) bool { return v.o.Server.DataDir == DataUnknown },
		nothingDecided(func(v *view) string { return cmp.Or(v.o.Server.Problem, "a look at the data directory") }), ends},
	// Before anything else: what it is may be a primary, with clients.
	{"stray-paused", func(v *view) bool { return v.o.Server.Stray != 0 && v.paused() }, blocked(func(v *view) Block {
		return Block{What: "this member's server is not managed", Missing: "the end of a server that pgsidecar did not start: process " + itoa(uint64(v.o.Server.Stray)) +
			" runs on the data directory; stop it with pg_ctl stop", Override: "pgsidecar resume", Cost: "that server is stopped"}
	}), ends},
	// Data that were in no cluster yet, whose server `run --take-over` found running: it serves
	// on until this member can go on with the data, and for good if it cannot.
	{"first-contact-exit", func(v *view) bool { return v.firstContact() && v.shutdown() },
		func(t *turn) {
			t.do(Action{Kind: Exit, Why: "stopped as asked; the server that pgsidecar did not start runs on"})
		}, ends},
	{"first-contact-other", func(v *view) bool { return v.firstContact() && (v.foreign() || v.unusable()) }, exit(func(v *view) string {
		if v.unusable() {
			return v.o.Server.Problem
		}
		return v.foreignText()
	}), ends},
	{"first-contact", func(v *view) bool { return v.firstContact() && v.waitsToFound() != nil },
		blocked(func(v *view) Block { return *v.waitsToFound() }), ends},
	{"stray", func(v *view) bool { return v.o.Server.Stray != 0 }, func(t *turn) {
		t.block(Block{What: "this member's server is not started", Missing: "the end of a server that pgsidecar did not start: process " + itoa(uint64(t.o.Server.Stray)) +
			" runs on the data directory, and is being stopped"})
		// In async mode it may acknowledge writes beside the next primary.
		t.do(Action{Kind: Stop, Immediate: t.rec.Durability.Mode == ModeAsync, Why: "a server that pgsidecar did not start runs on the data directory"})
	}, ends},
	{"no-record", func(v *view) bool { return !v.rec.Exists() && !v.putBack }, func(t *turn) { t.try(bootstrapRules[:]) }, ends},
	{"abandon-founding", func(v *view) bool { return v.foreign() && v.o.Server.Founding }, func(t *turn) { t.try(abandonRules[:]) }, ends},
	{"foreign-system-id", (*view).foreign, exit((*view).foreignText), ends},
	{"foreign-directory", (*view).unusable, exit(func(v *view) string { return v.o.Server.Problem }), ends},
	{"restore-cut-off", (*view).restoresInVain, func(t *turn) {
		t.do(Action{Kind: Stop, Why: "the restore was given up"})
	}, ends},
	{"restore-undone", (*view).toUndo, func(t *turn) { t.try(undoRules[:]) }, ends},
	{"restore-unsure", (*view).unsureOfRestore, func(t *turn) { t.try(unsureRules[:]) }, ends},
	{"instructed-in-cluster", func(v *view) bool {
		return v.o.Server.Instructed != "" && !v.o.Server.Undoable && v.stopped() && v.rec.Phase != PhaseBootstrap
	}, exit(func(v *view) string {
		return "the data directory has recovery.signal (" + v.o.Server.Instructed + "), and the cluster exists already: restore into a cluster of another name, " +
			"or remove that file, and this member becomes a replica; nothing was changed"
	}), ends},
	{"lead", (*view).mayLead, func(t *turn) { t.try(leaderRules[:]) }, ends},
	{"follow", nil, func(t *turn) { t.try(memberRules[:]) }, ends},
}

// foundsOverBroken reports whether status names the command that founds an empty cluster in the
// place of one whose record cannot be read: nobody who has data is heard for long.
func (v *view) foundsOverBroken() bool {
	return (v.otherData() == "" || v.present() && v.onlyFounders()) && v.after(v.s.EmptySince, foundingTime)
}

// onlyFounders reports whether all data of others that are heard were made to found a cluster with,
// and have led nothing.
func (v *view) onlyFounders() bool {
	for i := range v.o.Peers {
		if p := &v.o.Peers[i]; v.hasOther(p) && !p.Report.Founding {
			return false
		}
	}
	return true
}

// sayBroken blocks while the record cannot be read.
func (t *turn) sayBroken() {
	t.keepTag = true
	b := Block{What: "nothing is decided", Missing: "a record in Consul that can be read: " + t.o.Consul.Broken + "; put the state key back as it was"}
	switch {
	case t.foundsEmpty() && t.foundsOverBroken():
		b.Override, b.Cost = failoverTo(t.o.Self), "the cluster that is founded is empty, and whatever the other members have is no part of it"
	case !t.foundsEmpty():
		b.Override, b.Cost = failoverTo(t.o.Self), "every commit that "+t.o.Self+" does not have"
	}
	t.block(b)
}

// overdueTime is how long the end of a member may take beyond its time-outs.
const overdueTime = 5 * time.Second

// exitRules stop the server and end the process; roles were passed on before.
var exitRules = [...]rule{
	{"exit-stop", (*view).running, func(t *turn) { t.do(Action{Kind: Stop, Why: "this member is asked to stop"}) }, ends},
	{"exit", func(v *view) bool { return v.o.Busy.Server == NoAction && !v.o.Busy.Commit },
		func(t *turn) { t.do(Action{Kind: Exit, Why: "stopped as asked"}) }, ends},
}

func (t *turn) stopAndExit() { t.try(exitRules[:]) }

// registrationRules ask for the registration to say what is true.
var registrationRules = [...]rule{
	{"announce", (*view).misregistered, func(t *turn) {
		t.do(Action{Kind: Announce, Register: Register{Tag: t.tag, Evict: t.evict}, Term: t.rec.Term, Why: "the registration follows the role"})
	}, ends},
}

// misregistered reports whether the registration says what is not so.
func (v *view) misregistered() bool {
	a := &v.o.Announced
	return !v.keepTag && !(a.Known && a.Tag == v.tag && (v.tag != "primary" || a.Term == v.rec.Term))
}

// foreign reports whether the data directory is another cluster's.
func (v *view) foreign() bool {
	return v.rec.SystemID != "" && v.o.Server.SystemID != "" && v.rec.SystemID != v.o.Server.SystemID
}

// unusable reports whether the data directory must not be touched.
func (v *view) foreignText() string {
	return "the data directory belongs to another cluster (system identifier " +
		v.o.Server.SystemID + ", the cluster's is " + v.rec.SystemID + "); it is left untouched. " +
		"Move it away and start this member again, and it is cloned anew; or, if the cluster is to go on with these data (restored, upgraded), " +
		"stop all members and run pgsidecar remove --cluster NAME first"
}

func (v *view) unusable() bool { return v.o.Server.DataDir == DataForeign }

// mayLead reports whether this member is the newest term's leader. A peer that
// knows of a later term ends our own at once.
func (v *view) mayLead() bool {
	return v.rec.Leader == v.o.Self && v.seen.Term == v.rec.Term && v.o.Server.Promise <= v.rec.Term
}

// noteHolder notes who has taken the lock, and whether he refused connections before it
// was seen: a refusal from then on is news only after his address has answered otherwise.
func (t *turn) noteHolder() {
	s, lock := &t.s, &t.o.Consul.Lock
	refuses := func(member string) bool {
		p := t.peer(member)
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
func (t *turn) remember() {
	s, now := &t.s, t.o.Now
	s.BegunAt = cmp.Or(s.BegunAt, now)
	if s.PhaseTerm != t.seen.Term || s.Phase != t.seen.Phase || s.PhaseAt == 0 {
		s.PhaseTerm, s.Phase, s.PhaseAt = t.seen.Term, t.seen.Phase, now
	}
	switch {
	case s.Hears:
		s.LostAt = 0
	case s.LostAt == 0 || s.LostTerm != t.seen.Term:
		s.LostAt, s.LostTerm = now, t.seen.Term
	}
	if t.o.Server.fencedIn(t.seen.Term) && s.VotedTerm != t.seen.Term {
		s.VotedAt, s.VotedTerm = now, t.seen.Term
	}
	if !t.seenLater() {
		s.LaterAt = 0
	} else if s.LaterAt == 0 {
		s.LaterAt = now
	}
	t.noteHolder()
	t.noteAdvance()
	t.noteStood()
	t.noteCandidate()
	t.noteWitness()
	t.noteCrash()
	t.noteUnreached()
	if t.leaderPeer() == nil || t.strayed() == "" {
		s.StrayedAt = 0
	} else if s.StrayedAt == 0 {
		s.StrayedAt = now
	}
	t.noteEmpty()
}

// noteForced notes when this member has led as a person had decided, and does not any more.
func (t *turn) noteForced() {
	f, o := &t.s.Forced, &t.o
	if !o.Intent.Force {
		*f = Forced{}
		return
	}
	if f.Since != o.Intent.Since || f.Since == 0 {
		*f = Forced{Since: o.Intent.Since, After: t.seen.Term}
	}
	f.Spent = f.Spent || f.Led && t.seen.Leader != o.Self
	f.Led = f.Led || t.seen.Leader == o.Self && t.seen.Term > f.After
	o.Intent.Force = !f.Spent
}

// noteEmpty dates since when there is no record, and since when anybody is heard meanwhile.
func (t *turn) noteEmpty() {
	s := &t.s
	if t.rec.Exists() || t.o.Consul.SeenAt == 0 {
		s.EmptySince, s.HeardSince = 0, 0
		s.Unfounded = s.Unfounded && t.seen.Phase == PhaseBootstrap
		return
	}
	s.Unfounded = true
	s.EmptySince = cmp.Or(s.EmptySince, t.o.Now)
	if !t.hearsAny() {
		s.HeardSince = 0
		return
	}
	s.HeardSince = cmp.Or(s.HeardSince, t.o.Now)
}

// noteAdvance dates how far this standby has come.
func (t *turn) noteAdvance() {
	s, at, p := &t.s, &t.o.Server.Position, t.peer(t.seen.Leader)
	lacks := t.o.Server.InRecovery == Yes && at.Known() && t.heardLately(p) && p.Report.leads() && p.Report.Position.Known() && !at.Contains(p.Report.Position)
	if !lacks || s.AdvancedTLI != at.TLI || s.AdvancedLSN != at.LSN {
		s.AdvancedAt, s.AdvancedTLI, s.AdvancedLSN = t.o.Now, at.TLI, at.LSN
	}
}

// noteStood dates since when a server of a standby cluster stands where it is.
func (t *turn) noteStood() {
	s, at := &t.s, &t.o.Server.Position
	if t.follower() && (s.Stood.TLI != at.TLI || s.Stood.LSN != at.LSN) {
		s.StoodAt, s.Stood = t.o.Now, *at
	}
}

// noteCandidate dates how far the candidate of the newest term has replayed, and keeps
// how far the last primary was heard to be.
func (t *turn) noteCandidate() {
	s, p := &t.s, t.peer(t.seen.Leader)
	if t.seen.Leader == t.o.Self && t.standby() && s.Replayed != t.o.Server.Replayed {
		s.ReplayAt, s.Replayed = t.o.Now, t.o.Server.Replayed
	}
	if p == nil || p.ReceivedAt == 0 || p.Report.Term != t.seen.Term {
		return
	}
	r := &p.Report
	if r.Serving && r.Position.Known() {
		if s.Led = r.Position; t.sinceGap(p) {
			s.LedAt, s.LedTerm = p.ReceivedAt, t.seen.Term
		}
	}
	if s.Replayed != r.Replay {
		s.ReplayAt, s.Replayed = t.o.Now, r.Replay
	}
}

// votedIn reports whether this member's vote in the term stands: promised on
// disk, receiving nothing, position final (S2). A server whose guard holds a
// lease may have been told to promote, and a promotion that has begun cannot
// be called back: it does not vote before it was stopped once.
func (v *Server) votedIn(term uint64) bool { return v.fencedIn(term) && v.Strayed == "" && !v.owes() }

// fencedIn reports whether this member's word says nothing for any leader of an earlier term,
// be its copy a vote or not.
func (v *Server) fencedIn(term uint64) bool {
	return v.Process == ProcessRunning && v.DataDir == DataPresent && v.Promise == term && v.Fenced &&
		v.Settled && v.InRecovery == Yes && v.Position.Known() && !v.Armed
}

// Promises writes down that a term is promised to its leader (empty: not known). A vote is not
// taken from one leader of a term and given to another (S1); who follows one promises it to that one.
func (f *Files) Promises(term uint64, to string, fenced bool) {
	if f.Fenced = fenced; term < f.Promise {
		return
	}
	if term > f.Promise || to != "" && (f.PromisedTo == "" || !fenced) {
		f.PromisedTo = to
	}
	f.Promise = term
}

// owes reports whether this copy may lack commits that this member acknowledged with the
// copy that it had before (S4).
func (v *Server) owes() bool { return v.Owed.Known() && !v.Position.Contains(v.Owed) }

// whole is the position without the beginning of a record whose end never came: bytes that
// hold no commit, and that PostgreSQL passes over when it follows another timeline.
func (v *Server) whole() Position {
	at := v.Position
	if v.ReadAll && v.Settled && v.Replayed != 0 && v.Replayed < at.LSN {
		at.LSN = v.Replayed
	}
	return at
}

// hangs reports whether a stop of the server has been under way for so long that it will
// not end, or the guard has killed it in vain: its disk hangs, or the kernel keeps the process.
func (o *Observation) hangs() bool {
	if sv := &o.Server; sv.Process == ProcessRunning && sv.Armed && sv.StartedAt < sv.LeaseUntil && o.Now > sv.LeaseUntil.Add(hangTime) {
		return true
	}
	return o.Busy.Server == Stop && o.Busy.Since != 0 && o.Now > o.stopHangsAt()
}

// stopHangsAt is when a stop that is under way has taken too long.
func (o *Observation) stopHangsAt() Instant {
	if o.Busy.Immediate {
		return o.Busy.Since.Add(2 * hangTime)
	}
	return o.Busy.Since.Add(o.Policy.StopTimeout + hangTime)
}

// passes reports whether this primary has been stopped for a handover, and has the lock and
// a Consul to pass it on by. That takes a transaction, and before it the end of the stop and
// a look at the final position: on a busy machine longer than others would wait.
func (o *Observation) passes() bool {
	sv, c := &o.Server, &o.Consul
	planned := o.Intent.Switchover || o.Intent.Shutdown || c.AgentLostAt != 0 || c.HiddenAt != 0
	return planned && sv.Process == ProcessStopped && sv.Asked && sv.Stray == 0 && !o.hangs() &&
		c.Record.Leader == o.Self && c.Record.Phase == PhaseLeading && c.Session != "" && c.Lock.Session == c.Session && c.Reachable != No
}

// hangTime is how long after its time-out a fast stop may take, as it becomes an immediate
// one then. That takes as long until SIGKILL, and the kernel ends the processes.
const hangTime = time.Second

// halfFenced reports whether a fence was promised and then not carried out, as by a
// sidecar that was killed meanwhile: the vote would never come.
func (v *Server) halfFenced() bool { return v.Fenced && !v.Settled && v.Upstream != "" }

// dateBlocks keeps the date of a block that stood before.
func (t *turn) dateBlocks(before []Block) {
	for i := range t.s.Blocks {
		b := &t.s.Blocks[i]
		b.Since = t.o.Now
		for j := range before {
			if before[j].What == b.What && before[j].Missing == b.Missing {
				b.Since = before[j].Since
			}
		}
	}
}

func (v *view) role() Role {
	sv := &v.o.Server
	switch {
	case sv.Process != ProcessRunning || sv.InRecovery == Unknown:
		return RoleStopped
	case sv.InRecovery == No:
		return RolePrimary
	case v.relays():
		return RoleStandbyLeader
	case v.rec.Leader == v.o.Self:
		return RoleCandidate
	}
	return RoleReplica
}

// MakeReport writes what this member tells the others. Seq, Echo and the
// addresses are the shell's to fill.
func MakeReport(s State, o Observation) Report {
	o.Intent.Force = o.Intent.Force && !s.Forced.Spent
	v := &o.Server
	r := Report{
		Member: o.Self, Term: v.Promise, PromisedTo: v.PromisedTo, Role: s.Role, Leader: v.Upstream, Position: v.Position, Hears: s.Hears,
		Voted: v.votedIn(v.Promise), Streaming: v.Receiving == Yes && v.Process == ProcessRunning,
		Serving:  v.Process == ProcessRunning && v.InRecovery == No && !o.hangs(),
		Relay:    s.Role == RoleStandbyLeader,
		Stopping: o.hangs(),
		Down:     v.Process == ProcessStopped && v.Stray == 0,
		Founding: v.Founding,
		Strayed:  v.Strayed, Copy: v.Copy, Lease: o.Policy.Lease,
		Checkpointed: v.Checkpointed, Eligible: o.eligible(), Priority: o.Policy.Priority, NoSync: o.Policy.NoSync || o.Policy.ReplicateFrom != "" || o.Intent.Reinit,
		Session: o.Consul.Session, Record: o.newestSeen(s.Last), ServerID: v.SystemID, Pending: v.PendingRestart,
	}
	r.Unanswered = !r.Streaming && o.portSilent(v.Upstream)
	if s.Heard.order(r.Record) > 0 && !s.Heard.alien(r.Record) {
		r.Record = s.Heard
	}
	r.First = cmp.Or(s.FirstTerm, r.Record.Term) // it has read none, and knows of this one by others
	if v.Seen.System == r.Record.System {
		r.SeenSince = v.Seen.Since
	}
	r.Paused, r.Software, r.SyncPriority = v.Paused, v.Software, o.Policy.SyncPriority
	r.Agentless, r.Replay = o.Consul.AgentLostAt != 0 || o.Consul.HiddenAt != 0, v.Replayed
	r.Hidden, r.ConfigProblem, r.Misled = o.Consul.HiddenBy, v.ConfigProblem, v.Misled
	r.Restarting = !r.Serving && (o.Intent.Restart || o.Intent.ReleaseSite || s.Damped) && !o.Busy.gaveUp(Start) && o.Consul.Record.Leader == o.Self && o.Consul.Record.Phase == PhaseLeading
	r.Restarting = r.Restarting || o.rewindsToSite()
	r.Passing = o.passes()
	r.Writable = r.Serving && v.Writable == Yes && !v.Hidden && s.LeaseUntil > o.Now
	if o.Consul.Record.Leader == o.Self && r.Term < o.Consul.Record.Term {
		r.Term, r.PromisedTo = o.Consul.Record.Term, o.Self
	}
	if len(s.Blocks) > 0 {
		r.Blocked, r.Override, r.Cost = s.Blocks[0].What+": "+s.Blocks[0].Missing, s.Blocks[0].Override, s.Blocks[0].Cost
	}
	return r
}
