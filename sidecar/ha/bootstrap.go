package ha

// bootstrap is what a member does while Consul has no record of the cluster.
func (d *decision) bootstrap() {
	v, o := &d.o.Server, &d.o
	switch {
	case o.Intent.Shutdown:
		d.leave()
		return
	case v.DataDir == DataHalfMade:
		d.do(Action{Kind: Discard, Why: "an unfinished bootstrap was found"})
		return
	case v.DataDir == DataForeign:
		d.do(Action{Kind: Exit, Code: 1, Why: v.Problem})
		return
	case v.DataDir == DataPresent && !v.WasPrimary && v.Process == ProcessStopped || v.Process == ProcessRunning && v.InRecovery == Yes:
		d.block(Block{What: "no cluster is founded", Missing: "the primary's member: this data directory is a standby's"})
		return
	case v.DataDir == DataAbsent && !d.after(d.s.EmptySince, o.Policy.FailureTimeout):
		return // a member that has data goes first
	}
	// If there was a record and it is lost, others have promised to follow no leader of an
	// earlier term than they know; nor does this one lead in one. The term that it has
	// promised is not above that of a later primary, if there was one.
	r := Record{SystemID: v.SystemID, Term: max(1, v.Promise), Leader: o.Self, Phase: PhaseBootstrap, Members: []string{o.Self},
		Durability: Durability{Mode: o.Policy.Mode, Voters: []string{}}, Reason: "the cluster is founded"}
	d.commit(Change{What: "found", Record: r, Lock: LockTake, Session: o.Consul.Session, Prior: o.Consul.Lock}, "there is no cluster yet")
}

// foundCluster is what the founder does until its server takes writes.
func (d *decision) foundCluster() {
	v := &d.o.Server
	inTime := d.extend()
	switch {
	case d.o.Intent.Shutdown:
		d.leave()
	case v.DataDir == DataHalfMade:
		d.do(Action{Kind: Discard, Why: "an unfinished bootstrap was found"})
	case v.DataDir == DataAbsent && d.rested(Init):
		d.do(Action{Kind: Init, Term: d.rec.Term, Why: "found the cluster"})
	case v.DataDir == DataPresent && v.Process == ProcessStopped:
		d.startPrimary("found the cluster")
	case v.Process == ProcessRunning && v.InRecovery == No && v.Writable == Yes && inTime:
		// Clients are let in only when the record is there: until then another
		// may found the cluster in this member's place.
		r := d.rec
		r.SystemID, r.Phase, r.Timeline = v.SystemID, PhaseLeading, v.Position.TLI
		d.commit(Change{What: "lead", Record: r, Lock: LockKeep, Session: d.o.Consul.Session}, "the server takes writes")
	}
}

// abandon removes what this member made for a cluster that another founded.
func (d *decision) abandon() {
	if d.o.Server.Process == ProcessRunning {
		d.do(Action{Kind: Stop, Immediate: true, Why: "another member has founded the cluster"})
		return
	}
	d.do(Action{Kind: Discard, Why: "another member has founded the cluster; this data never led anything"})
}

// takeOverBootstrap founds the cluster in the place of a founder that is gone:
// its session has ended, and it is not heard. It has nothing to lose.
func (d *decision) takeOverBootstrap() {
	v, o := &d.o.Server, &d.o
	if p := d.peer(d.rec.Leader); o.Consul.Lock.Session != "" || d.fresh(p) || !d.after(d.s.PhaseAt, o.Policy.FailureTimeout) {
		d.block(Block{What: "the server is not started", Missing: d.rec.Leader + " to found the cluster"})
		return
	}
	switch v.DataDir {
	case DataHalfMade:
		d.do(Action{Kind: Discard, Why: "an unfinished bootstrap was found"})
	case DataPresent:
		if v.Founding && v.Process == ProcessStopped {
			d.do(Action{Kind: Discard, Why: "an unfinished bootstrap was found"})
		}
	case DataAbsent:
		r := d.rec
		r.Term++
		r.Leader, r.Members, r.Reason = o.Self, []string{o.Self}, d.rec.Leader+" did not found the cluster"
		d.commit(Change{What: "found", Record: r, Lock: LockTake, Session: o.Consul.Session, Prior: o.Consul.Lock}, r.Reason)
	}
}
