package sim

import (
	"fmt"
	"slices"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// A restore in place: a person asks the leader for what a backup and the archive have, which
// is what this leader had flushed at some moment. What was acknowledged after that is gone
// from when the cluster continues with it, and nothing from before; and until then, nothing.

// saved is what one restore gives.
type saved struct {
	id       string
	asked    uint64   // in which term
	log      []uint64 // up to the target
	backup   int      // how much of that the backup has; the rest is in the archive
	timeline ha.TLI   // that the recovery is to begin
	broken   bool     // the repository cannot be read
	goneOn   bool     // the cluster has gone on with it
	givenUp  uint64   // in which term it has given it up, by the transaction of which member; zero: it has not
	by       int
	replaced bool // other data may lead again, as a person wants
	lost     bool // a disk with what was made of it was lost
}

// restoration is what a member's files say of restores in place (postgres/restore.go).
type restoration struct {
	making   string  // the marker's: of which restore the data are made; empty: none
	swaps    bool    // the marker's: what is whole takes the place of what was there
	undoes   bool    // the marker's: what was there is put back
	of       string  // Files.Restored
	settled  bool    // the cluster has gone on with the data
	recovers bool    // recovery.signal: PostgreSQL recovers to the target, and then promotes itself
	before   *server // what was there before, which is kept; nil: nothing
}

// drawRestore is a restore to some record, or to the end, from some backup.
func (w *World) drawRestore(how uint8) {
	m := max(0, w.index(w.consul.record.Leader))
	n := w.members[m].server.flushed
	if how&3 != 0 && n > 0 {
		n = 1 + w.extra.below(n)
	}
	w.askRestore(m, saved{log: w.members[m].server.log[:n], backup: 1 + w.extra.below(max(n, 1)), broken: how>>2&7 == 0})
}

// askRestore is `pgsidecar restore` on a leader that takes writes.
func (w *World) askRestore(m int, x saved) {
	b, r := &w.members[m], &w.consul.record
	s := &b.server
	if !w.sidecarRuns(m) || !w.accepts(m) || r.Leader != names[m] || r.Phase != ha.PhaseLeading || w.mode() != r.Durability.Mode {
		return
	}
	n := len(x.log)
	x.id, x.asked, x.log = fmt.Sprintf("r%d", len(w.beyond.restores)+1), r.Term, slices.Clone(x.log)
	w.beyond.restores = append(w.beyond.restores, x)
	w.tell(m, "OPERATOR RESTORES %s to record %d of %d, from a backup of %d; broken=%v", x.id, n, s.flushed, x.backup, x.broken)
	b.sidecar.intent = ha.Intent{Since: b.read(w.now), Restore: ha.Restoring{ID: x.id, Backup: "backup of " + x.id, Words: fmt.Sprintf("to record %d", n),
		From: w.position(s, n).TLI, Timeline: r.Timeline}}
	w.step(m)
}

// giveUpRestore is `pgsidecar restore --give-up`: who restores ends it, or, if that member is
// gone, anyone that is there.
func (w *World) giveUpRestore() {
	l := max(0, w.index(w.consul.record.Leader))
	for i := range w.n {
		if m := (l + i) % w.n; w.members[m].sidecar.alive {
			w.members[m].sidecar.intent = ha.Intent{GiveUp: true, Since: w.members[m].read(w.now)}
			w.step(m)
			return
		}
	}
}

// restoreAsked withdraws what an earlier term was to begin, and what has begun.
func (w *World) restoreAsked(m int) {
	s := &w.members[m].sidecar
	r := &s.consul.Record
	x := w.savedAs(s.intent.Restore.ID)
	if x != nil && (r.Term != x.asked || r.Leader != names[m]) || s.intent.GiveUp && r.Phase != ha.PhaseRestoring {
		s.intent = ha.Intent{}
	}
}

// savedAs is what a restore gives; nil: there is none of that name.
func (w *World) savedAs(id string) *saved {
	for i := range w.beyond.restores {
		if x := &w.beyond.restores[i]; x.id == id {
			return x
		}
	}
	return nil
}

// opRestore makes the data of a backup beside those that there are, which are kept.
func (w *World) opRestore(m int) {
	b := &w.members[m]
	s, a := &b.server, &b.op.action
	x, p := w.savedAs(a.Change.Record.Restore.ID), &s.odd.place
	if x == nil || s.run != stopped || s.promise > a.Term {
		w.done(m, true)
		return
	}
	switch b.op.stage {
	case 1:
		if s.half { // a marker stands already
			w.done(m, true)
			return
		}
		s.promises(a, false)
		s.data, s.half = ha.DataHalfMade, true
		p.making, p.swaps, p.undoes = x.id, false, false
		x.timeline = a.Timeline
		w.tell(m, "restore: marker written")
		w.checkHeld()
		w.nextStage(m, w.odd.between(300*milli, 4*second))
	case 2:
		if p.swaps = !x.broken; x.broken {
			w.done(m, true)
			return
		}
		w.nextStage(m, w.odd.between(milli, 30*milli))
	default:
		w.restoredInPlace(m)
		w.done(m, false)
	}
}

// restoredInPlace puts restored data in the place of those that are kept.
func (w *World) restoredInPlace(m int) {
	s := &w.members[m].server
	p := &s.odd.place
	x := w.savedAs(p.making)
	var before *server
	if len(s.log) > 0 {
		kept := *s
		kept.log, kept.waiting, kept.odd.place = slices.Clone(s.log), nil, restoration{}
		before = &kept
	}
	w.wipe(s)
	s.log = append(s.log[:0], x.log[:x.backup]...)
	s.flushed, s.systemID = len(s.log), w.consul.record.SystemID
	s.standby, s.onTLI, s.founding = false, true, false
	s.odd = oddFiles{histories: s.odd.histories, localCommit: s.odd.localCommit, cancels: s.odd.cancels, copy: w.newCopy()}
	s.odd.place = restoration{of: x.id, recovers: true, before: before}
	s.born = w.life()
	s.data, s.half = ha.DataPresent, false
	w.tell(m, "restore: %d records in place", len(s.log))
	w.checkHeld()
}

// newCopy names a copy of the data.
func (w *World) newCopy() string {
	w.records++
	return fmt.Sprintf("copy-%d", w.records)
}

// opDiscard ends what a marker names, or begins to put back what a restore has replaced.
func (w *World) opDiscard(m int) {
	s := &w.members[m].server
	switch p := &s.odd.place; {
	case s.data == ha.DataHalfMade && p.making != "":
		w.endRestore(m)
	case s.data == ha.DataHalfMade || s.founding && s.run == stopped:
		w.wipe(s)
		s.data, s.half, s.founding = ha.DataAbsent, false, false
	case p.of != "" && !p.settled && s.run == stopped:
		s.data, s.half, s.fenced = ha.DataHalfMade, true, false
		p.making, p.swaps, p.undoes = p.of, true, true
		w.nextStage(m, w.odd.between(milli, 30*milli))
		return
	}
	w.done(m, false)
}

// endRestore ends a restore that was left half made, or the undoing of one.
func (w *World) endRestore(m int) {
	s := &w.members[m].server
	p := &s.odd.place
	switch {
	case !p.swaps: // nothing was touched yet
		if s.data, s.half, p.making = ha.DataPresent, false, ""; len(s.log) == 0 {
			s.data = ha.DataAbsent
		}
	case !p.undoes:
		w.restoredInPlace(m)
	default:
		w.putBackFiles(m)
	}
	w.checkHeld()
}

// putBackFiles makes the data those from before a restore; without any there are none. The
// promise stands beside them.
func (w *World) putBackFiles(m int) {
	s := &w.members[m].server
	old := s.odd.place.before
	w.wipe(s)
	s.data, s.half, s.odd = ha.DataAbsent, false, oddFiles{localCommit: s.odd.localCommit, cancels: s.odd.cancels}
	if old != nil {
		s.log = append(s.log[:0], old.log...)
		s.data, s.flushed, s.systemID, s.config, s.before = ha.DataPresent, old.flushed, old.systemID, old.config, old.before
		s.standby, s.clean, s.onTLI = old.standby, old.clean, old.onTLI
		s.odd.histories, s.odd.strayed, s.odd.copy = old.odd.histories, old.odd.strayed, w.newCopy()
	}
	s.born = w.life()
	w.tell(m, "the data before the restore are put back: %d records", len(s.log))
}

// recovers is a server on restored data that takes connections, and replays the archived log.
func (w *World) recovers(m int, a *ha.Action) {
	s := &w.members[m].server
	s.run, s.inRecovery, s.hidden, s.clean = up, true, a.Hidden, false
	s.configGen++
	s.kGen, s.adopted, s.defined = s.configGen, s.configGen, s.config.K > 0
	s.waiting, s.acked = s.waiting[:0], -1
	for j := range w.n {
		s.senders[j] = walsender{}
	}
	w.tell(m, "server recovers restored data")
	w.push(w.slow(m, w.odd.between(50*milli, 2*second)), event{kind: evSelf, m: int8(m), epoch: s.epoch})
}

// recoveredToTarget is the end of such a recovery: the server promotes itself.
func (w *World) recoveredToTarget(m int) {
	b := &w.members[m]
	s := &b.server
	x := w.savedAs(s.odd.place.of)
	if !b.guard.armed {
		w.fail("S5", m, "%s takes writes on restored data without a lease", b.name)
	}
	s.log = append(s.log[:0], x.log...)
	w.check.own(w, m, x.timeline, w.position(s, len(s.log)))
	s.inRecovery, s.standby, s.byHand, s.onTLI, s.odd.place.recovers = false, false, false, true, false
	if r := &w.consul.record; r.Leader == b.name {
		s.term = r.Term
	}
	w.madeHistory(m, x.timeline)
	w.records++
	s.log = append(s.log, uint64(x.timeline)<<40|w.records)
	s.flushed = len(s.log)
	s.recoveryEnd = s.flushed
	w.tell(m, "has recovered %s: timeline %d at %d records", x.id, x.timeline, s.flushed)
	w.checkWriters(m)
	w.checkSetting()
	w.at(w.slow(m, w.delay()), evLook, m)
}

// settles notes that the cluster has gone on with the restored data: they are not undone.
func (w *World) settles(m int) {
	if p := &w.members[m].server.odd.place; p.of != "" && !p.settled {
		p.settled, p.before = true, nil
	}
}

// checkRestores looks whether the cluster has gone on with a restore, or has given it up. Where
// Consul has lost the record, who restored may found the cluster anew.
func (w *World) checkRestores(r, old *ha.Record) {
	if len(w.beyond.restores) == 0 {
		return
	}
	if x := w.savedAs(old.Restore.ID); x != nil && r.Restore.ID != x.id && r.Restored != x.id {
		x.givenUp, x.by = r.Term, w.index(r.Leader)
	}
	leader := w.index(r.Leader)
	if r.Phase != ha.PhaseLeading || leader < 0 {
		return
	}
	if r.Restored != old.Restored {
		w.goesOn(leader, r.Restored)
	}
	if s := &w.members[leader].server; s.run == up && !s.inRecovery {
		w.goesOn(leader, s.odd.place.of)
	}
}

// goesOn is the record of a leader that continues with restored data: what was acknowledged
// after the target is gone, as a person wanted.
func (w *World) goesOn(m int, id string) {
	x := w.savedAs(id)
	if x == nil || x.goneOn {
		return
	}
	x.goneOn = true
	w.beyond.replacedTerm = max(w.beyond.replacedTerm, w.consul.record.Term)
	if x.givenUp != 0 && (m == x.by || w.remembered(x.givenUp)) { // else Consul has lost that before another knew
		w.fail("restore", m, "the cluster continues with %s, which was given up", id)
		return
	}
	s, n := &w.members[m].server, len(x.log)
	if x.lost && s.odd.place.of != id {
		w.tell(m, "had its data no more when the record said that the cluster continues with %s", id)
		w.trimAcked(x)
		return
	}
	if len(s.log) <= n || s.log[n-1] != x.log[n-1] {
		w.fail("restore", m, "the cluster continues with %s, and %s has not its %d records", id, names[m], n)
		return
	}
	w.beyond.outcome.Restored++
	w.trimAcked(x)
	w.check.acked = slices.DeleteFunc(w.check.acked, func(a ackedUpTo) bool {
		// The term began by Consul's old word, while the restore was under way.
		beside := !s.has(&a) && w.beyond.putBack && a.term > x.asked && a.term < w.consul.record.Term
		if beside {
			w.beyond.outcome.Accepted++
		}
		return beside
	})
	for i := range w.check.acked {
		if a := &w.check.acked[i]; !s.has(a) {
			w.fail("lost", m, "%s was to restore %s, and lacks commit %d before its target, acknowledged by %s in term %d", names[m], id, a.n, names[a.server], a.term)
			return
		}
	}
}

// trimAcked forgets what was acknowledged after a restore's target.
func (w *World) trimAcked(x *saved) {
	n := len(x.log)
	for i := range w.check.acked {
		if a := &w.check.acked[i]; a.n > n {
			a.n, a.id = n, x.log[n-1]
		}
	}
	for j := range w.n {
		w.members[j].server.acked = -1
	}
}

// checkBrought: nobody brings back by itself what a restore has replaced, whatever else may be
// lost: who is promoted has what the cluster continued with. A promotion that was begun in a term before
// the restore may still take effect, where its machine stood still: it leads nobody, and what it may
// acknowledge other checks say.
func (w *World) checkBrought(m int, term uint64) {
	for i := len(w.beyond.restores) - 1; i >= 0; i-- {
		x := &w.beyond.restores[i]
		if !x.goneOn {
			continue
		}
		if term < x.asked {
			return
		}
		if w.beyond.accepting || w.beyond.putBack {
			x.replaced = true // from now on
		} else if !x.replaced && !slices.ContainsFunc(w.members[m].server.log, func(id uint64) bool { return timelineOf(id) == x.timeline }) {
			w.fail("restore", m, "%s is promoted in term %d with the data from before %s, with which the cluster had continued", names[m], term, x.id)
		}
		return
	}
}

// undone says whether the data are those of a restore that can still be undone: the member does
// not know yet that the cluster has gone on with them.
func (s *server) undone() bool { return s.odd.place.of != "" && !s.odd.place.settled }
