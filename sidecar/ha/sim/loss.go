package sim

import (
	"slices"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// What may be lost, and who is left to know of it.

// forgetLost forgets the commits of earlier terms, or of such as nobody is left to know of, that the
// leader of a term lacks, if they may be lost, and fails if they may not.
func (w *World) forgetLost(m int, term uint64) {
	s := &w.members[m].server
	kept, all := w.check.acked[:0], len(w.check.acked)
	async := w.mode() == ha.ModeAsync
	for i := range w.check.acked {
		a := w.check.acked[i]
		// What is promoted late, in a term before one that has led since, leads nobody.
		if !s.has(&a) && (a.term < term || !w.known(a.term) && !w.ledSince(term)) {
			if async || w.acceptedLoss() {
				continue
			}
			if before, forgiven := w.lostUnread(s, &a); forgiven {
				w.beyond.outcome.Accepted++
				if before.n > 0 {
					kept = append(kept, before)
				}
				all = -1 // of it, part is left
				continue
			}
			w.fail("lost", m, "%s is promoted in term %d without commit %d, acknowledged by %s in term %d", names[m], term, a.n, names[a.server], a.term)
			return
		}
		kept = append(kept, a)
	}
	if len(kept) != all {
		w.check.acked = kept
		for j := range w.n {
			w.members[j].server.acked = -1
		}
	}
}

// forgetAcked: with the change to async mode an operator accepts that what is
// not replicated may be lost.
func (w *World) forgetAcked() {
	w.check.acked = w.check.acked[:0]
	for j := range w.n {
		w.members[j].server.acked = -1
	}
}

// unread is a record of a term to which Consul was put back from a later one of the same
// term. What was acknowledged under the later one may be lost if nobody who elects the next
// leader has read it: that Consul says less than the truth, only its reader can know. Who
// puts Consul back is told so (help guarantees). Of an election under way by Consul's word the
// core asks whether it was decided.
type unread struct {
	snapshot
	blind bool // none of those who elected the next leader had read a later one
}

// noteBlind looks, when a leader is elected, whether any of those who elected it has read a
// later record than that to which Consul was put back.
func (w *World) noteBlind(old *ha.Record) {
	r := &w.consul.record
	if r.Phase != ha.PhasePromoting || old.Phase != ha.PhaseElecting || r.Term != old.Term {
		return
	}
	for i := range w.beyond.unread {
		if u := &w.beyond.unread[i]; r.Term > u.record.Term && !w.hasRead(w.index(r.Leader), &u.record) {
			u.blind = !slices.ContainsFunc(old.Durability.Voters, func(v string) bool { return w.hasRead(w.index(v), &u.record) })
		}
	}
}

// hasRead says whether a member has read, or heard of, a later record of that one's term, or
// its disk has.
func (w *World) hasRead(m int, than *ha.Record) bool {
	b := &w.members[m]
	later := func(term, changes uint64, phase ha.Phase) bool {
		return term == than.Term && (changes > than.Changes || phase == ha.PhaseLeading && than.Phase == ha.PhasePromoting)
	}
	last, heard, kept := &b.sidecar.state.Last, &b.sidecar.state.Heard, &b.server.seen
	return !b.gone && (b.sidecar.alive && (later(last.Term, last.Changes, last.Phase) || later(heard.Term, heard.Changes, heard.Phase)) ||
		later(kept.Term, kept.Changes, kept.Phase))
}

// lostUnread says whether a commit that s lacks may be lost, as it was acknowledged under a
// record that none of those who elected s had read. Of what its server acknowledged before,
// as the result says, nothing may be.
func (w *World) lostUnread(s *server, a *ackedUpTo) (before ackedUpTo, forgiven bool) {
	for i := range w.beyond.unread {
		u := &w.beyond.unread[i]
		if !u.blind || u.record.Term != a.term {
			continue
		}
		before, forgiven = ackedUpTo{}, true
		for j := range u.acked {
			e := &u.acked[j]
			forgiven = forgiven && (e.term > a.term || s.has(e))
			if e.server == a.server && e.term == a.term && e.n > before.n {
				before = *e
			}
		}
		if forgiven && before.n < a.n {
			return before, true
		}
	}
	return ackedUpTo{}, false
}

// remembered says whether a member has promised the term, or a later one, or its disk or its process
// knows of it.
func (w *World) remembered(term uint64) bool {
	for i := range w.n {
		b := &w.members[i]
		if s := &b.sidecar; !b.gone && (max(b.server.promise, b.server.seen.Term) >= term || s.alive && max(s.state.Last.Term, s.state.Heard.Term) >= term) {
			return true
		}
	}
	return false
}

// known says whether Consul, or a member, knows of the term.
func (w *World) known(term uint64) bool { return w.consul.record.Term >= term || w.remembered(term) }

// ledSince says whether anybody has been elected in a later term.
func (w *World) ledSince(term uint64) bool {
	later := w.check.leaders[min(int(term)+1, len(w.check.leaders)):]
	return slices.ContainsFunc(later, func(leader int8) bool { return leader >= 0 })
}
