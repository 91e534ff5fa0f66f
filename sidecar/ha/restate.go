package ha

import (
	"cmp"
	"slices"
)

// What a leader does whose record Consul has lost, or whose lock.

// confirmedSince reports whether nobody can have been elected by a record that Consul has
// lost. A lease would say so by a clock, which may have stood still while another was elected:
// where voters elect, as many as an election fails without have confirmed this term since the
// loss was seen. One without data may have promised a later term, and have lost that with them.
func (v *view) confirmedSince() bool {
	if v.rec.Phase == PhaseElecting && !v.follower() {
		return v.halfSince(v.s.PutBackAt)
	}
	agree, others := v.agreeSince(v.s.PutBackAt)
	if v.rec.Phase == PhaseRestoring {
		// A person may have given it up by a later term, which needed nobody's vote, and waits for this
		// lease. Where no other member is left to say so, the restore continues after that time.
		lease := v.longestLease() + v.longestLease()/clockDrift
		return agree == others || 2*agree >= others && v.after(v.s.PutBackAt, v.o.Policy.FailureTimeout) ||
			!v.hearsOthers() && v.after(v.s.PutBackAt, lease)
	}
	if v.rec.Durability.Mode == ModeQuorum && v.rec.Phase != PhaseBootstrap && v.confirming() > 0 {
		return v.kthEcho(v.withData(v.rec.Durability.Voters), v.confirming()) >= v.s.PutBackAt
	}
	if v.rec.Phase == PhaseBootstrap {
		// Who founds the cluster in this one's place does not wait for the end of its lease.
		return v.foundedSince() == "" && v.after(v.s.PutBackAt, v.o.Policy.FailureTimeout) && (v.unheard() == "" || v.after(v.s.PutBackAt, foundingTime))
	}
	switch {
	// It passes the lock on while its server is down, which then is hidden for as long as it is in doubt
	// what became of that. Who got the lock may have needed nobody else.
	case v.stray() && (!v.serving() || v.o.Server.Hidden):
		return agree == others
	case v.rec.Durability.Mode != ModeQuorum && !v.serving():
		return 2*agree >= others // a primary that is known to be down is followed before its lease ends
	}
	return v.leaseUntil() > v.o.Now
}

// askedJustNow reports whether the members may still answer before anybody is worse off.
func (v *view) askedJustNow() bool {
	return (v.leaseUntil() > v.o.Now || v.rec.Phase == PhaseElecting) && !v.after(v.s.PutBackAt, v.o.Policy.FailureTimeout)
}

// withData are those of the members that are not known to have none.
func (v *view) withData(members []string) []string {
	return slices.DeleteFunc(slices.Clone(members), func(m string) bool {
		p := v.peer(m)
		return p != nil && p.Report.ServerID == ""
	})
}

// hearsOthers reports whether any other member on record is heard.
func (v *view) hearsOthers() bool {
	return slices.ContainsFunc(v.others(), func(m string) bool { p := v.peer(m); return p != nil && v.fresh(p) })
}

// halfSince reports whether half of the others have said since then that they know of no later
// term than this one: in an election one member's log may decide, so that it does not fail
// without any one in particular.
func (v *view) halfSince(since Instant) bool {
	agree, others := v.agreeSince(since)
	return 2*agree >= others
}

// agreeSince counts the others, and those that have said since then that they know of no later
// term than this one.
func (v *view) agreeSince(since Instant) (agree, others int) {
	for _, m := range v.others() {
		others++
		if p := v.peer(m); p != nil && v.fresh(p) && p.Report.ServerID != "" && p.EchoSentAt >= since && p.Report.Record.Term == v.rec.Term && p.Report.Term <= v.rec.Term {
			agree++
		}
	}
	return agree, others
}

// restate writes the record of this leader's term again, which Consul has lost, as after
// a snapshot was restored. Nobody can have been elected since, as what confirms the lease
// says: a leader that slept, or was cut off, may have been followed by another, of which
// Consul knows no more either.
func (t *turn) restate() {
	t.block(Block{What: "Consul is not relied on", Missing: "the record of term " + itoa(t.rec.Term) +
		", which Consul has lost: was it restored from a snapshot? It is being written again"})
	lock, c := LockTake, &t.o.Consul
	if t.lockMine() {
		lock = LockKeep
	}
	r := t.rec
	switch {
	case r.Phase == PhaseElecting && !t.follower():
		// Nobody may know who was elected since, so that its term and its timeline are to be
		// no other's.
		r.Term += unseenTerms
		t.beyondClaims(&r)
		t.votersSince(&r)
	case (r.Phase == PhaseLeading || r.Phase == PhasePromoting) && (t.seenLater() || t.acknowledgesMore()):
		r = t.withAllVoters() // it was put back to before a change of them once before
	case r.Phase == PhaseRestoring && c.Record.SystemID == r.SystemID:
		r.Timeline = max(r.Timeline, c.Record.Timeline) // what Consul says now may have led on that
	}
	t.commit(Change{What: "restate", Record: r, Lock: lock, Session: c.Session, Prior: c.Lock}, "Consul has lost the record of this term")
}

// votersSince makes all members voters of an election that is written again, where who they were
// may have changed since it began: the last primary goes on by what Consul says now; or this
// process has stood still, and another may have been elected meanwhile, whose log has all then.
func (t *turn) votersSince(r *Record) {
	now, goesOn := &t.o.Consul.Record, false
	if now.Exists() && now.Term == r.Origin.Term && now.Leader == r.Origin.Leader {
		goesOn = !now.Durability.Equal(r.Durability)
	}
	if r.Durability.Mode != ModeQuorum || !goesOn && !t.foundElected() {
		return
	}
	r.Durability.K, r.Durability.Voters = 1, slices.Clone(r.Members)
	if t.foundElected() && !t.forced() {
		r.Origin, r.Fenced, r.Final = Origin{}, false, nil
	}
}

