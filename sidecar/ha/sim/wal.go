package sim

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// write is the writer beside m: it writes to whatever takes writes there.
func (w *World) write(m int) {
	w.at(w.odd.between(w.shape.writeGap/2, w.shape.writeGap*3/2), evWrite, m)
	s := &w.members[m].server
	if !w.accepts(m) || len(s.waiting) > 8 || s.full > 0 || s.hung > w.now {
		return
	}
	w.appendRecord(m, timelineOf(s.log[len(s.log)-1]))
	w.flushSoon(m)
}

// flushSoon flushes m's log up to where it is now.
func (w *World) flushSoon(m int) {
	s := &w.members[m].server
	if s.flushing {
		return
	}
	s.flushing = true
	w.push(w.slow(m, w.odd.between(300*micro, 4*milli)), event{kind: evFlush, m: int8(m), n: int32(len(s.log)), epoch: s.epoch})
}

// flush is done: streams get more, and commits wait for their voters or not.
func (w *World) flush(m, n int) {
	s := &w.members[m].server
	s.flushing = false
	if n > len(s.log) {
		n = len(s.log)
	}
	before := s.flushed
	s.flushed = max(s.flushed, n)
	if len(s.log) > s.flushed {
		w.flushSoon(m)
	}
	for j := range w.n {
		if s.senders[j].active {
			w.pump(m, j)
		}
	}
	if s.run == starting && s.flushed >= s.needs {
		w.ready(m, false, false)
		w.checkHeld() // from now on it may vote
	}
	if s.inRecovery {
		w.replyFlush(m)
		return
	}
	if s.run != up || s.stopping || s.hidden || before == s.flushed {
		return
	}
	if !s.defined || s.odd.localCommit {
		w.acknowledge(m, s.flushed)
		return
	}
	if w.waits(s) {
		s.waiting = append(s.waiting, int32(s.flushed))
	}
}

// release answers the clients of all commits up to n.
func (w *World) release(m, n int) {
	s := &w.members[m].server
	if s.stopping || s.inRecovery {
		return
	}
	k := 0
	for k < len(s.waiting) && int(s.waiting[k]) <= n {
		k++
	}
	if k == 0 {
		return
	}
	last := int(s.waiting[k-1])
	s.waiting = append(s.waiting[:0], s.waiting[k:]...)
	w.acknowledge(m, last)
}

// pump sends what m has flushed and p's stream has not been sent.
func (w *World) pump(m, p int) {
	s := &w.members[m].server
	x := &s.senders[p]
	if x.sent >= s.flushed || !w.serverRuns(m) {
		return
	}
	x.sent = s.flushed
	if !w.open(m, p) || !w.portOpen(m) || w.lost() {
		return
	}
	w.push(w.travel(m, p), event{kind: evData, m: int8(p), p: int8(m), n: int32(s.flushed), epoch: x.stream})
}

// data arrives at a standby: it is written, and flushed soon.
func (w *World) data(m, p, n int, stream uint32) {
	s := &w.members[m].server
	r := &s.receiver
	if !r.active || r.stream != stream || !s.receives() {
		return
	}
	r.heardAt = w.now
	from := &w.members[p].server
	if n <= len(s.log) || n > from.flushed || stream < from.born {
		return
	}
	if s.full > 0 {
		w.stopReceiving(m) // the walreceiver gives up, and another tries again
		w.connectSoon(m)
		return
	}
	s.log = append(s.log, from.log[len(s.log):n]...)
	s.odd.part = 0
	if w.has(LoseHistory) {
		s.odd.histories |= from.odd.histories
	}
	if w.odd.chance(600) && !s.flushing {
		w.flush(m, len(s.log))
		return
	}
	w.flushSoon(m)
}

// replyFlush tells the upstream how much m has flushed.
func (w *World) replyFlush(m int) {
	s := &w.members[m].server
	r := &s.receiver
	if !r.active || !w.open(m, int(r.from)) || !w.portOpen(int(r.from)) || w.lost() {
		return
	}
	w.push(w.travel(m, int(r.from)), event{kind: evAck, m: r.from, p: int8(m), n: int32(s.flushed), epoch: r.stream})
}

// ack is a standby's reply at the walsender, which releases commits by its own
// view of the setting (SyncRepReleaseWaiters).
func (w *World) ack(m, p, n int, stream uint32) {
	s := &w.members[m].server
	x := &s.senders[p]
	if !x.active || x.stream != stream {
		return
	}
	x.heardAt = w.now
	x.flush = max(x.flush, n)
	if x.flush >= s.flushed {
		x.streaming = true
	}
	if s.inRecovery || !x.sync || x.viewK == 0 || !x.streaming {
		return
	}
	if n, enough := s.quorum(w.n, x.viewK); enough {
		w.release(m, n)
	}
}

// quorum is the k-th highest position that the counted walsenders reported.
func (s *server) quorum(members, k int) (int, bool) {
	var best [MaxMembers]int
	found := 0
	for j := range members {
		x := &s.senders[j]
		if !x.active || !x.sync || !x.streaming {
			continue
		}
		i := found
		for i > 0 && best[i-1] < x.flush {
			best[i] = best[i-1]
			i--
		}
		best[i] = x.flush
		found++
	}
	if found < k {
		return 0, false
	}
	return best[k-1], true
}

// setSync writes a new setting and reloads: each walsender and the checkpointer
// takes it up in its own time (S4: a reload is not an effect).
func (w *World) setSync(m int, set ha.SyncSetting) {
	s := &w.members[m].server
	if set.K != s.config.K {
		s.kGen = s.configGen + 1
	}
	s.config = set
	s.configGen++
	s.syncAt = 0
	w.checkSetting()
	if s.run != up || s.inRecovery {
		s.adopted, s.defined = s.configGen, set.K > 0
		return
	}
	w.push(w.adoption(m), event{kind: evAdopt, m: int8(m), p: -1, n: int32(s.configGen), epoch: s.epoch})
	for j := range w.n {
		if s.senders[j].active {
			w.push(w.adoption(m), event{kind: evAdopt, m: int8(m), p: int8(j), n: int32(s.configGen), epoch: s.senders[j].stream})
		}
	}
}

func (w *World) adoption(m int) int64 {
	if w.odd.chance(100) && !w.calm {
		return w.odd.between(100*milli, 3*second)
	}
	return w.slow(m, w.odd.between(200*micro, 30*milli))
}

// adopt is one process of m's server that takes up the setting.
func (w *World) adopt(m, p int, epoch uint32) {
	s := &w.members[m].server
	if p >= 0 {
		if x := &s.senders[p]; x.active && x.stream == epoch {
			w.takeUp(m, p)
		}
		return
	}
	if s.epoch != epoch || s.run != up {
		return
	}
	s.adopted = s.configGen
	s.defined = s.config.K > 0
	w.checkSetting()
	if !s.defined && !s.inRecovery {
		w.release(m, s.flushed)
		w.checkWriters(m)
	}
}

// takeUp makes p's walsender on m use the setting as it is written now. A
// standby's counts for nothing, whatever is written (PostgreSQL's syncrep.c:
// SyncRepGetStandbyPriority).
func (w *World) takeUp(m, p int) {
	s := &w.members[m].server
	x := &s.senders[p]
	x.viewK, x.sync = s.config.K, !s.inRecovery && s.config.K > 0 && hasName(&s.config, names[p])
	w.checkSetting()
}
