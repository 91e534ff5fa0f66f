package sim

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// operation is the one thing that is done to a server.
type operation struct {
	id      uint32 // zero: none
	owner   uint32 // epoch of the sidecar that began it
	action  ha.Action
	stage   int
	began   int64
	running uint32 // epoch of the server process when it began
	issued  bool   // in the server's own hands: it continues without the sidecar
	copies  int8   // Clone: the member whose data are copied
	served  uint32 // Clone, Rewind: its server's process, by whose end the copy ends
}

// busy is what the sidecar of that epoch has under way.
func (o *operation) busy(sidecar uint32) ha.ActionKind {
	if o.id == 0 || o.owner != sidecar {
		return ha.NoAction
	}
	return o.action.Kind
}

// beginOp begins an operation on m's server.
func (w *World) beginOp(m int, a *ha.Action) {
	b := &w.members[m]
	w.tell(m, "begins %s term=%d from=%s primary=%v timeline=%d sync=%v: %s", a.Kind, a.Term, a.From, a.Primary, a.Timeline, a.Sync, a.Why)
	w.count(a)
	b.op = operation{id: w.life(), owner: b.sidecar.epoch, action: *a, began: w.now, running: b.server.epoch}
	if a.Kind == ha.SetSync || a.Sync.K > 0 {
		b.sidecar.syncUnsure = true
	}
	w.poke(pointOf(a.Kind), m)
	if b.op.id != 0 {
		w.nextStage(m, w.odd.between(100*micro, 2*milli))
	}
}

func (w *World) nextStage(m int, d int64) {
	o := &w.members[m].op
	w.push(w.slow(m, d), event{kind: evOp, m: int8(m), epoch: o.id})
}

// abandon ends an operation whose sidecar died or wants to stop the server.
// What the server itself was already told to do may still happen.
func (w *World) abandon(m int) {
	b := &w.members[m]
	o := &b.op
	if o.id != 0 && o.issued && (o.action.Kind == ha.Start || o.action.Kind == ha.Stop || w.odd.chance(600)) {
		b.late, b.lateIn = o.action, o.running
		w.push(w.slow(m, w.odd.between(milli, 400*milli)), event{kind: evLate, m: int8(m), epoch: o.running})
	}
	o.id = 0
}

// done ends the operation and lets the sidecar see what it did.
func (w *World) done(m int, failed bool) {
	b := &w.members[m]
	s := &b.sidecar
	k := b.op.action.Kind
	b.op.id = 0
	if failed {
		w.tell(m, "%s fails", k)
		s.failures++
		if s.failed != k {
			s.failures = 1
		}
		s.failedAt, s.failed = b.read(w.now), k
		from := w.index(b.op.action.From)
		s.unserved = k == ha.Rewind && from >= 0 && !w.portOpen(from)
	} else if s.failed == k || k == ha.Clone || k == ha.Rewind || k == ha.Init {
		s.failedAt, s.failed, s.failures = 0, ha.NoAction, 0
	}
	if k == ha.Clone && !failed {
		s.intent.Reinit = false // it was requested, and is done
	}
	w.lookNow(m)
	w.step(m)
}

// opStage is the next stage of the operation under way.
func (w *World) opStage(m int) {
	b := &w.members[m]
	o := &b.op
	if w.shape.opFail > 0 && !w.calm && o.action.Kind != ha.Stop && w.odd.chance(w.shape.opFail) {
		switch {
		case o.action.Kind == ha.Start:
			w.crash(m)
		case o.action.Kind == ha.SetSync && o.stage == 1 && b.server.run == up && w.odd.chance(500):
			w.setSync(m, o.action.Sync) // it failed, and happened
		}
		w.done(m, true)
		return
	}
	if b.server.full > 0 && o.action.Kind != ha.Stop && o.action.Kind != ha.Start {
		w.done(m, true) // each of them writes something first
		return
	}
	if b.server.hung > w.now && o.action.Kind != ha.Stop {
		w.nextStage(m, 200*milli) // each of them waits for the disk
		return
	}
	o.stage++
	switch o.action.Kind {
	case ha.Init, ha.Clone, ha.Rewind:
		w.opFiles(m)
	case ha.Restore:
		w.opRestore(m)
	case ha.Discard:
		w.opDiscard(m)
	case ha.Start:
		w.opStart(m)
	case ha.Stop:
		w.opStop(m)
	case ha.Fence:
		w.opFence(m)
	case ha.Follow:
		w.opFollow(m)
	default:
		w.opSQL(m)
	}
}