// votersLost reports whether Consul was put back to an earlier record of this leader's own
// term, as another member has seen: it is not known who the voters were, as this process
// has not read it itself.
func (v *view) votersLost() bool {
	return !v.putBack && !v.follower() && v.lockMine() && !v.rec.claimsUnknown() && v.recordLost() && v.seen.Term == v.rec.Term &&
		(v.rec.Phase == PhaseLeading || v.rec.Phase == PhasePromoting)
}

// votersForgotten reports whether this primary's server acknowledges what the record does not say
// that its voters hold: the record is widened before the setting, so Consul was put back to before
// that, and this process has not read what it had; or somebody has changed the setting.
func (v *view) votersForgotten() bool {
	return !v.putBack && !v.follower() && (v.rec.Phase == PhaseLeading || v.rec.Phase == PhasePromoting) && v.acknowledgesMore()
}

// acknowledgesMore reports whether this server acknowledges what the record does not say that its
// voters hold.
func (v *view) acknowledgesMore() bool {
	sv := &v.o.Server
	return v.rec.Durability.Mode == ModeQuorum && v.serving() && sv.SeenAt != 0 && !sv.SyncUnsure && !Covers(sv.Sync, v.o.Self, v.rec.Durability)
}

// restoreVoters writes what is true no matter who they were.
func restoreVoters(why string) func(*turn) {
	return func(t *turn) {
		t.commit(Change{What: "voters", Record: t.withAllVoters(), Lock: LockKeep, Session: t.o.Consul.Session}, why)
	}
}

// withAllVoters is the record of this leader's term, of which a later one is known that it has not
// read: some member has each commit that was acknowledged, as this one is a member and has all.
func (t *turn) withAllVoters() Record {
	r := t.rec
	if r.Durability.Mode == ModeQuorum && !t.follower() {
		r.Durability.K, r.Durability.Voters = 1, slices.Clone(r.Members)
	}
	r.Changes = max(r.Changes, t.seen.Changes)
	if t.seen.Phase.order() > r.Phase.order() && !r.claimsUnknown() { // else its server says first on which timeline it leads
		r.Phase = t.seen.Phase
	}
	if r.Phase == PhaseLeading {
		r.Given = nil
	}
	return r
}

// reacquire takes the lock back in the same term (S8): a lost session alone
// deposes nobody, and a session of this member's own earlier process is as good
// as none. Where another's holds it, Consul was put back, or somebody has written the
// key: who is elected changes lock and record in one transaction. It is refused where Consul has a
// later record; where it has not, and the members do, it was put back.
func (t *turn) reacquire() {
	c, r := &t.o.Consul, t.rec
	if (t.seenLater() || t.votersForgotten()) && (r.Phase == PhaseLeading || r.Phase == PhasePromoting) {
		r = t.withAllVoters()
	}
	t.commit(Change{What: "reacquire", Record: r, Lock: LockTake, Session: c.Session, Prior: c.Lock}, "the session that held the lock is gone")
}

// allHeard reports whether of every member on record it is known what it has, if anything. One that
// has no data, did not see the election begin, and has a disk from after that, may have lost what
// shows that it was won; so may this one.
func (v *view) allHeard() bool {
	own := &v.o.Server
	if !v.present() && v.foundElected() && !(own.Seen.System == v.rec.SystemID && v.keptWord(own.Seen.Since)) {
		return false
	}
	for _, m := range v.others() {
		p := v.peer(m)
		if !v.fresh(p) || !v.sinceGap(p) || p.Link != LinkUp || !p.Report.Position.Known() && !v.knownBare(p) {
			return false
		}
	}
	return true
}

// knownBare reports whether a peer is known to have no data, and to have won nothing with what it had.
// One that has read neither the record nor its files yet may have data.
func (v *view) knownBare(p *Peer) bool {
	return p.Report.ServerID == "" && p.Report.Record.Term != 0 && (v.sawItBegin(p) || v.keptWord(p.Report.SeenSince))
}

// keptWord reports whether a disk that has kept the newest record since that term would show it, had
// its own member won an election of Consul's term or of a later one.
func (v *view) keptWord(since uint64) bool {
	return since != 0 && since < v.rec.Term && !v.seenLater()
}

// sawItBegin reports whether a member's process has read a record from before the term of Consul's.
func (v *view) sawItBegin(p *Peer) bool { return p.Report.First == 0 || p.Report.First < v.rec.Term }

// deposedUnheard reports whether a member led before the election that is under way, and has not
// said itself where its log ends: it was deposed because it was not heard, so that its machine may
// have stood still, and its clock as well, while the election was won.
func (v *view) deposedUnheard(m string) bool { return m == v.rec.Origin.Leader && v.rec.Final == nil }

// whoRestates says of whom a record that this member has not read, and Consul has lost, can be had.
func (v *view) whoRestates() string {
	if v.seen.Leader == v.o.Self {
		return "pgsidecar was restarted here since, and cannot write it again"
	}
	if v.leaderPeer() != nil {
		return v.seen.Leader + ", which leads, writes it again"
	}
	return cmp.Or(v.seen.Leader, "its leader") + " writes it again when it is back, unless pgsidecar was restarted there"
}
