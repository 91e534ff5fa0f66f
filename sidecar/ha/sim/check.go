package sim

import (
	"fmt"
	"slices"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// check is what is known of the whole world, to judge each step by.
type check struct {
	violation string
	rule      string
	story     []string
	settled   bool // after the faults: everything is as it should be

	acked     []ackedUpTo
	timelines []timeline // by number
	leaders   []int8     // by term: who reached PhasePromoting, or -1
	system    string     // whose terms those are
	calmAt    int64
	commitAt  int64 // newest commit
	exits     int
	lastHarm  [MaxMembers]int64             // newest fault that touched the member, but crashes
	crashHarm [MaxMembers]int64             // newest crash
	linkHarm  [MaxMembers][MaxMembers]int64 // or its link
	doubted   [MaxMembers][MaxMembers]int64 // when a member last took another for out of reach that was not
	asked     bool                          // an operator has asked for a handover
}

// ackedUpTo is the newest acknowledged commit of one primary's life. A server that
// holds it holds all before it.
type ackedUpTo struct {
	server int
	term   uint64
	n      int
	id     uint64
}

// timeline is one timeline number: who promoted onto it, and by what way.
type timeline struct {
	system  string
	owner   int8
	mark    ha.Mark
	history []ha.Fork
}

// How long after the last fault a commit must be possible, and every standby
// must stream again: sessions last up to 20 s, then come elections, rewinds and
// clones that fail and are repeated.
const (
	writableWithin = 60 * second
	settledWithin  = 120 * second
)

func (c *check) reset() {
	*c = check{acked: c.acked[:0], timelines: c.timelines[:0], leaders: c.leaders[:0]}
	c.timelines = append(c.timelines, timeline{owner: -1}, timeline{owner: -1})
}

func (c *check) failed() bool { return c.rule != "" }

// fail notes the first broken promise; the run ends.
func (w *World) fail(rule string, m int, format string, args ...any) {
	c := &w.check
	if c.failed() {
		return
	}
	c.rule = rule
	c.violation = fmt.Sprintf("%s: %s", rule, fmt.Sprintf(format, args...))
	w.tell(m, "VIOLATION %s", c.violation)
}

// timeline is how timeline t was reached, and what tells it apart.
func (c *check) timeline(t ha.TLI) *timeline {
	if int(t) >= len(c.timelines) {
		return &timeline{}
	}
	return &c.timelines[t]
}

// own notes who promotes onto a timeline: one number, one history.
func (c *check) own(w *World, m int, t ha.TLI, from ha.Position) {
	for int(t) >= len(c.timelines) {
		c.timelines = append(c.timelines, timeline{owner: -1})
	}
	x := &c.timelines[t]
	// What only a host had that is gone for good nobody meets again.
	if x.owner >= 0 && !(w.members[x.owner].gone && !w.anotherHas(m, t)) {
		w.fail("timeline", m, "timeline %d is claimed by %s, and was by %s", t, w.nameOf(m), w.nameOf(int(x.owner)))
		return
	}
	x.owner, x.system = int8(m), w.members[m].server.systemID
	x.mark = markOf(w.records + 1) // of the record that comes next
	x.history = append(append([]ha.Fork(nil), from.History...), ha.Fork{TLI: from.TLI, End: from.LSN, Mark: from.Mark})
}

// owned checks that only a timeline's owner extends it.
func (c *check) owned(w *World, m int, t ha.TLI) {
	if t >= handBranch {
		return
	}
	if x := &c.timelines[t]; x.owner >= 0 && int(x.owner) != m && x.system == w.members[m].server.systemID {
		w.fail("timeline", m, "%s writes on timeline %d of %s", names[m], t, names[x.owner])
	}
}

// acknowledge is the moment a client learns that its commit, and so all before
// it, is durable.
func (w *World) acknowledge(m, n int) {
	s := &w.members[m].server
	if w.opt.Outside != 0 && w.ownRisk(m) {
		return
	}
	if w.givenUp(m) {
		w.beyond.outcome.Accepted++
		return
	}
	if w.byOldWord(m) {
		w.beyond.outcome.Local++
		return
	}
	w.res.Commits++
	w.check.commitAt = w.now
	if w.calm && w.res.Recovered == 0 {
		w.res.Recovered = w.now - w.check.calmAt
	}
	if w.mode() != ha.ModeQuorum || w.byStoppedClock(m) {
		return
	}
	w.protect(m, n)
	w.holds(&w.check.acked[s.acked])
	w.inZones(m, n)
}

// holds checks S4 for one acknowledged commit: no election can gather the votes
// it needs from voters that lack it. A voter whose data directory is being
// replaced does not hold the commit, but it does not vote either (S10), nor does
// one that was rewound and has not received what it needs.
func (w *World) holds(a *ackedUpTo) {
	d := &w.consul.record.Durability
	if d.Mode != ha.ModeQuorum || d.K == 0 || w.beyond.noRecord {
		return
	}
	lack := 0
	for _, v := range d.Voters {
		s := &w.members[w.index(v)].server
		if s.data == ha.DataPresent && !s.half && s.rewound < 0 && !s.undone() && !w.noVote(s) && (s.flushed < a.n || s.log[a.n-1] != a.id) {
			lack++
		}
	}
	if lack >= d.VotesNeeded() {
		w.fail("S4", a.server, "commit %d, acknowledged by %s in term %d: %d of the recorded voters %v lack it, and %d votes elect", a.n, names[a.server], a.term, lack, d.Voters, d.VotesNeeded())
	}
}

// checkSetting is S4 before any commit shows it: whatever the primary may
// acknowledge by its walsenders' present views of the setting, or by the setting
// that new ones will have, K of the recorded voters hold.
func (w *World) checkSetting() {
	r := &w.consul.record
	d, l := &r.Durability, w.index(r.Leader)
	if l < 0 || d.Mode != ha.ModeQuorum || d.K == 0 || w.beyond.noRecord {
		return
	}
	s := &w.members[l].server
	if s.run != up || s.inRecovery || s.hidden || s.stopping || s.term != r.Term {
		return
	}
	k, outside := s.config.K, 0
	if !s.defined {
		k = 0 // commits do not wait at all
	}
	for j := range w.n {
		x := &s.senders[j]
		counts := x.active && x.sync
		if counts {
			k = min(k, x.viewK)
		}
		if (counts || hasName(&s.config, names[j])) && !d.Has(names[j]) {
			outside++
		}
	}
	held := max(0, k-outside)
	if d.Has(names[l]) {
		held++
	}
	if held < d.K {
		w.fail("S4", l, "%s may acknowledge what only %d of the recorded voters %v hold, and %d are to: its setting is %d of %v",
			names[l], held, d.Voters, d.K, s.config.K, s.config.Names)
	}
}

// protect notes that everything up to n must never be lost from now on.
func (w *World) protect(m, n int) {
	s := &w.members[m].server
	if s.acked < 0 || w.check.acked[s.acked].term != s.term {
		s.acked = int32(len(w.check.acked))
		w.check.acked = append(w.check.acked, ackedUpTo{server: m, term: s.term})
	}
	a := &w.check.acked[s.acked]
	if n > a.n {
		a.n, a.id = n, s.log[n-1]
	}
}

// givenUp says whether what m acknowledges now was given up by a person, and m does not know it:
// one that was deposed with an accepted loss, or whose data somebody has replaced while its host
// stood still.
func (w *World) givenUp(m int) bool {
	term := w.members[m].server.term
	return term < w.beyond.acceptedTerm && w.known(w.beyond.acceptedTerm) ||
		term < w.beyond.replacedTerm && w.known(w.beyond.replacedTerm)
}

// byOldWord says whether m serves with nobody to hold its commits, as the record of a Consul
// that a person has put back to before a later term tells it to, or told it before that term's
// was written again. It cannot know of that term: who puts Consul back is told that what it takes
// then is lost (help guarantees).
func (w *World) byOldWord(m int) bool {
	r, s := &w.consul.record, &w.members[m].server
	if !w.beyond.putBack || (r.Durability.K != 0 || r.Term != s.term) && (r.Term <= s.term || s.defined) {
		return false
	}
	return w.ledSince(s.term) || w.remembered(s.term+1)
}

// byStoppedClock says whether m, a primary of async mode whose term has ended, serves on as a
// clock has stopped, or was wrong by more than S6 allows for: whatever the mode is since, async
// mode promises nothing then (checkWriters).
func (w *World) byStoppedClock(m int) bool {
	if w.members[m].server.term > w.beyond.asyncTerm || !w.beyond.clockStops && !w.beyond.wildClocks {
		return false
	}
	w.beyond.outcome.Clock++
	return true
}

// checkHeld checks S4 for all that was ever acknowledged.
func (w *World) checkHeld() {
	for i := range w.check.acked {
		w.holds(&w.check.acked[i])
	}
}

// visible is the moment at which clients see what a restarted primary
// recovered: as if it had been acknowledged (S9).
func (w *World) visible(m int) {
	s := &w.members[m].server
	if w.mode() != ha.ModeQuorum || s.recoveryEnd == 0 || w.beyond.accepting || w.givenUp(m) || w.byOldWord(m) || w.byStoppedClock(m) {
		return
	}
	w.protect(m, s.recoveryEnd)
	a := &w.check.acked[s.acked]
	d := &w.consul.record.Durability
	w.holds(a)
	if w.check.rule == "S4" {
		w.check.rule = "S9"
		w.check.violation = fmt.Sprintf("S9: %s shows clients what only fewer than %d of %v hold", names[m], d.K, d.Voters)
	}
}

// checkPromotion: everything acknowledged in an earlier term is in the log of
// the one that is promoted now. In async mode what was not replicated may go.
func (w *World) checkPromotion(m int, act *ha.Action) {
	s := &w.members[m].server
	b := &w.members[m]
	if s.half || s.data != ha.DataPresent {
		w.fail("S10", m, "%s is promoted with a half-made data directory", b.name)
	}
	if !b.guard.armed {
		w.fail("S5", m, "%s is promoted without a lease", b.name)
	}
	if w.beyond.accepting {
		w.beyond.acceptedTerm = max(w.beyond.acceptedTerm, act.Term)
	}
	w.forgetLost(m, act.Term)
	w.checkBrought(m, act.Term)
}

// writer says whether m's server would acknowledge a commit alone, now.
func (w *World) writer(m int) bool {
	return w.accepts(m) && !w.members[m].server.defined && !w.ownRisk(m)
}

// checkWriters: in async mode no two servers can acknowledge at one time.
func (w *World) checkWriters(m int) {
	if w.mode() != ha.ModeAsync || !w.writer(m) {
		return
	}
	for j := range w.n {
		if j != m && w.writer(j) {
			if w.beyond.clockStops || w.beyond.wildClocks {
				// S5 and S6 are of clocks that run, and run alike within one part in twenty: async
				// mode promises nothing without. Quorum mode does, and all else is checked on.
				w.beyond.outcome.Clock++
				return
			}
			if w.byOldWord(m) && w.alone(m) || w.byOldWord(j) && w.alone(j) {
				w.beyond.outcome.Local++
				return
			}
			w.fail("two writers", m, "%s and %s can both acknowledge commits", names[m], names[j])
		}
	}
}

// checkRecord looks at every change of the record; broken says whether the old one could not
// be read any more.
func (w *World) checkRecord(m int, old *ha.Record, broken bool) {
	r, c := &w.consul.record, &w.check
	if r.Durability.Mode == ha.ModeAsync && old.Durability.Mode == ha.ModeQuorum {
		w.forgetAcked()
	}
	if r.Term > old.Term && old.Durability.Mode == ha.ModeAsync {
		w.beyond.asyncTerm = old.Term
	}
	leader := w.index(r.Leader)
	if r.Phase == ha.PhaseElecting && r.Term != old.Term && leader >= 0 && leader < w.n && w.forcedTo(leader) && w.members[leader].server.systemID != c.system {
		w.forgetLost(leader, r.Term) // it was founded beside the cluster c.system, whose members are not its own: their commits are given up here
	}
	if r.SystemID != "" && r.SystemID != c.system { // another cluster's terms are no business of this one's
		if c.system != "" {
			w.checkFounded(m)
		}
		c.leaders, c.system, w.beyond.asyncTerm = c.leaders[:0], r.SystemID, 0
	}
	for int(r.Term) >= len(c.leaders) {
		c.leaders = append(c.leaders, -1)
	}
	for t := r.Term; !old.Exists() && int(t) < len(c.leaders); t++ {
		if !w.remembered(t) {
			c.leaders[t] = -1 // Consul, and each disk that had promised it, are lost
		}
	}
	w.noteBlind(old)
	if r.StandbyOf != "" && old.StandbyOf == "" && old.Exists() {
		w.given = append(w.given[:0], w.check.acked...)
		w.forgetAcked() // what the other site has is what counts from now on (Pair)
		if r.Released == nil {
			w.beyond.acceptedTerm = r.Term // a person let the other site take the writes without it
		}
	}
	w.checkFollows(m, old, broken)
	if r.Phase == ha.PhasePromoting || r.Phase == ha.PhaseLeading {
		w.checkLeader(m, leader, old)
	}
	w.checkRestores(r, old)
	w.checkAccused(leader, old)
	if r.Term != old.Term {
		w.res.Ballots++
		w.poke(pointBallot, m)
		w.checkSticky(m, old)
	}
	w.checkHeld()
	w.checkSetting()
	if r.Durability.Mode != old.Durability.Mode {
		for i := range w.n {
			w.checkWriters(i)
		}
	}
}

// checkFollows: a record follows from the one before it.
func (w *World) checkFollows(m int, old *ha.Record, broken bool) {
	r := &w.consul.record
	switch {
	// A restore begins without a vote, in a term far beyond those that others may be asking for.
	case old.Exists() && (r.Term < old.Term || r.Term > old.Term+1 && !w.beyond.accepting && r.Phase != ha.PhaseRestoring) && !w.beyond.putBack:
		w.fail("S1", m, "the term goes from %d to %d", old.Term, r.Term)
	// Who writes a damaged record anew, far above all terms that anybody remembers, cannot know the one
	// that it had; nor who else had begun an election of its term, which is lost with it (checkLeader
	// sees two that were won).
	case old.Exists() && r.Term == old.Term && r.Leader != old.Leader && !(broken && (old.Phase == ha.PhaseElecting || !w.remembered(r.Term))):
		w.fail("S1", m, "term %d had leader %s and now has %s", r.Term, old.Leader, r.Leader)
	case r.Durability.K > len(r.Durability.Voters) || r.Durability.K < 0 || !slices.IsSorted(r.Durability.Voters) || !slices.IsSorted(r.Members):
		w.fail("record", m, "the record is not valid: k=%d voters=%v members=%v", r.Durability.K, r.Durability.Voters, r.Members)
	// A record that was damaged is to nobody what it was: as with one that was deleted, its
	// leader writes what it has read itself, which may be from before its own last claim (own
	// notes the timelines that were used).
	case old.Exists() && !broken && r.Timeline < old.Timeline && r.SystemID == old.SystemID:
		w.fail("timeline", m, "the claimed timeline goes from %d back to %d", old.Timeline, r.Timeline)
	}
}

// checkLeader: a term has one leader, which may be primary from now on.
func (w *World) checkLeader(m, leader int, old *ha.Record) {
	r, c := &w.consul.record, &w.check
	if l := c.leaders[r.Term]; l >= 0 && int(l) != leader {
		w.fail("S1", m, "term %d has two leaders: %s and %s", r.Term, names[l], r.Leader)
	}
	c.leaders[r.Term] = int8(leader)
	if w.beyond.accepting && r.Phase == ha.PhaseLeading && r.Phase != old.Phase {
		w.forgetLost(leader, r.Term) // it founds a cluster, or a person has promoted it
	}
	w.checkForced(leader, old)
	if s := &w.members[leader].server; s.run == up && !s.inRecovery {
		s.term = max(s.term, r.Term)
	}
}

// checkAccused: no copy is named as diverged that has nothing which the primary has not.
func (w *World) checkAccused(leader int, old *ha.Record) {
	if leader < 0 {
		return
	}
	own := &w.members[leader].server
	for _, d := range w.consul.record.Diverged {
		m := w.index(d.Member)
		if m < 0 || m == leader || slices.Contains(old.Diverged, d) {
			continue
		}
		if s := &w.members[m].server; s.data == ha.DataPresent && !s.half && s.odd.copy == d.Copy && own.run == up && len(s.log) <= len(own.log) && common(s, own) == len(s.log) {
			w.fail("accused", m, "the record says that %s has diverged, and it has nothing that %s has not", names[m], names[leader])
		}
	}
}

// checkForced: from the claim on of a member that a person has decided to make lead it may be
// primary, and the record follows those that have what it has.
func (w *World) checkForced(leader int, old *ha.Record) {
	r := &w.consul.record
	if r.Phase == ha.PhasePromoting && old.Phase != ha.PhasePromoting && w.forcedTo(leader) {
		w.beyond.acceptedTerm = r.Term
		w.forgetLost(leader, r.Term)
	}
}

// checkFounded: no cluster is founded, but by a person's decision, beside the data of another
// that has acknowledged commits.
func (w *World) checkFounded(m int) {
	for i := range w.check.acked {
		for j := range w.n {
			if s := &w.members[j].server; j != m && !w.beyond.accepting && !w.members[j].gone && s.data == ha.DataPresent && s.has(&w.check.acked[i]) {
				w.fail("founded", m, "%s founds a cluster beside the data of %s, which has commit %d, acknowledged in term %d", names[m], names[j], w.check.acked[i].n, w.check.acked[i].term)
				return
			}
		}
	}
}