// opStart launches the postmaster, which recovers and then takes connections.
func (w *World) opStart(m int) {
	b := &w.members[m]
	s, a := &b.server, &b.op.action
	switch {
	case b.op.stage == 1:
		if s.run != stopped || s.data != ha.DataPresent || len(s.log) == 0 {
			if w.opt.Mutation == MutateS10 && s.half {
				w.fail("S10", m, "%s starts from half-made files", b.name)
			}
			w.done(m, true)
			return
		}
		if a.Primary && a.Sync.K > 0 {
			s.config = a.Sync
		}
		s.upstream = -1 // whom it follows is cleared, and the gate shut, before it runs
		if a.From != "" {
			s.promises(a, false)
			s.upstream = int8(w.index(a.From))
			s.siteAt = a.Address
		}
		w.launch(m)
		b.op.issued, b.op.running = true, s.epoch
		long := w.odd.between(20*milli, 300*milli)
		if !s.clean && w.odd.chance(200) {
			long = w.odd.between(300*milli, 3*second)
		}
		w.nextStage(m, long)
	case s.epoch == b.op.running && s.run == up:
		w.done(m, false)
	case s.epoch != b.op.running || s.run != starting:
		w.done(m, true)
	default:
		w.recovered(m, a)
		w.done(m, false)
	}
}

// opStop stops the server: at once, or after its walsenders shipped everything.
func (w *World) opStop(m int) {
	b := &w.members[m]
	s, a := &b.server, &b.op.action
	b.op.issued = true
	if s.run == stopped {
		w.done(m, false)
		return
	}
	if a.Immediate || s.run == starting || w.now-b.op.began > 3*second {
		if w.crash(m); s.run != stopped {
			w.nextStage(m, 200*milli) // it cannot be killed
			return
		}
		w.done(m, false)
		return
	}
	if s.pausedUntil > w.now || s.hung > w.now {
		w.nextStage(m, 50*milli)
		return
	}
	if !s.stopping {
		s.stopping = true
		s.waiting = s.waiting[:0]
		if !s.inRecovery {
			w.appendRecord(m, timelineOf(s.log[len(s.log)-1]))
		}
		s.flushed = len(s.log)
	}
	for j := range w.n {
		if x := &s.senders[j]; x.active && x.flush < s.flushed {
			w.pump(m, j)
			w.nextStage(m, 10*milli)
			return
		}
	}
	if p := w.opt.pair; p != nil && p.sends(w, m) {
		w.nextStage(m, 10*milli)
		return
	}
	s.flushed = len(s.log) // a walreceiver flushes as it dies
	s.clean = !s.inRecovery
	w.ended(m)
	w.done(m, false)
}

// opFence is S2, in the order that survives a crash anywhere: the promise is
// kept on disk, then the upstream is cleared, then the walreceiver is gone.
func (w *World) opFence(m int) {
	b := &w.members[m]
	s, a := &b.server, &b.op.action
	if s.data != ha.DataPresent || s.promise > a.Term || s.pausedUntil > w.now {
		w.done(m, true)
		return
	}
	switch b.op.stage {
	case 1:
		s.promises(a, true) // as the shell writes it: before it is so
		s.before = s.upstream
		w.nextStage(m, w.odd.between(200*micro, 3*milli))
	case 2:
		if w.opt.Mutation != MutateS2 {
			s.upstream = -1
		}
		if a.Sync.K > 0 {
			w.setSync(m, a.Sync)
		}
		d := w.odd.between(milli, 12*milli)
		if w.odd.chance(30) && !w.opt.Calm {
			d = w.odd.between(50*milli, 2*second)
		}
		w.nextStage(m, d)
	default:
		if w.opt.Mutation != MutateS2 {
			w.stopReceiving(m)
		}
		if w.reads(m) && w.now-b.op.began < fenceTimeout {
			w.nextStage(m, 200*milli)
			return
		}
		if w.reads(m) {
			w.done(m, true)
			return
		}
		s.fenced = true
		w.done(m, false)
	}
}

// promises writes the promise of an action's term to disk.
func (s *server) promises(a *ha.Action, fenced bool) {
	f := ha.Files{Promise: s.promise, PromisedTo: s.to, Fenced: s.fenced}
	f.Promises(a.Term, a.Leader, fenced)
	s.promise, s.to, s.fenced = f.Promise, f.PromisedTo, f.Fenced
}

