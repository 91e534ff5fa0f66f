package sim

import (
	"fmt"
	"slices"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// forever is later than any run ends.
const forever = int64(1) << 60

// strikeDisk is what happens to a host or to its disks.
func (w *World) strikeDisk(f *fault, m int, o Outside) {
	b := &w.members[m]
	switch o {
	case LoseHost:
		w.loseHost(m)
	case LoseData, LoseDisk:
		w.loseDisk(f, m, o == LoseDisk)
	case LoseState:
		w.loseState(m)
	case CloneReplica:
		w.beyond.cloneReplica, w.beyond.cloneBackup = true, f.how&32 != 0
		if f.how&3 == 0 {
			b.sidecar.intent = ha.Intent{Reinit: true, Since: b.read(w.now)}
			w.step(m)
			return
		}
		w.loseDisk(f, m, false)
	case HungDisk:
		w.hangDisk(f, m)
	case LoseHistory:
		w.tell(m, "has only the newest history file")
		b.server.odd.histories = 0
		if n := len(b.server.log); n > 0 {
			b.server.odd.histories = 1 << (w.position(&b.server, n).TLI % 64)
		}
	case LoseWAL:
		if s := &b.server; !s.receiver.active && s.inRecovery || names[m] != w.consul.record.Leader {
			w.stopReceiving(m)
			s.odd.walGone = true
			w.connectSoon(m)
		}
	}
}

// goneHosts is how many members are gone for good.
func (w *World) goneHosts() int {
	n := 0
	for i := range w.n {
		if w.members[i].gone {
			n++
		}
	}
	return n
}

// loseHost ends a host for good: one in a run.
func (w *World) loseHost(m int) {
	if w.goneHosts() > 0 {
		return
	}
	w.tell(m, "HOST IS LOST FOR GOOD")
	w.crashHost(m)
	w.members[m].gone = true
	w.forgetNothingLeft()
}

// anotherHas says whether a host that is there, but m, has a record of the timeline.
func (w *World) anotherHas(m int, t ha.TLI) bool {
	for i := range w.n {
		b := &w.members[i]
		if i != m && !b.gone && slices.ContainsFunc(b.server.log, func(id uint64) bool { return timelineOf(id) == t }) {
			return true
		}
	}
	return false
}

// forgetNothingLeft forgets what was acknowledged where no copy is left: nobody can keep it, also
// where a cluster is founded that begins with nothing.
func (w *World) forgetNothingLeft() {
	if w.nothingLeft() {
		w.forgetAcked()
	}
}

// loseDisk lets a member come back with an empty data directory, at once or
// with its host.
func (w *World) loseDisk(f *fault, m int, state bool) {
	b := &w.members[m]
	s := &b.server
	if b.gone || s.hung > w.now {
		return
	}
	w.tell(m, "DATA ARE LOST with %d records", len(s.log))
	if f.how&16 != 0 || state {
		w.crashHost(m)
	}
	w.crash(m)
	if b.op.id != 0 {
		w.done(m, true)
	}
	if x := w.savedAs(s.odd.place.of); x != nil {
		x.lost = true
	}
	w.wipe(s)
	s.data, s.half, s.fenced, s.founding, s.odd = ha.DataAbsent, false, false, false, oddFiles{}
	if state {
		s.promise, s.to, s.seen = 0, "", ha.RecordKept{}
	}
	w.forgetNothingLeft()
	w.step(m)
}

// loseState lets a member forget what it has promised. One whose data directory
// is half made is left alone: the marker stands there too, and a server that
// starts without it is beyond what anybody could know.
func (w *World) loseState(m int) {
	b := &w.members[m]
	s := &b.server
	if b.gone || s.hung > w.now || s.half || s.rewound >= 0 {
		return
	}
	w.tell(m, "STATE DIRECTORY IS LOST, with the promise of term %d", s.promise)
	w.crashHost(m)
	s.promise, s.to, s.fenced, s.founding, s.seen = 0, "", false, false, ha.RecordKept{}
}

// hangDisk lets a disk not answer, for a while or for ever.
func (w *World) hangDisk(f *fault, m int) {
	b := &w.members[m]
	if b.gone || !b.hostUp {
		return
	}
	b.server.hung = forever
	if f.how&3 == 0 && w.goneHosts() == 0 {
		b.gone = true
	}
	w.tell(m, "DISK HANGS; for ever=%v", b.gone)
}

// unkillable says whether a kill has no effect, as the server waits for its
// disk; whatever does not wait for it is dead then.
func (w *World) unkillable(m int) bool {
	s := &w.members[m].server
	if s.hung <= w.now {
		return false
	}
	if !s.odd.killed {
		w.tell(m, "is killed, and hangs in its disk")
		s.odd.killed, s.stopping = true, true
		s.waiting = s.waiting[:0]
		w.dropStreams(m)
	}
	return true
}

// silentDisk says whether the server answers nobody for its disk's sake.
func (s *server) silentDisk(now int64) bool { return s.hung > now && s.odd.killed }

// diskAnswers ends a hang: what was killed dies now.
func (w *World) diskAnswers(m int) {
	s := &w.members[m].server
	if s.hung == 0 {
		return
	}
	s.hung = 0
	w.tell(m, "disk answers again")
	s.flushing = false
	if s.odd.killed {
		s.odd.killed = false
		w.crash(m)
	} else if s.run == up || s.receives() {
		w.flushSoon(m) // what waited for it
	}
}

// cloneSource is a replica that streams from the leader, if m's sidecar sees
// one: what the shell chooses for the tag clonefrom, or for reinit --from.
func (w *World) cloneSource(m, leader int) int {
	if !w.beyond.cloneReplica {
		return leader
	}
	for j := range w.n {
		if j == m || j == leader || !w.source(m, j) {
			continue
		}
		p := w.peer(m, j)
		if p.Link == ha.LinkUp && p.Report.Streaming && p.Report.Strayed == "" && p.Report.Leader == names[leader] {
			return j
		}
	}
	return leader
}

// stopClock: a virtual machine that is stopped from outside does not count it.
func (w *World) stopClock(m int, lasts int64) {
	b := &w.members[m]
	if !w.beyond.clockStops {
		return
	}
	if t := max(b.hostPaused, w.now); w.now+lasts > t {
		b.bootedAt += w.now + lasts - t
	}
}

// endInside leaves a standby with the beginning of a record whose end never
// came: a stream ends anywhere. (A server that runs has sent nothing beyond what it has.)
func (w *World) endInside(s *server, from int) {
	u, n := &w.members[from].server, len(s.log)
	if u.flushed > n && n > 0 && timelineOf(u.log[n]) != timelineOf(s.log[n-1]) {
		return // the upstream's own timeline begins here: of this one there is no more to be sent
	}
	if u.run == stopped && u.clean {
		return // it has sent all that it has, to the end
	}
	if w.beyond.midRecord && (u.run != up || u.flushed > n) && w.extra.chance(500) {
		s.odd.part = uint8(1 + w.extra.below(1<<midScale-1))
	}
}

// replay is a standby's backlog. It takes need to replay it, from the moment
// at which the server is started or told to promote.
type replay struct {
	need  int64
	from  int
	began int64 // zero: it stands still
}

// fallBehind gives all standbys a backlog.
func (w *World) fallBehind(f *fault) {
	for i := range w.n {
		s := &w.members[i].server
		if names[i] != w.consul.record.Leader && s.data == ha.DataPresent && s.run == up && s.inRecovery {
			s.odd.replay = replay{need: int64(40+int(f.how)%100) * second, from: s.flushed / 2}
			w.beyond.replays = max(w.beyond.replays, s.odd.replay.need)
		}
	}
}

// replayed is how many of the records that a standby has it has replayed.
func (w *World) replayed(s *server) int {
	r := &s.odd.replay
	switch done := w.now - r.began; {
	case r.need == 0:
		return s.flushed
	case r.began == 0:
		return r.from
	case done < r.need:
		return r.from + int(int64(s.flushed-r.from)*done/r.need)
	}
	return s.flushed
}

// replayedTo is how far that is, to the byte: a server that replays for a minute is seen to
// come further, however few records the simulated ones are.
func (w *World) replayedTo(s *server) ha.LSN {
	r := &s.odd.replay
	from, to := w.lsn(max(min(r.from, s.flushed), 1)), w.lsn(max(w.replayed(s), 1))
	if done := w.now - r.began; r.need != 0 && r.began != 0 && done < r.need {
		to = from + ha.LSN(int64(w.lsn(max(s.flushed, 1))-from)*(done/milli)/(r.need/milli))
	}
	return to
}

// replayAgain: a server that is started replays from its last restartpoint.
func (w *World) replayAgain(m int) {
	s := &w.members[m].server
	if s.odd.replay.need != 0 {
		s.odd.replay.began, s.odd.replay.from = w.now, 0
	}
}

// lookReplay is what a look sees of a standby's replay. One that was started
// knows the end of its log only when it has read it.
func (w *World) lookReplay(m int, f *ha.Server) {
	s := &w.members[m].server
	if s.odd.replay.need == 0 && !w.beyond.midRecord {
		return
	}
	f.Replayed = w.replayedTo(s)
	f.Settled = f.Settled && !w.reads(m)
	f.ReadAll = !s.receiver.active && s.upstream < 0 && w.replayed(s) == s.flushed
}

// reads says whether a standby that was started still reads the log that it has,
// and so does not know where it ends.
func (w *World) reads(m int) bool {
	s := &w.members[m].server
	return s.odd.replay.began != 0 && w.replayed(s) < s.flushed && w.members[m].op.action.Kind != ha.Promote
}

// replayLeft is how long a promotion has still to replay.
func (w *World) replayLeft(m int) int64 {
	r := &w.members[m].server.odd.replay
	if r.need == 0 {
		return 0
	}
	if r.began == 0 {
		r.began = w.now
	}
	return max(0, r.began+r.need-w.now)
}

// endServer is the end of a sidecar that gives up: it stops its server.
func (w *World) endServer(m int) {
	if s := &w.members[m].server; w.opt.Outside != 0 && s.run != stopped && !w.unkillable(m) {
		s.flushed = len(s.log)
		clean := !s.inRecovery && s.run == up
		w.crash(m)
		s.clean = clean
	}
}

// cloned notes what pg_basebackup leaves out: all history files but the newest.
func (w *World) cloned(m int) {
	s, from := &w.members[m].server, w.members[m].op.copies
	if w.opt.Outside == 0 || len(s.log) == 0 {
		return
	}
	w.tell(m, "the clone of %s has %d records", names[from], len(s.log))
	s.odd.histories = 1 << (w.position(s, len(s.log)).TLI % 64)
	w.records++
	s.odd.strayed, s.odd.copy = "", fmt.Sprintf("copy-%d", w.records)
	s.odd.owed = s.odd.owes
	if s.undone() {
		s.odd.place = restoration{}
	}
}

// chooseCopied chooses, as a copy begins, whom to copy. The leader is asked then where
// it is, and is copied itself if it does not answer: a copy of another owes that.
func (w *World) chooseCopied(m, leader int) {
	b := &w.members[m]
	b.server.odd.owes, b.op.copies = ha.Position{}, int8(leader)
	if w.beyond.cloneBackup && w.source(m, leader) {
		l := &w.members[leader].server
		b.server.odd.owes = w.position(l, l.flushed)
		return
	}
	if from := w.cloneSource(m, leader); from != leader && w.source(m, leader) {
		l := &w.members[leader].server
		b.server.odd.owes, b.op.copies = w.position(l, l.flushed), int8(from)
	}
}

// noVote says whether a member's word is no vote, so that S4 does not count what
// it lacks.
func (w *World) noVote(s *server) bool {
	if !heedsOwed {
		return false
	}
	return s.odd.strayed != "" || s.odd.owed.Known() && !w.position(s, s.flushed).Contains(s.odd.owed)
}
