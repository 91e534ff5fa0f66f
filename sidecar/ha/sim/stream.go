package sim

// Streams between servers: a walreceiver connects to the member that
// primary_conninfo names, and each end notices by itself when it is alone.

// connectSoon lets m's walreceiver try again.
func (w *World) connectSoon(m int) {
	s := &w.members[m].server
	if s.receiver.connecting || s.receiver.active {
		return
	}
	s.receiver.connecting = true
	w.push(w.slow(m, w.odd.between(3*milli, 250*milli)), event{kind: evConnect, m: int8(m), epoch: s.epoch})
}

// connect begins a stream if the network, the upstream and the histories allow it.
func (w *World) connect(m int) {
	s := &w.members[m].server
	if !s.receiver.connecting {
		return
	}
	s.receiver.connecting = false
	if !s.receives() || s.upstream < 0 || s.receiver.active {
		return
	}
	if s.hung > w.now { // the last walreceiver waits for the disk, or the next one does
		w.connectSoon(m)
		return
	}
	p := int(s.upstream)
	u := &w.members[p].server
	x := &u.senders[m]
	ok := u.run == up && !u.stopping && w.both(m, p) && w.portOpen(p) && w.serverRuns(p) && u.systemID == s.systemID && p != m && !w.loops(m, p) && w.there(m, p)
	// Slots: the old walsender has to notice its end before there is a new one.
	ok = ok && !x.active
	if ok {
		mine, theirs := w.position(s, len(s.log)), w.position(u, u.flushed)
		ok = theirs.Contains(mine) && len(s.log) <= u.flushed && w.serves(m, p)
	}
	if !ok {
		w.connectSoon(m)
		return
	}
	if n := len(s.log); n > 0 && s.log[n-1] != u.log[n-1] {
		w.fail("timeline", m, "%s and %s hold different records at %d on timeline %d", names[m], names[p], n, w.position(s, n).TLI)
		return
	}
	id := w.life()
	s.receiver = receiver{active: true, stream: id, from: int8(p), heardAt: w.now}
	*x = walsender{active: true, stream: id, born: u.configGen, flush: s.flushed, sent: len(s.log), heardAt: w.now}
	w.takeUp(p, m)
	if w.opt.Story {
		w.tell(m, "streams from %s at %d records", names[p], len(s.log))
	}
	w.pump(p, m)
	w.replyFlush(m)
	w.push(w.tickGap(), event{kind: evTick, m: int8(m), p: int8(p), epoch: id})
	w.at(w.slow(m, w.delay()), evLook, m)
}

// loops says whether p streams from m, directly or not.
func (w *World) loops(m, p int) bool {
	for range w.n {
		r := &w.members[p].server.receiver
		if !r.active {
			return false
		}
		if p = int(r.from); p == m {
			return true
		}
	}
	return true
}

func (w *World) tickGap() int64 { return w.odd.between(300*milli, 600*milli) }

// tick is a stream's keepalive: what was lost on the way is sent again, and an
// end that has heard nothing for too long gives up.
func (w *World) tick(m, p int, stream uint32) {
	s, u := &w.members[m].server, &w.members[p].server
	r, x := &s.receiver, &u.senders[m]
	here := r.active && r.stream == stream && s.receives()
	there := x.active && x.stream == stream && u.run == up
	if !here && !there {
		return
	}
	w.push(w.tickGap(), event{kind: evTick, m: int8(m), p: int8(p), epoch: stream})
	if there && w.serverRuns(p) {
		if x.flush < u.flushed {
			x.sent = x.flush
			w.pump(p, m)
		}
		if here && w.open(p, m) && w.portOpen(p) && w.serverRuns(m) {
			r.heardAt = w.now
		}
		if w.now-x.heardAt > w.shape.walTime {
			w.hangUp(p, m, stream)
			*x = walsender{}
		}
	}
	if here && w.serverRuns(m) && !w.stuck(m) {
		w.replyFlush(m)
		if w.now-r.heardAt > w.shape.walTime {
			w.stopReceiving(m)
			w.connectSoon(m)
		}
	}
}

// stuck says whether m's walreceiver waits for a disk that hangs: it has to flush what it was sent
// before it answers anything.
func (w *World) stuck(m int) bool {
	s := &w.members[m].server
	r := &s.receiver
	return s.hung > w.now && r.active && w.members[r.from].server.senders[m].sent > s.flushed
}

// stopReceiving ends m's walreceiver.
func (w *World) stopReceiving(m int) {
	s := &w.members[m].server
	if s.receiver.active {
		w.hangUp(m, int(s.receiver.from), s.receiver.stream)
		if s.hung <= w.now {
			s.flushed = len(s.log) // a walreceiver flushes as it dies
		}
		w.endInside(s, int(s.receiver.from))
	}
	s.receiver = receiver{}
}
