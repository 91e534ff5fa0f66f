package sim

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// observe is all that m's sidecar knows now.
func (w *World) observe(m int) (o ha.Observation) {
	b := &w.members[m]
	s := &b.sidecar
	w.restoreAsked(m)
	o.Now, o.Self, o.Policy = b.read(w.now), b.name, w.policies[s.policy]
	o.Consul, o.Peers, o.Intent = s.consul, s.peers, s.intent
	o.Consul.AgentLostAt, o.Consul.Registered = b.agentLostAt, w.registeredPrimary(m)
	o.Busy = ha.Busy{
		Server: b.op.busy(s.epoch), Commit: s.committing, FailedAt: s.failedAt, FailedKind: s.failed,
		Failures: s.failures, Unserved: s.unserved, CommitFailedAt: s.commitFailedAt, Doubt: s.doubt,
	}
	if o.Busy.Server != ha.NoAction {
		o.Busy.Since, o.Busy.Immediate = b.read(b.op.began), b.op.action.Immediate
	}
	if v := &b.server; v.founding && s.consul.Record.SystemID == v.systemID && s.consul.Record.Phase != ha.PhaseBootstrap {
		v.founding = false
	}
	o.Policy.NoFailover, o.Policy.NoSync, o.Policy.Priority = s.tags.NoFailover, s.tags.NoSync, s.tags.Priority
	o.Policy.ReplicateFrom = s.tags.ReplicateFrom
	if w.opt.Zoned != Unzoned {
		o.Policy.Zones, o.Policy.Zone = 2, w.ownZone(m)
	}
	o.Announced = s.announcedNow
	w.seen(m, &o.Server)
	if w.opt.Outside != 0 {
		w.observeOutside(m, &o)
	}
	v := &b.server
	o.Server.Starved = v.run == starting && v.rewound >= 0 && !v.receiver.active
	if w.twoSites() {
		o.Source = s.source
	}
	return o
}

// seen joins the last look with the facts that the guard and the files give at
// any time.
func (w *World) seen(m int, f *ha.Server) {
	b := &w.members[m]
	v, s := &b.server, &b.sidecar
	*f = s.seen.facts
	f.DataDir, f.SystemID = v.data, v.systemID
	f.StartedAt, f.ExitedAt = v.startedAt, v.exitedAt
	f.Promise, f.PromisedTo, f.Fenced, f.Seen = v.promise, v.to, v.fenced, v.seen
	f.SyncUnsure = s.syncUnsure
	f.CheckpointAt = s.checkpointAt
	f.Founding = v.founding
	if v.rewound >= 0 {
		f.Rewound, f.RewoundTerm = w.nameOf(int(v.rewound)), v.inTerm
	}
	f.Strayed, f.Owed, f.Copy = v.odd.strayed, v.odd.owed, v.odd.copy
	f.Restored, f.Undoable = v.odd.place.of, v.undone()
	if v.odd.place.recovers && v.run == stopped && v.data == ha.DataPresent {
		f.Instructed = "recovery to a target"
	}
	f.Armed, f.LeaseUntil = b.guard.armed, b.guard.until
	f.SeenAt, f.FailingSince = s.seen.at, s.seen.failing
	f.Hangs = f.FailingSince != 0 && b.read(w.now).Sub(f.FailingSince) >= 800e6
	switch {
	case f.DataDir == ha.DataHalfMade && w.opt.Mutation == MutateS10:
		f.DataDir = ha.DataPresent
	case f.DataDir == ha.DataHalfMade:
		f.SystemID = "" // nothing is read of such a directory
	}
	if v.run != stopped {
		f.Process = ha.ProcessRunning
		return
	}
	f.Process = ha.ProcessStopped
	f.Upstream = ""
	if v.upstream >= 0 {
		f.Upstream, f.UpstreamAt = w.nameOf(int(v.upstream)), v.siteAt
	}
	f.Sync = v.config
	if v.data != ha.DataPresent {
		return
	}
	f.WasPrimary = !v.standby || v.odd.place.recovers
	f.CleanStop = v.clean
	if v.clean {
		f.Position = w.position(v, v.flushed)
		f.Settled = true
	}
}

