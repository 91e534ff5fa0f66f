package sim

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// callKind is what a member asks of Consul.
type callKind uint8

const (
	callRead callKind = iota
	callWatch
	callRenew
	callCreate
	callTxn
)

// call is one request to Consul under way.
type call struct {
	kind    callKind
	m       int
	epoch   uint32 // of the sidecar
	sentAt  ha.Instant
	ok      bool
	change  ha.Change
	record  ha.Record
	broken  string
	index   uint64 // of the record that is broken
	lock    ha.Lock
	session string
}

// callTimeout is how long a member waits for Consul.
const callTimeout = 1200 * milli

// consulOpen says whether requests of m reach a Consul that answers.
func (w *World) consulOpen(m int) bool { return w.net.toConsul[m] == 0 && w.consul.away == 0 }

func (w *World) newCall(kind callKind, m int) int32 {
	var n int32
	if l := len(w.free); l > 0 {
		n, w.free = w.free[l-1], w.free[:l-1]
		w.calls[n] = call{}
	} else {
		n = int32(len(w.calls))
		w.calls = append(w.calls, call{})
	}
	c := &w.calls[n]
	b := &w.members[m]
	c.kind, c.m, c.epoch, c.sentAt = kind, m, b.sidecar.epoch, b.read(w.now)
	return n
}

// send begins a call. It always ends in evReply or evTimeout.
func (w *World) send(n int32) {
	c := &w.calls[n]
	if !w.consulOpen(c.m) || w.lost() {
		w.giveUp(n)
		if c.kind == callTxn && w.net.toConsul[c.m] == 0 && w.odd.chance(300) {
			w.stray(n)
		}
		return
	}
	w.push(w.slow(c.m, w.delay()), event{kind: evArrive, m: int8(c.m), n: n})
}

// stray is a request that its sender has given up: it is still on its way, and
// may be applied when nobody expects it any more.
func (w *World) stray(n int32) {
	k := w.newCall(callTxn, w.calls[n].m)
	w.calls[k].change = w.calls[n].change
	w.calls[k].epoch = 0 // nobody's
	w.push(w.odd.between(300*milli, 6*second), event{kind: evArrive, m: int8(w.calls[k].m), n: k})
}

// giveUp lets the member notice that its call failed: at once, or only when it
// has waited long enough.
func (w *World) giveUp(n int32) {
	d := callTimeout
	if w.odd.chance(300) {
		d = w.delay()
	}
	w.push(d, event{kind: evTimeout, m: int8(w.calls[n].m), n: n})
}

// arrive is Consul's side of a call.
func (w *World) arrive(n int32) {
	c := &w.calls[n]
	if w.consul.away > 0 {
		w.giveUp(n)
		return
	}
	switch c.kind {
	case callRenew:
		if s := w.consul.session(c.session); s != nil {
			c.ok = true
			s.expireAt = w.now + w.odd.between(sessionTTL, 2*sessionTTL)
		}
	case callCreate:
		c.session, c.ok = w.newSession(c.m), true
		c = &w.calls[n]
	case callTxn:
		c.ok = w.apply(c.m, &c.change)
		c = &w.calls[n]
	default:
		c.ok = true
	}
	c.record, c.lock = w.consul.record, w.consul.lock
	if c.broken = w.consul.broken; c.broken != "" {
		c.record, c.index = ha.Record{}, c.record.Index
	}
	if w.net.ofConsul[c.m] > 0 || w.lost() {
		w.giveUp(n)
		return
	}
	w.push(w.slow(c.m, w.delay()), event{kind: evReply, m: int8(c.m), n: n})
}

// answered is the member's side: the answer of a call, or none.
func (w *World) answered(n int32, came bool) {
	c := w.calls[n]
	w.free = append(w.free, n)
	m := c.m
	s := &w.members[m].sidecar
	if !s.alive || s.epoch != c.epoch {
		return
	}
	s.consul.Reachable = ha.Known(came)
	switch c.kind {
	case callRead:
		s.reading = false
		if came {
			w.saw(m, &c)
		}
	case callWatch:
		s.watching = false
		if came {
			w.saw(m, &c)
		}
		if !came || s.consul.Record.Index != w.consul.record.Index || s.consul.Lock.Index != w.consul.lock.Index {
			w.rewatch(m, came)
		}
	case callRenew:
		w.renewAnswered(m, &c, came)
	case callCreate:
		if came {
			s.consul.Session = c.session
		}
		w.push(w.renewGap(came), event{kind: evRenew, m: int8(m), epoch: s.epoch})
	case callTxn:
		w.committed(m, &c, came)
	}
	w.step(m)
}

