package sim

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// Histories that people make: the numbers of their timelines may be those of
// others, so inside of the simulation each has a branch of its own.

// handBranch is the first branch that people made; those below it are claimed
// timelines, and their number is the timeline's.
const handBranch = ha.TLI(1 << 20)

// hand is one history that people made.
type hand struct {
	number  ha.TLI
	mark    ha.Mark
	history []ha.Fork
}

// markOf tells the timeline that begins with a record apart from all others.
func markOf(record uint64) ha.Mark { return ha.Mark(record&(1<<40-1)) + 1 }

func (w *World) newBranch(number ha.TLI, mark ha.Mark, history []ha.Fork) ha.TLI {
	w.beyond.hands = append(w.beyond.hands, hand{number: number, mark: mark, history: append([]ha.Fork(nil), history...)})
	return handBranch + ha.TLI(len(w.beyond.hands)-1)
}

// strikeByHand is what a person does with a server, beside its sidecar.
func (w *World) strikeByHand(f *fault, m int, o Outside) {
	b := &w.members[m]
	s := &b.server
	if !b.hostUp || s.hung > w.now || s.data != ha.DataPresent || s.half || s.rewound >= 0 || len(s.log) == 0 {
		return
	}
	switch o {
	case PromoteByHand:
		if f.how&3 == 0 { // and has stopped the sidecar before
			w.stopSidecar(m)
			w.supervise(m, w.extra.between(second, 5*second))
		}
		w.promoteByHand(m)
	case StartByHand:
		w.startByHand(f, m)
	case RecoveryGoal:
		s.odd.aims = true
		if s.run == up && s.inRecovery {
			w.crash(m)
		}
	}
}

// promoteByHand is pg_promote(): the server takes the number after its own.
func (w *World) promoteByHand(m int) {
	s := &w.members[m].server
	if s.run != up || !s.inRecovery {
		return
	}
	if s.odd.place.recovers { // "recovery ended before configured recovery target was reached"
		w.crash(m)
		return
	}
	w.stopReceiving(m)
	s.flushed, s.odd.part = len(s.log), 0
	at := w.position(s, len(s.log))
	s.inRecovery, s.standby, s.clean, s.onTLI, s.byHand = false, false, false, false, true
	s.acked, s.defined = -1, s.config.K > 0
	s.odd.strayed = "it was promoted by hand"
	w.records++
	s.log = append(s.log, uint64(w.newBranch(at.TLI+1, markOf(w.records), append(at.History[:len(at.History):len(at.History)], ha.Fork{TLI: at.TLI, End: at.LSN, Mark: at.Mark})))<<40|w.records)
	s.flushed = len(s.log)
	w.sendOn(m)
	w.tell(m, "IS PROMOTED BY HAND onto timeline %d at %d records", at.TLI+1, s.flushed)
	w.at(w.slow(m, w.extra.between(100*milli, 900*milli)), evLook, m)
}

// startByHand stops sidecar and server, starts the server as a primary for a
// while, on the timeline that it has, and puts all back as it was or not.
func (w *World) startByHand(f *fault, m int) {
	b := &w.members[m]
	s := &b.server
	w.stopSidecar(m)
	b.op.id = 0
	w.crash(m)
	at := w.position(s, len(s.log))
	branch := timelineOf(s.log[len(s.log)-1])
	if s.standby {
		s.odd.strayed = "it was started by hand as a primary"
		branch = w.newBranch(at.TLI, at.Mark, at.History)
	}
	writes := 1 // the checkpoints at its start and at its end
	if f.how&1 != 0 {
		writes += 1 + int(f.how>>4)
	}
	for range writes {
		w.records++
		s.log = append(s.log, uint64(branch)<<40|w.records)
	}
	s.flushed, s.odd.part = len(s.log), 0
	s.clean = f.how&2 == 0
	s.standby = s.standby && f.how&4 == 0
	w.tell(m, "IS STARTED BY HAND as a primary, writes %d records on timeline %d, and is stopped; clean=%v standby.signal=%v", writes, at.TLI, s.clean, s.standby)
	w.supervise(m, w.extra.between(200*milli, 3*second))
}

// aims lets a standby that was started with a recovery target promote itself.
func (w *World) aims(m int) {
	s := &w.members[m].server
	if s.odd.aims && s.inRecovery {
		s.odd.aims = false
		w.push(w.extra.between(20*milli, 600*milli), event{kind: evSelf, m: int8(m), epoch: s.epoch})
	}
}

func (w *World) reachTarget(m int, epoch uint32) {
	s := &w.members[m].server
	switch {
	case s.epoch != epoch:
	case s.odd.place.recovers && (!w.serverRuns(m) || s.hung > w.now):
		w.push(100*milli, event{kind: evSelf, m: int8(m), epoch: epoch})
	case s.odd.place.recovers:
		w.recoveredToTarget(m)
	case w.serverRuns(m):
		w.promoteByHand(m)
	}
}

// madeHistory notes the history files that a promotion leaves: its own, and a
// placeholder for each number that was skipped.
func (w *World) madeHistory(m int, t ha.TLI) {
	if !w.has(LoseHistory) {
		return
	}
	s := &w.members[m].server
	before := w.position(s, len(s.log)).TLI
	for n := before + 1; n <= t; n++ {
		s.odd.histories |= 1 << (n % 64)
	}
}

// serves says whether p has the log and the history files that m's walreceiver
// asks for: each history between its own timeline and p's
// (WalRcvFetchTimeLineHistoryFiles).
func (w *World) serves(m, p int) bool {
	s, u := &w.members[m].server, &w.members[p].server
	if s.odd.walGone {
		return false
	}
	if !w.has(LoseHistory) {
		return true
	}
	mine, theirs := w.position(s, len(s.log)).TLI, w.position(u, u.flushed).TLI
	for n := mine + 1; n <= theirs; n++ {
		bit := uint64(1) << (n % 64)
		if (s.odd.histories|u.odd.histories)&bit == 0 && !keepsHistories {
			if w.opt.Story && !s.odd.refused {
				w.tell(m, "cannot stream from %s: the history file of timeline %d is missing", names[p], n)
			}
			s.odd.refused = true
			return false
		}
		s.odd.histories |= bit
	}
	return true
}

// forkByNumbers is how many records two logs share by their timelines' numbers
// and positions: what pg_rewind uses.
func (w *World) forkByNumbers(s, u *server) int {
	low, high := 0, min(len(s.log), u.flushed)
	theirs := w.position(u, u.flushed)
	for low < high {
		if mid := (low + high + 1) / 2; theirs.Contains(w.position(s, mid)) {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}

// rewindFails judges a rewind before it is made: pg_rewind uses the numbers
// of the timelines, and does nothing where both are on the same. It reports
// whether the operation ends here.
func (w *World) rewindFails(m, from int) bool {
	s, u := &w.members[m].server, &w.members[from].server
	same := common(s, u)
	// One that has not read all that it has cannot know that what is beyond is no whole record.
	if s.odd.part > 0 && same == len(s.log) && s.odd.replay.need == 0 {
		w.beyond.outcome.Needless++
		w.fail("needless", m, "%s is stopped and rewound as its log ends inside a record; it has nothing that %s has not", names[m], names[from])
		return true
	}
	if len(w.beyond.hands) == 0 {
		return false
	}
	if n := w.forkByNumbers(s, u); n > same {
		w.fail("timeline", m, "pg_rewind finds that %s and %s part after %d records, and they do after %d", names[m], names[from], n, same)
		return true
	}
	return false
}
