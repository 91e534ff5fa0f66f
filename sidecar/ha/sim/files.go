package sim

import (
	"strconv"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// opFiles are the operations that replace the data directory: a marker stands
// from before the first change until after the last (S10).
func (w *World) opFiles(m int) {
	b := &w.members[m]
	s, a := &b.server, &b.op.action
	if b.op.stage == 1 {
		w.opFilesBegin(m)
		return
	}
	from := w.index(a.From)
	switch a.Kind {
	case ha.Init:
		w.records++
		s.systemID = "system-" + strconv.FormatUint(w.records, 10)
		s.log = append(s.log[:0], uint64(1)<<40|w.records)
		s.standby, s.clean, s.onTLI = false, true, true
		s.founding = true
	case ha.Clone:
		if !w.source(m, from) {
			w.done(m, true)
			return
		}
		if from = int(b.op.copies); !w.source(m, from) || w.members[from].server.epoch != b.op.served && !w.beyond.cloneBackup {
			w.done(m, true)
			return
		}
		w.copyLog(s, &w.members[from].server, 0)
		w.cloned(m)
		w.restored(m, from)
	case ha.Rewind:
		u := &w.members[from].server
		if !w.source(m, from) || u.epoch != b.op.served || u.inRecovery && !w.follows() || u.systemID != s.systemID {
			w.done(m, true)
			return
		}
		if !u.onTLI {
			break // it finds nothing to rewind, and changes nothing
		}
		if w.rewindFails(m, from) {
			return
		}
		s.odd.histories |= u.odd.histories
		w.rewind(m, from)
	}
	s.flushed = len(s.log)
	s.data, s.half = ha.DataPresent, false
	w.checkHeld()
	w.done(m, false)
}

func (w *World) opFilesBegin(m int) {
	b := &w.members[m]
	s, a := &b.server, &b.op.action
	from := w.index(a.From)
	long := w.odd.between(100*milli, 1500*milli)
	switch {
	case s.run != stopped && a.Kind == ha.Init, a.Kind != ha.Init && !w.source(m, from):
		w.done(m, true)
		return
	case s.run != stopped:
		w.crash(m) // the operation stops the server itself
		b.op.running = s.epoch
	}
	w.tell(m, "%s: marker written", a.Kind)
	b.op.served = 0
	if from >= 0 {
		b.op.served = w.members[from].server.epoch
	}
	s.half = true
	if w.opt.Mutation != MutateS10 {
		s.data = ha.DataHalfMade
	}
	s.fenced = false
	if a.Kind != ha.Rewind {
		if a.Kind == ha.Clone {
			w.chooseCopied(m, from)
			b.op.served = w.members[b.op.copies].server.epoch
		}
		w.wipe(s)
		long *= 3
	}
	w.checkHeld()
	if !w.check.failed() {
		w.nextStage(m, long)
	}
}

// wipe removes what a data directory holds; the promise is kept beside it.
func (w *World) wipe(s *server) {
	s.log, s.flushed = s.log[:0], 0
	s.clean, s.upstream, s.systemID, s.rewound = false, -1, "", -1
	s.config = ha.SyncSetting{}
}

// source says whether m can copy from the member now.
func (w *World) source(m, from int) bool {
	return from >= 0 && from != m && w.both(m, from) && w.portOpen(from) && w.serverRuns(from) && w.members[from].server.run == up && !w.members[from].server.silentDisk(w.now)
}

// copyLog makes s hold what u has flushed; they agree on the first n records.
func (w *World) copyLog(s, u *server, n int) {
	s.log = append(s.log[:n], u.log[n:u.flushed]...)
	s.systemID, s.born = u.systemID, w.life()
	s.standby, s.clean, s.upstream, s.onTLI, s.rewound = true, false, -1, true, -1
	s.config = ha.SyncSetting{}
	s.odd.part, s.odd.walGone, s.odd.replay = 0, false, replay{}
}

// rewind makes m's log a prefix of the other's. Its data files are as new as the
// other's are now, so it needs the log up to there; how much of that was copied
// with them is a matter of luck.
func (w *World) rewind(m, from int) {
	s, u := &w.members[m].server, &w.members[from].server
	n := common(s, u)
	diverged := n < len(s.log)
	w.copyLog(s, u, n)
	if diverged {
		s.log = s.log[:n+w.odd.below(u.flushed-n+1)]
		s.rewound, s.needs, s.inTerm = int8(from), u.flushed, w.members[m].op.action.Term
	}
}

// restored makes a copy one of a backup: what the leader had at some time, which takes
// connections when it has received more of the leader's log, up to the backup's end.
// The archive gives it no more than the leader does.
func (w *World) restored(m, from int) {
	s := &w.members[m].server
	if n := len(s.log); w.beyond.cloneBackup && n > 0 {
		s.log = s.log[:1+w.odd.below(n)]
		s.rewound, s.needs, s.inTerm = int8(from), len(s.log)+w.odd.below(n-len(s.log)+1), w.members[m].op.action.Term
	}
}

// common is how many records two logs agree on. An id stands for one record at
// one place after one history, so agreement is a prefix.
func common(s, u *server) int {
	low, high := 0, min(len(s.log), u.flushed)
	for low < high {
		mid := (low + high + 1) / 2
		if s.log[mid-1] == u.log[mid-1] {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}