func (w *World) rewatch(m int, soon bool) {
	s := &w.members[m].sidecar
	s.watching = true
	gap := w.odd.between(300*milli, 1200*milli)
	if soon {
		gap = w.delay()
	}
	w.push(gap, event{kind: evWatch, m: int8(m), epoch: s.epoch})
}

// saw takes what was read into the member's view, which never goes backwards.
func (w *World) saw(m int, c *call) {
	s := &w.members[m].sidecar
	v := &s.consul
	if (c.record.Index < v.Record.Index || c.lock.Index < v.Lock.Index) && !w.sawBack(m, c) {
		return
	}
	v.Record, v.Lock, v.Broken, v.BrokenIndex = c.record, c.lock, c.broken, c.index
	w.readThrough(m, &v.Record)
	s.readAt = w.members[m].read(w.now)
	v.SeenAt = max(v.SeenAt, c.sentAt)
	if c.kind != callWatch {
		w.held(m, c)
	}
}

// held dates the lease from before the request was sent.
func (w *World) held(m int, c *call) {
	v := &w.members[m].sidecar.consul
	if v.Session != "" && c.lock.Session == v.Session && c.record.Leader == w.members[m].name {
		at := c.sentAt
		if w.opt.Mutation == MutateS5Sent {
			at = w.members[m].read(w.now)
		}
		if c.record.Term > v.HeldTerm || at > v.HeldAt {
			v.HeldAt, v.HeldTerm = at, c.record.Term
		}
	}
}

func (w *World) renewGap(came bool) int64 {
	if came {
		return 3 * second
	}
	return w.odd.between(300*milli, 1200*milli)
}

func (w *World) renewAnswered(m int, c *call, came bool) {
	s := &w.members[m].sidecar
	if came && !c.ok && s.consul.Session == c.session {
		s.consul.Session = ""
		w.tell(m, "learns that its session %s is gone", c.session)
		w.renew(m)
		return
	}
	w.push(w.renewGap(came), event{kind: evRenew, m: int8(m), epoch: s.epoch})
}

// renew keeps the session, or asks for one.
func (w *World) renew(m int) {
	s := &w.members[m].sidecar
	kind := callRenew
	if s.consul.Session == "" {
		kind = callCreate
	}
	n := w.newCall(kind, m)
	w.calls[n].session = s.consul.Session
	w.send(n)
}

// confirm reads record and lock consistently: about once a second while the
// member may hold the lock, less often otherwise.
func (w *World) confirm(m int) {
	s := &w.members[m].sidecar
	gap := w.odd.between(3*second, 5*second)
	if s.consul.Record.Leader == w.members[m].name || !s.consul.Record.Exists() {
		gap = w.odd.between(900*milli, 1100*milli)
	}
	w.push(gap, event{kind: evConfirm, m: int8(m), epoch: s.epoch})
	w.readNow(m)
	if s.consul.Record.Leader == w.members[m].name {
		w.poke(pointRead, m)
	}
}

func (w *World) readNow(m int) {
	s := &w.members[m].sidecar
	if !s.reading {
		s.reading = true
		w.send(w.newCall(callRead, m))
	}
}

// watch is the blocking query's turn: Consul answers with what is newest then.
func (w *World) watch(m int) {
	s := &w.members[m].sidecar
	n := w.newCall(callWatch, m)
	w.calls[n].sentAt = s.watchSince
	s.watchSince = w.members[m].read(w.now)
	w.send(n)
}

// commit sends a transaction.
func (w *World) commit(m int, ch *ha.Change) {
	s := &w.members[m].sidecar
	s.committing = true
	w.checkPrice(m, ch)
	n := w.newCall(callTxn, m)
	w.calls[n].change = *ch
	w.tell(m, "sends transaction %s: term %d %s k=%d of %v", ch.What, ch.Record.Term, ch.Record.Phase, ch.Record.Durability.K, ch.Record.Durability.Voters)
	w.send(n)
}

func (w *World) committed(m int, c *call, came bool) {
	s := &w.members[m].sidecar
	s.committing = false
	if came && c.ok {
		w.saw(m, c)
		return
	}
	w.tell(m, "transaction %s failed (answered: %v)", c.change.What, came)
	s.commitFailedAt = w.members[m].read(w.now)
	if !came {
		s.doubt = max(s.doubt, c.change.Record.Index)
	}
	w.readNow(m)
}
