package ha

// founderRules are what the founder does until its server takes writes.
var founderRules = [...]rule{
	{"founder-lease", nil, (*turn).extendLease, goesOn},
	{"founder-exit", (*view).shutdown, (*turn).stopAndExit, ends},
	{"founder-discard", (*view).halfMade, discard("an unfinished bootstrap was found"), ends},
	// Consul may have been put back to the founding: there were commits since, and this member,
	// which led, may have lost its own.
	{"founder-late", func(v *view) bool { return v.running() && v.o.Server.Founding && v.foundedSince() != "" && !v.forced() },
		stopNow("the cluster was founded before, and others know more of it"), ends},
	{"founder-empty", func(v *view) bool { return v.foundsEmpty() && v.foundedBefore() != "" && !v.forced() }, blocked((*view).foundedBlock), ends},
	{"founder-init", func(v *view) bool { return v.absent() && v.rested(Init) },
		func(t *turn) { t.do(Action{Kind: Init, Term: t.rec.Term, Why: "found the cluster"}) }, ends},
	{"founder-start", func(v *view) bool { return v.present() && v.stopped() }, (*turn).startPrimary, ends},
	// Others that hear it as their primary would wait for it for ever.
	{"founder-hangs", (*view).founderHangs, stopNow("the server does not answer, or takes no writes, and other members have the data"), ends},
	{"founder-forced", (*view).mayRefound, (*turn).refound, ends},
	{"founder-recovers", func(v *view) bool { return v.running() && v.o.Server.InRecovery != No && v.o.Server.Instructed != "" }, blocked(func(v *view) Block {
		return Block{What: "the cluster is not founded yet", Missing: "the end of what PostgreSQL was told by recovery.signal: " + v.o.Server.Instructed}
	}), ends},
	{"founder-is-standby", func(v *view) bool { return v.running() && v.standby() }, blocked((*view).notFounded), ends},
	{"founder-leads", func(v *view) bool { return v.serving() && v.o.Server.Writable == Yes && v.inTime }, (*turn).founded, ends},
}

// foundedSince is a member that is heard, and knows more of the cluster than that it is being
// founded, or has data of it; empty: none. Those of another founder never led.
func (v *view) foundedSince() string {
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		known, own := p.Report.Record, v.o.Server.SystemID
		later := known.Term > v.rec.Term || known.Term == v.rec.Term && known.Phase != PhaseBootstrap
		if own != "" && known.System == own { // it has read what this one has just written, before this one hears so itself
			later = false
		}
		if (later || p.Report.ServerID != "" && p.Report.ServerID != own && !p.Report.Founding) && v.fresh(p) {
			return p.Member
		}
	}
	return ""
}

// foundedBefore says why a founder without data, whose record an earlier process of it may have
// written, is not to go on: others know more, or have not been asked yet. Empty: it may.
func (v *view) foundedBefore() string {
	if since := v.foundedSince(); since != "" {
		return since + ", which knows more of the cluster than that it is being founded: Consul was put back, and this member has lost its data"
	}
	if v.s.Unfounded {
		return ""
	}
	switch names := v.unheard(); {
	case names != "" && !v.after(v.s.PhaseAt, foundingTime):
		return "word from " + names + ", which may have the cluster's data; it is not waited for longer than " + foundingTime.String()
	case !v.after(v.s.PhaseAt, v.o.Policy.FailureTimeout):
		return "the time in which other members can say that they know more of the cluster"
	}
	return ""
}

func (v *view) foundedBlock() Block {
	b := Block{What: "no cluster is founded", Missing: v.foundedBefore()}
	if v.foundedSince() == "" { // it is a matter of time
		return b
	}
	to := v.hasMost()
	b.Override, b.Cost = failoverTo(to), "every commit that "+to+" does not have"
	if to == v.o.Self {
		b.Cost = "the cluster that is founded is empty, and whatever the other members have is no part of it"
	}
	return b
}

