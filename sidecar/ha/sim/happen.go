package sim

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// happen is one event. What happens to something that is paused waits until it
// goes on; what happens to something that is no more is dropped.
func (w *World) happen(e *event) {
	switch {
	case e.kind >= evAttach && e.kind <= evAnnounced:
		w.toSidecar(e)
	case e.kind >= evArrive && e.kind <= evWatch:
		w.toConsul(e)
	case e.kind >= evWrite && e.kind <= evAdopt:
		w.toServer(e)
	default:
		w.toWorld(e)
	}
}

// later puts an event off until what it is for goes on.
func (w *World) later(e *event, until int64) {
	e.at, e.off = until+1+w.odd.between(0, 200*micro), true
	w.queue.push(*e)
}

// resumesAt is when m's sidecar goes on, or zero if it is not paused.
func (w *World) resumesAt(m int) int64 {
	b := &w.members[m]
	if t := max(b.hostPaused, b.sidecar.pausedUntil); t > w.now {
		return t
	}
	return 0
}

func (w *World) toSidecar(e *event) {
	m, p := int(e.m), int(e.p)
	b := &w.members[m]
	s := &b.sidecar
	if !s.alive || !b.hostUp {
		return
	}
	if t := w.resumesAt(m); t != 0 {
		if e.kind == evOp && b.op.id == e.epoch {
			w.proceed(m)
		}
		w.later(e, t)
		return
	}
	switch e.kind {
	case evReport:
		w.arriveReport(m, p, uint64(e.epoch)<<32|uint64(uint32(e.n)), e.epoch)
		return
	case evWake:
		if s.wakeEvent == e.epoch {
			s.wakeAt = 0
			w.step(m)
		}
		return
	case evOp:
		if b.op.id == e.epoch {
			w.opStage(m)
		}
		return
	case evLook:
		if e.epoch == 0 || e.epoch == s.epoch {
			w.intents(m)
			w.look(m, e.epoch)
		}
		return
	}
	if e.epoch != s.epoch {
		return
	}
	switch e.kind {
	case evAttach:
		w.attach(m)
	case evBeat:
		w.beat(m)
	case evLink:
		w.link(m, p)
	case evCheckpointed:
		w.checkpointed(m, uint32(e.n))
	case evAnnounced:
		w.announced(m)
	case evPolicy:
		s.policy = max(s.policy, int(e.n))
		w.step(m)
	}
}

func (w *World) toConsul(e *event) {
	m := int(e.m)
	switch e.kind {
	case evArrive:
		w.arrive(e.n)
		return
	case evExpiry:
		w.expiry(int(e.n))
		return
	}
	if t := w.resumesAt(m); t != 0 {
		w.later(e, t)
		return
	}
	s := &w.members[m].sidecar
	switch e.kind {
	case evReply:
		w.answered(e.n, true)
		return
	case evTimeout:
		w.answered(e.n, false)
		return
	}
	if !s.alive || s.epoch != e.epoch {
		return
	}
	switch e.kind {
	case evRenew:
		w.renew(m)
	case evConfirm:
		w.confirm(m)
	case evWatch:
		w.watch(m)
	}
}

func (w *World) toServer(e *event) {
	m, p := int(e.m), int(e.p)
	b := &w.members[m]
	if !b.hostUp && e.kind != evWrite && e.kind != evTick {
		return
	}
	if t := max(b.hostPaused, b.server.pausedUntil); t > w.now && e.kind != evTick {
		w.later(e, t)
		return
	}
	s := &b.server
	if s.hung > w.now && (e.kind == evFlush || e.kind == evData) {
		w.later(e, s.hung)
		return
	}
	switch e.kind {
	case evWrite:
		w.write(m)
	case evFlush:
		if s.epoch == e.epoch && (s.run == up || s.receives()) {
			w.flush(m, int(e.n))
		}
	case evConnect:
		if s.epoch == e.epoch {
			w.connect(m)
		}
	case evData:
		w.data(m, p, int(e.n), e.epoch)
	case evAck:
		w.ack(m, p, int(e.n), e.epoch)
	case evTick:
		w.tick(m, p, e.epoch)
	case evGone:
		w.gone(m, p, e.epoch)
	case evAdopt:
		w.adopt(m, p, e.epoch)
	}
}

func (w *World) toWorld(e *event) {
	m := int(e.m)
	switch e.kind {
	case evGuard:
		if t := w.members[m].hostPaused; t > w.now {
			e.at = t
			w.queue.push(*e)
			return
		}
		w.guardLooks(m)
	case evLate:
		w.lateEffect(m, e.epoch)
	case evSidecar:
		if b := &w.members[m]; b.supervised == e.epoch && b.hostUp && !b.sidecar.alive {
			b.supervised = 0
			w.startSidecar(m)
		}
	case evFault:
		w.faultComes(int(e.n), e.p == 1)
	case evHeal:
		w.faultGoes(int(e.n))
	case evCalm:
		w.calmDown()
	case evSettle:
		w.settle()
	case evSite:
		w.siteGoes()
	case evSelf:
		w.reachTarget(m, e.epoch)
	}
}

// begin makes the first state of the world: a cluster that runs, or empty hosts.
func (w *World) begin() {
	for m := range w.n {
		w.at(w.odd.between(milli, w.shape.writeGap), evWrite, m)
	}
	if w.shape.fresh {
		for m := range w.n {
			w.supervise(m, w.odd.between(milli, 300*milli))
		}
		return
	}
	w.found()
	for m := range w.n {
		w.startSidecar(m)
		if m == 0 {
			w.members[0].sidecar.consul.Session = w.consul.lock.Session
		}
	}
}

// found makes a cluster that runs: n1 is its primary.
func (w *World) found() {
	c, sh := &w.consul, &w.shape
	w.records++
	id := uint64(1)<<40 | w.records
	r := ha.Record{Version: ha.RecordVersion, SystemID: "system-1", Term: 1, Leader: names[0], Timeline: 1, Phase: ha.PhaseLeading,
		Durability: ha.Durability{Mode: sh.mode, Voters: []string{}}, Members: names[:w.n:w.n], Origin: ha.Origin{Term: 1, Leader: names[0]}}
	set := ha.SyncSetting{}
	if sh.mode == ha.ModeQuorum {
		from := 1
		if w.opt.Zoned != Unzoned {
			from = 2 // n2 is in the zone of n1
		}
		set = ha.SyncSetting{K: sh.k, Names: names[from : from+min(2*sh.k, w.n-from)]}
		r.Durability.K, r.Durability.Voters = set.K, set.Names
	}
	for m := range w.n {
		s := &w.members[m].server
		s.data, s.systemID, s.log, s.flushed = ha.DataPresent, r.SystemID, append(s.log[:0], id), 1
		s.promise, s.clean, s.onTLI, s.term = 1, m == 0, true, 1
		if m == 0 {
			s.config = set
		} else {
			s.upstream = 0
		}
		w.launch(m)
		w.ready(m, m == 0, false)
	}
	for m := 1; m < w.n; m++ {
		w.connect(m)
	}
	session := w.newSession(0)
	c.index += 2
	c.lock = ha.Lock{Holder: names[0], Session: session, Index: c.index}
	r.Index = c.index - 1
	r.Lease, r.Claims = w.policies[0].Lease, []ha.Claim{{TLI: 1, Term: 1}}
	c.record = r
	w.check.leaders, w.check.system = append(w.check.leaders, -1, 0), r.SystemID
	w.arm(0, w.members[0].read(w.now).Add(5e9))
	w.poke(pointStart, 0)
}