// opFollow promises the term and receives from another member.
func (w *World) opFollow(m int) {
	b := &w.members[m]
	s, a := &b.server, &b.op.action
	from := w.index(a.From)
	if s.run != up || !s.inRecovery || s.promise > a.Term || from < 0 || s.pausedUntil > w.now {
		w.done(m, true)
		return
	}
	if b.op.stage == 1 {
		s.promises(a, false)
		w.nextStage(m, w.odd.between(200*micro, 3*milli))
		return
	}
	w.stopReceiving(m)
	s.upstream, s.siteAt = int8(from), a.Address
	w.connectSoon(m)
	w.done(m, false)
}

// How long the shell waits for a promotion, and for a fence.
const (
	promoteTimeout = 60 * second
	fenceTimeout   = 5 * second
)

// opSQL are the operations that a running server does by itself.
func (w *World) opSQL(m int) {
	b := &w.members[m]
	s, a := &b.server, &b.op.action
	if s.run != up || s.epoch != b.op.running {
		w.done(m, true)
		return
	}
	if s.pausedUntil > w.now {
		w.nextStage(m, 100*milli)
		return
	}
	if b.op.stage == 1 {
		d := w.odd.between(2*milli, 30*milli)
		if a.Kind == ha.Promote {
			d = w.odd.between(10*milli, 150*milli)
			if w.odd.chance(100) {
				d = w.odd.between(150*milli, 3*second)
			}
		}
		if a.Kind == ha.Promote {
			d = max(d, min(w.replayLeft(m), promoteTimeout))
		}
		b.op.issued = a.Kind == ha.Promote || a.Kind == ha.SetSync
		w.nextStage(m, d)
		return
	}
	if left := w.replayLeft(m); a.Kind == ha.Promote && left > 0 {
		b.late, b.lateIn = *a, s.epoch // nobody waits for it any more, and it comes
		w.push(left, event{kind: evLate, m: int8(m), epoch: s.epoch})
		w.done(m, true)
		return
	}
	ok := w.takesEffect(m, a)
	w.done(m, !ok)
}

// takesEffect is the moment at which an operation of the server is done.
func (w *World) takesEffect(m int, a *ha.Action) bool {
	s := &w.members[m].server
	switch a.Kind {
	case ha.SetSync:
		w.setSync(m, a.Sync)
		w.renewSenders(m)
	case ha.Promote:
		if s.inRecovery {
			w.promoted(m, a)
		}
	case ha.Unhide:
		if s.hidden {
			w.settles(m)
			s.hidden = false
			w.visible(m)
			w.checkSetting()
			w.checkWriters(m)
		}
	}
	return true
}

// renewSenders ends the walsenders that are from before the last change of k, so that those
// that come instead use the new one for certain.
func (w *World) renewSenders(m int) {
	s := &w.members[m].server
	for j := range w.n {
		if x := &s.senders[j]; x.active && x.born < s.kGen {
			w.hangUp(m, j, x.stream)
			*x = walsender{}
		}
	}
}

// proceed is what the server does by itself while the sidecar that asked for it
// stands still.
func (w *World) proceed(m int) {
	b := &w.members[m]
	s, a := &b.server, &b.op.action
	if !b.op.issued || b.op.stage == 0 || s.epoch != b.op.running || !w.serverRuns(m) {
		return
	}
	switch {
	case a.Kind == ha.Start && s.run == starting:
		w.recovered(m, a)
	case a.Kind == ha.Promote && s.run == up && s.inRecovery && w.replayLeft(m) == 0:
		w.promoted(m, a)
	}
}

// endLate ends a change of the synchronous standbys that was left at work: a new
// session does so before it looks, and sees whether it had come into effect.
func (w *World) endLate(m int) {
	b := &w.members[m]
	if b.late.Kind != ha.SetSync {
		return
	}
	if w.odd.chance(500) {
		w.lateEffect(m, b.lateIn)
	}
	b.late = ha.Action{}
}

// lateEffect is an operation that its sidecar did not live to see.
func (w *World) lateEffect(m int, running uint32) {
	b := &w.members[m]
	s, a := &b.server, &b.late
	if s.epoch != running || s.run == stopped {
		return
	}
	w.tell(m, "%s takes effect without its sidecar", a.Kind)
	switch a.Kind {
	case ha.Start:
		if s.run == starting {
			w.recovered(m, a)
		}
	case ha.Stop:
		w.crash(m)
	case ha.Promote, ha.SetSync:
		if s.run == up {
			w.takesEffect(m, a)
		}
	}
}