// founderHangs reports whether the server of a cluster whose record is made anew does not
// answer any more, or takes no writes by the fault of its machine, while another member
// could lead.
func (v *view) founderHangs() bool {
	sv := &v.o.Server
	since := sv.FailingSince
	if since == 0 && sv.Writable == No {
		since = sv.FaultyAt
	}
	return v.serving() && sv.SeenAt != 0 && since != 0 && !v.paused() && v.after(since, v.o.Policy.FailureTimeout) && v.bestHeard() != ""
}

// founded records the first term. Clients are let in only when the record is
// there: until then another may found the cluster in this member's place.
func (t *turn) founded() {
	sv, r := &t.o.Server, t.rec
	r.SystemID, r.Phase, r.Timeline = sv.SystemID, PhaseLeading, sv.Position.TLI
	r.Claims = []Claim{{TLI: r.Timeline, Term: r.Term}}
	if sv.Undoable && sv.Restored == r.Restored {
		r.Since = r.Timeline // a person continues a restore whose record is lost
	}
	t.commit(Change{What: "lead", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "the server takes writes")
}

// abandonRules remove what this member made for a cluster that another founded.
var abandonRules = [...]rule{
	{"abandon-stop", (*view).running, stopNow("another member has founded the cluster"), ends},
	{"abandon-discard", nil, discard("another member has founded the cluster; this data never led anything"), ends},
}

// takeOverRules found the cluster in the place of a founder that is gone: its
// session has ended, and it is not heard. It has nothing to lose.
var takeOverRules = [...]rule{
	{"take-over-forced", (*view).mayRefound, (*turn).refound, ends},
	{"take-over-forced-discard", func(v *view) bool { return v.forced() && (v.halfMade() || v.present() && v.foundsEmpty()) }, discard("an unfinished bootstrap was found"), ends},
	{"take-over-forced-empty", (*view).mayFoundEmpty, (*turn).takeOver, ends},
	{"take-over-wait", (*view).founderMayLive, func(t *turn) {
		t.block(t.notFounded())
		if t.present() && t.stopped() && !t.o.Server.Founding && t.o.Server.Instructed == "" && t.o.Server.Strayed == "" {
			t.startStandby() // a command may make it lead
		}
	}, ends},
	// The founder, or somebody else since, may have gone on with a later record.
	{"take-over-stale", func(v *view) bool { return v.putBack || v.seenLater() }, func(t *turn) { t.block(t.notFounded()) }, ends},
	{"take-over-discard", (*view).halfMade, discard("an unfinished bootstrap was found"), ends},
	{"take-over-discard-founding", func(v *view) bool { return v.present() && v.o.Server.Founding && v.stopped() },
		discard("an unfinished bootstrap was found"), ends},
	{"take-over", (*view).absent, (*turn).takeOver, ends},
	// It has data, and may know of a cluster that the founder had left behind.
	{"take-over-data", nil, func(t *turn) { t.block(t.notFounded()) }, ends},
}

func (v *view) founderMayLive() bool {
	p := v.peer(v.rec.Leader)
	return v.o.Consul.Lock.Session != "" || v.fresh(p) || !v.after(v.s.PhaseAt, v.o.Policy.FailureTimeout)
}

func (t *turn) takeOver() {
	o, r := &t.o, t.rec
	if r.Term++; t.putBack || t.seenLater() {
		r.Term = max(t.rec.Term, t.newestPromise(), t.seen.Term) + unseenTerms
	}
	// What the founder made is no part of it.
	r.SystemID, r.Leader, r.Members, r.Reason = "", o.Self, []string{o.Self}, t.rec.Leader+" did not found the cluster"
	if t.rec.Leader == o.Self {
		r.Reason = "the record was lost"
	}
	t.commit(Change{What: "found", Record: r, Lock: LockTake, Session: o.Consul.Session, Prior: o.Consul.Lock}, r.Reason)
}