// lookNow asks the server over SQL. A server that does not answer is noted.
func (w *World) lookNow(m int) {
	b := &w.members[m]
	v, s := &b.server, &b.sidecar
	if v.run == stopped {
		s.forget()
		return
	}
	now := b.read(w.now)
	if v.run == starting || v.pausedUntil > w.now || v.silentDisk(w.now) {
		if s.seen.failing == 0 {
			s.seen.failing = now
		}
		return
	}
	w.endLate(m)
	if kind := b.op.busy(s.epoch); kind == ha.NoAction || kind == ha.Unhide {
		s.syncUnsure = false
	}
	if s.failed == ha.Start {
		s.failedAt, s.failed, s.failures = 0, ha.NoAction, 0 // it did come up
	}
	k := &s.seen
	k.at, k.failing, k.life = now, 0, v.epoch
	f := &k.facts
	*f = ha.Server{}
	f.InRecovery = ha.Known(v.inRecovery)
	f.Hidden = v.hidden
	f.Receiving = ha.Known(v.receiver.active)
	f.Sync = v.config
	f.Checkpointed = v.onTLI
	if v.upstream >= 0 {
		f.Upstream, f.UpstreamAt = w.nameOf(int(v.upstream)), v.siteAt
	}
	f.Position = w.position(v, v.flushed)
	if v.inRecovery {
		f.Settled = !v.receiver.active && v.flushed == len(v.log) && (v.upstream < 0 || w.leaks()) && !v.odd.place.recovers
		w.lookReplay(m, f)
		f.Writable = ha.No
		return
	}
	w.lookPrimary(m, f)
}

// lookPrimary is what only a primary answers.
func (w *World) lookPrimary(m int, f *ha.Server) {
	v, k, now := &w.members[m].server, &w.members[m].sidecar.seen, w.members[m].read(w.now)
	if v.odd.localCommit {
		f.Relaxed = "synchronous_commit = local, by ALTER SYSTEM"
	}
	full := v.full > 0 || v.hung > w.now
	f.Writable = ha.Known(!v.stopping && !full)
	if !full {
		k.faulty = 0
	} else if k.faulty == 0 {
		k.faulty = now
	}
	if f.FaultyAt = k.faulty; full {
		f.WriteProblem = "the disk is full"
		if v.hung > w.now {
			f.WriteProblem = "the disk does not answer"
			f.WritesHang = now.Sub(k.faulty) >= 1600e6
		}
	}
	f.RecoveryEnd = w.lsn(v.recoveryEnd)
	w.lookSenders(m)
	if v.syncAt == 0 {
		w.renewSenders(m) // a change of k that came into effect, and of which its sidecar does not know
	}
	if v.syncAt == 0 && w.inEffect(v) {
		v.syncAt = v.flushed
	}
	f.SyncAt = w.lsn(v.syncAt)
	if w.opt.Mutation == MutateS4 && f.SyncAt == 0 {
		f.SyncAt = w.lsn(v.flushed) // a reload is taken for an effect
	}
}

func (w *World) lookSenders(m int) {
	v, k := &w.members[m].server, &w.members[m].sidecar.seen
	n := 0
	for j := range w.n {
		if x := &v.senders[j]; x.active {
			k.senders[n] = ha.Walsender{Member: names[j], Streaming: x.streaming, Sync: x.sync, Flush: w.lsn(x.flush), Fresh: x.born >= v.kGen}
			n++
		}
	}
	if p := w.opt.pair; p != nil {
		if flushed := p.flushed(w, m); flushed > 0 {
			k.senders[n] = ha.Walsender{Member: ha.SiteWalsender("pg", siteName), Streaming: true, Flush: w.lsn(flushed)}
			n++
		}
	}
	k.facts.Walsenders = k.senders[:n]
}

// inEffect says whether every process of the server is seen to use the setting:
// walsenders by their sync_priority, and by having started after a change of k;
// the checkpointer, which decides whether commits wait at all, by a checkpoint.
func (w *World) inEffect(v *server) bool {
	for j := range w.n {
		x := &v.senders[j]
		if x.active && (x.sync != (v.config.K > 0 && hasName(&v.config, names[j])) || x.born < v.kGen) {
			return false
		}
	}
	return v.adopted == v.configGen
}

// look is the periodic look; it also follows every change that the guard sees.
func (w *World) look(m int, epoch uint32) {
	b := &w.members[m]
	s := &b.sidecar
	if !s.alive || !s.attached {
		return
	}
	if epoch == s.epoch {
		w.push(w.slow(m, w.odd.between(w.shape.lookGap/2, w.shape.lookGap*3/2)), event{kind: evLook, m: int8(m), epoch: s.epoch})
	}
	if r := &s.consul.Record; r.Restored == b.server.odd.place.of && r.Phase == ha.PhaseLeading {
		w.settles(m)
	}
	w.lookNow(m)
	if w.twoSites() {
		w.askSite(m)
		if w.opt.pair != nil {
			w.opt.pair.askWitness(w, m)
		}
	}
	w.step(m)
}

// attach is a new sidecar that found the guard and the data directory.
func (w *World) attach(m int) {
	s := &w.members[m].sidecar
	s.attached = true
	w.look(m, s.epoch)
}
