package ha

import "slices"

// A rule is one row of a table: when the condition holds, the action is carried
// out. The tables are the order in which everything is decided; there is no
// other. A rule's name is on the actions and the blocks that it gives, in logs
// (rule=), in the metric pgsidecar_rule_total and in `pgsidecar status --why`.
type rule struct {
	name string
	// when only looks. That time alone may change its answer it says to the view
	// (view.after, view.wake), which collects the instants. nil: always.
	when func(*view) bool
	// do only acts. It may be another table (see). nil: nothing is to be done.
	do   func(*turn)
	flow flow
}

// flow says what becomes of the rows below one that held.
type flow uint8

const (
	ends   flow = iota // they are not looked at
	goesOn             // they are
)

// turn is one run of Decide: what it looks at, and what it has decided so far.
type turn struct {
	view
	rule    string // the row that acts now
	why     string // what a table shared by several rows is tried for
	without string // the row that is left out, in a test
	actions []Action
}

// try carries out the rows of a table in their order.
func (t *turn) try(table []rule) {
	outer := t.rule
	for i := range table {
		r := &table[i]
		if r.name == t.without || r.when != nil && !r.when(&t.view) {
			continue
		}
		t.rule = r.name
		t.s.Rules = append(t.s.Rules, r.name)
		if r.do != nil {
			r.do(t)
		}
		if r.flow == ends {
			break
		}
	}
	t.rule = outer
}

// Rules decides by the tables, or by the tables without one of their rows: a
// simulation, or a script, must notice that it is missing. One decision after the
// other uses the same memory, which saves a simulation a quarter of its time.
type Rules struct {
	Without string
	turn    turn
}

// Decide is the function Decide, without the row.
func (r *Rules) Decide(s State, o Observation) (State, []Action) {
	return r.turn.decide(s, o, r.Without)
}

// RuleNames are the names of all rows, table by table.
func RuleNames() []string {
	var names []string
	for _, table := range allTables() {
		for i := range table {
			names = append(names, table[i].name)
		}
	}
	return names
}

// allTables are the tables in the order in which a reader meets them.
func allTables() [][]rule {
	return [][]rule{
		situationRules[:], exitRules[:],
		bootstrapRules[:], founderRules[:], abandonRules[:], takeOverRules[:],
		restoringRules[:], undoRules[:], unsureRules[:], besideRules[:],
		memberRules[:], standbyRules[:], followRules[:], joinRules[:], rejoinRules[:], strayedRules[:],
		startStandbyRules[:], startRewoundRules[:], starvedRules[:], cloneRules[:], spareRules[:],
		standRules[:], candidateRules[:], unfitRules[:], electionRules[:], yieldRules[:],
		leaderRules[:], supersededRules[:], unwitnessedRules[:], standbyFounderRules[:], standbyLeaderRules[:], sourceRules[:], promotionRules[:], reignRules[:], straysInReignRules[:], unseenRules[:], downRules[:], startPrimaryRules[:],
		serveRules[:], handoverRules[:], durabilityRules[:], registrationRules[:],
	}
}

// stopNow ends the server without waiting for its clients.
func stopNow(why string) func(*turn) {
	return func(t *turn) { t.do(Action{Kind: Stop, Immediate: true, Why: why}) }
}

// exit ends the sidecar; only a person can put right what is wrong.
func exit(why func(*view) string) func(*turn) {
	return func(t *turn) { t.do(Action{Kind: Exit, Code: 1, Why: why(&t.view)}) }
}

// discard removes a half-made data directory.
func discard(why string) func(*turn) {
	return func(t *turn) { t.do(Action{Kind: Discard, Why: why}) }
}

// disarm tells the guard that the server needs no lease.
func disarm(why string) func(*turn) {
	return func(t *turn) { t.do(Action{Kind: Disarm, Why: why}) }
}

// blocked says why nothing is done.
func blocked(b func(*view) Block) func(*turn) {
	return func(t *turn) { t.block(b(&t.view)) }
}

// nothingDecided blocks, and leaves the registration as it is: what is not known is not "none".
func nothingDecided(missing func(*view) string) func(*turn) {
	return func(t *turn) {
		t.keepTag = true
		t.block(Block{What: "nothing is decided", Missing: missing(&t.view)})
	}
}

// do asks for an action. Of the exclusive operations on the server only the
// first asked for counts, and none but a stop while another is under way.
func (t *turn) do(a Action) {
	a.Rule = t.rule
	if a.Kind.OnServer() && !t.mayBegin(a.Kind) {
		return
	}
	if a.Kind == Commit && t.o.Busy.Commit {
		return
	}
	switch {
	case a.Kind != Fence && a.Kind != Follow && a.Kind != Start && a.Kind != Restore:
	case a.Term == t.rec.Term:
		a.Leader = t.rec.Leader
	case a.Term == t.seen.Term:
		a.Leader = t.seen.Leader
	}
	t.actions = append(t.actions, a)
}

// mayBegin reports whether an operation on the server may begin now.
func (t *turn) mayBegin(kind ActionKind) bool {
	b := &t.o.Busy
	if kind != Stop && b.FailedAt != 0 && b.FailedKind == kind && !t.after(b.FailedAt, min(retryPause, againPause<<min(b.Failures, 7))) {
		return false
	}
	if b.Server != NoAction && (kind != Stop || b.Server == Stop) {
		return false
	}
	for i := range t.actions {
		if t.actions[i].Kind.OnServer() {
			return false
		}
	}
	return true
}

// commit asks for a transaction, unless one is under way. It is not asked for
// before this member has a session, nor sooner than a short while after one
// failed with its outcome unknown and nothing new read since.
func (t *turn) commit(c Change, why string) {
	if c.Session == "" || t.o.Busy.Commit || c.Lock == LockKeep && !t.lockMine() {
		return
	}
	if at := t.o.Busy.CommitFailedAt; at != 0 && !t.after(at, commitPause) {
		return
	}
	// What else is written in a term that may be over would restate it, and who got its lock would
	// follow it, and not the later one.
	if t.putBack && (c.Record.Term == t.rec.Term || c.What == "pass") && !t.confirmedSince() {
		return
	}
	c.Record.Version = c.Record.version()
	if c.Record.Changes++; c.Record.Term == t.seen.Term {
		c.Record.Changes = max(c.Record.Changes, t.s.Last.Changes+1)
	}
	if c.Holder == "" {
		c.Holder = t.o.Self
	}
	t.do(Action{Kind: Commit, Why: why, Term: c.Record.Term, Change: c})
}

// block says why nothing is done: once, although two rules may give the same reason.
func (t *turn) block(b Block) {
	if slices.ContainsFunc(t.s.Blocks, func(said Block) bool { return said.What == b.What && said.Missing == b.Missing }) {
		return
	}
	b.Rule = t.rule
	t.s.Blocks = append(t.s.Blocks, b)
}
