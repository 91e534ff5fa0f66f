package ha

import (
	"cmp"
	"strings"
)

// Restoring is a restore of the cluster's data in place: a person has asked for the data
// of a backup, with the log up to a target, instead of those that the cluster has. It is
// in the record from the moment at which it begins, so that it goes on, or is given up,
// also if somebody is killed meanwhile. Only the shell reads the parts of a target.
type Restoring struct {
	ID        string `json:"id"`               // drawn for each; empty: none
	Backup    string `json:"backup,omitempty"` // the label of the backup
	Kind      string `json:"kind,omitempty"`   // of target
	Value     string `json:"value,omitempty"`
	Exclusive bool   `json:"exclusive,omitempty"`
	Words     string `json:"words,omitempty"` // to where, for people
	From      TLI    `json:"from,omitempty"`  // the timeline on which the target lies
	// Timeline is the one that the restored data begin: above each that a term has
	// claimed, and each that the archive has. In an Intent it is the archive's newest.
	Timeline TLI `json:"timeline,omitempty"`
}

// restoringRules are what the leader of a term does that began with a restore: the
// servers are stopped, its own last; its data are replaced, and those before are kept
// aside; PostgreSQL recovers them to the target, on a timeline of their own; and the
// cluster continues with them as soon as they take writes. Until then all of it can be
// given up.
var restoringRules = [...]rule{
	{"restore-lease", nil, (*turn).extendLease, goesOn},
	{"restore-exit", (*view).shutdown, (*turn).stopAndExit, ends},
	{"restore-give-up", func(v *view) bool { return (v.o.Intent.GiveUp || v.begunToGiveUp()) && !v.settled() }, (*turn).giveUpRestore, ends},
	// Commits may have been acknowledged on the restored data since: they are not made again.
	{"restore-gone-on", func(v *view) bool { return v.goneOnWithout() && !v.forced() }, blocked((*view).goneOnBlock), ends},
	{"restore-discard", (*view).halfMade, discard("an unfinished restore was found"), ends},
	{"restore-stop", func(v *view) bool { return v.running() && !v.restored() }, func(t *turn) {
		t.do(Action{Kind: Stop, Why: "the cluster is restored: " + t.rec.Restore.Words})
	}, ends},
	{"restore-under-way", func(v *view) bool { return v.o.Busy.Server == Restore }, blocked(func(v *view) Block {
		return v.restoreBlock("the end of the restore of backup " + v.rec.Restore.Backup)
	}), ends},
	{"restore-after-others", func(v *view) bool { return !v.restored() && v.serversLeft() != "" }, blocked(func(v *view) Block {
		return v.restoreBlock("the servers of " + v.serversLeft() + " to stop")
	}), ends},
	// It may have been given up since, and Consul have lost that.
	{"restore-unheard", func(v *view) bool { return !v.settled() && v.foundElected() && v.hearsFew() && !v.forced() }, blocked(func(v *view) Block {
		b := v.restoreBlock("word from at least half of the other members that no later record is known: Consul may have been put back, and the restore have been given up before that")
		b.Override, b.Cost = failoverTo(v.o.Self), "every commit since, if the restore was given up"
		return b
	}), ends},
	{"restore-anew", func(v *view) bool { return v.absent() && v.s.RestoreTerm != v.rec.Term }, (*turn).restoreAnew, ends},
	{"restore-data", func(v *view) bool { return !v.restored() && v.rested(Restore) }, func(t *turn) {
		t.do(Action{Kind: Restore, Term: t.rec.Term, Timeline: t.rec.Restore.Timeline, Change: Change{Record: t.rec}, Why: t.rec.Restore.Words})
	}, ends},
	{"restore-failed", func(v *view) bool { return !v.restored() }, blocked(func(v *view) Block {
		return v.restoreBlock("a restore that succeeds: " + v.o.Server.Problem)
	}), ends},
	{"restore-start-failed", func(v *view) bool { return v.stopped() && v.gaveUp(Start) }, blocked(func(v *view) Block {
		return v.restoreBlock("a start that succeeds on the restored data: " + v.o.Server.Problem)
	}), goesOn},
	{"restore-start", (*view).stopped, func(t *turn) {
		t.s.RestoreTerm = 0
		t.startPrimary()
	}, ends},
	{"restore-recovers", func(v *view) bool { return v.o.Server.InRecovery != No }, blocked(func(v *view) Block {
		return v.restoreBlock("the end of the recovery " + v.rec.Restore.Words)
	}), ends},
	// Another log may have the number.
	{"restore-elsewhere", func(v *view) bool {
		return v.o.Server.Position.Known() && v.o.Server.Position.TLI != v.rec.Restore.Timeline
	}, blocked(func(v *view) Block {
		return v.restoreBlock("a recovery that begins timeline " + itoa(uint64(v.rec.Restore.Timeline)) + "; it has begun " + itoa(uint64(v.o.Server.Position.TLI)))
	}), ends},
	// Where others have seen that it leads with them, Consul has lost that, and it says so again.
	{"restore-leads", func(v *view) bool {
		return v.o.Server.Position.Known() && (v.o.Server.Writable == Yes || v.goneOn()) && v.inTime
	},
		(*turn).leadRestored, ends},
	{"restore-not-writable", func(v *view) bool { return v.o.Server.Writable == No }, blocked(func(v *view) Block {
		return v.restoreBlock("a write that succeeds: " + v.o.Server.WriteProblem)
	}), ends},
}

// restored reports whether this member's data are those of the restore that is under way.
func (v *view) restored() bool { return v.o.Server.Restored == v.rec.Restore.ID }

// settled reports whether the cluster has gone on with them already: Consul was put back.
func (v *view) settled() bool { return v.restored() && !v.o.Server.Undoable }

// goneOn reports whether members know that the cluster has gone on with the restored data, which
// Consul has forgotten.
func (v *view) goneOn() bool { return v.seen.Term == v.rec.Term && v.seen.Phase == PhaseLeading }

// goneOnWithout reports whether it has, and this member has lost them.
func (v *view) goneOnWithout() bool { return v.goneOn() && !v.restored() }

func (v *view) goneOnBlock() Block {
	to := cmp.Or(v.bestHeard(), v.o.Self)
	return Block{What: "no leader is elected", Missing: "the data with which the cluster has gone on after its restore " + v.rec.Restore.Words + ": " + v.o.Self + " has lost them, and Consul was put back",
		Override: failoverTo(to), Cost: "every commit that " + to + " does not have"}
}

func (v *view) restoreBlock(missing string) Block {
	return Block{What: "the cluster is restored " + v.rec.Restore.Words + ", and takes no writes", Missing: missing,
		Override: "pgsidecar restore --give-up", Cost: "nothing: the cluster keeps the data that it had"}
}

// serversLeft are the other members whose servers run, for as long as those may take to
// stop: what they have does not count, but their clients would go on reading it.
func (v *view) serversLeft() string {
	var left []string
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		if v.fresh(p) && p.Link == LinkUp && p.Report.Role != RoleStopped && !v.after(v.s.PhaseAt, 2*v.o.Policy.StopTimeout) {
			left = append(left, p.Member)
		}
	}
	return joined(left)
}

// restoreAsked reports whether this leader is to begin a restore.
func (v *view) restoreAsked() bool {
	asked := &v.o.Intent.Restore
	return asked.ID != "" && v.rec.Phase == PhaseLeading && v.rec.Restored != asked.ID && v.lockMine() && !v.stale() && !v.shutdown()
}

// beginRestore begins a term in which nobody serves until the data are restored.
func (t *turn) beginRestore() {
	t.restoreInNewTerm(t.o.Intent.Restore, "a restore was requested")
}

// restoreAnew begins another term with the same restore, as the data that were made for it in this
// one are gone: with them PostgreSQL may have begun its timeline, others may have seen that the
// cluster continues with it, and the archive may have log of it.
func (t *turn) restoreAnew() {
	t.block(t.restoreBlock("Consul's answer: the data that were restored are lost, and a new term restores them again"))
	t.restoreInNewTerm(t.rec.Restore, "the restored data were lost")
}

// unvotedTerms is how far the term and the timeline of a restore are above all that are known. A
// record that is made anew by who does not know of it is to be above it.
const unvotedTerms = unseenTerms / 2

// restoreInNewTerm begins a term without anybody's vote, so that nobody may know of it when Consul
// has lost it: its term and its timeline are to be no other's.
func (t *turn) restoreInNewTerm(what Restoring, why string) {
	r := t.next(t.o.Self, "restored "+what.Words)
	r.Term += unvotedTerms
	what.Timeline = t.ofSite(max(what.Timeline, r.Timeline, t.newestTimeline()) + unvotedTerms)
	r.Phase, r.Restore, r.Final = PhaseRestoring, what, nil
	t.s.RestoreTerm = r.Term
	t.commit(Change{What: "restore", Record: r, Lock: LockTake, Session: t.o.Consul.Session, Prior: t.o.Consul.Lock}, why)
}

// leadRestored records that the cluster continues with the restored data: its own timeline
// is claimed as it was begun, and only this member has what is committed from here on.
func (t *turn) leadRestored() {
	r, at := t.rec, &t.o.Server.Position
	from := at.origin()
	r.Phase, r.Restored, r.Restore = PhaseLeading, r.Restore.ID, Restoring{}
	r.Claims = r.claims(Claim{TLI: at.TLI, Term: r.Term, Parent: from.TLI, Low: from.LSN, High: from.LSN})
	if r.seen().lacksBase(*at) != "" {
		r.Base = at.TLI // the backup is from before
	}
	r.Timeline, r.Since, r.Diverged = at.TLI, at.TLI, nil
	r.Durability = Durability{Mode: t.o.Policy.Mode, Voters: []string{}}
	t.commit(Change{What: "lead", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "the restored server takes writes")
}

// replaced reports whether log is from before the newest restore. Who has it leads by itself
// in no mode: not what was written since would be lost, but what a person has restored.
func (r *Record) replaced(p Position) bool {
	return r.Since != 0 && p.Known() && !p.Passed(r.Since)
}

func (v *view) replacedBlock() Block {
	return Block{What: "no election is begun", Missing: "a member with the restored data: " + v.o.Self + " has those from before",
		Override: failoverTo(v.o.Self), Cost: "what was restored, and every commit since"}
}

// endRestore takes a restore off the record with which the cluster does not go on. Its
// timeline stays taken, and nobody's: the archive may have it.
func (r *Record) endRestore() {
	tli := r.Restore.Timeline
	if r.Restore.ID != "" && tli > r.Timeline {
		r.Claims = r.claims(Claim{TLI: tli, Term: r.Term, Parent: tli, Low: 1, High: 1})
		r.Timeline = tli
	}
	r.Restore = Restoring{}
}

// giveUpRestore has the members elect one of them by the data that they had.
func (t *turn) giveUpRestore() {
	r := t.next(t.o.Self, "a restore was given up")
	r.Final = nil
	asked := len(t.actions)
	t.commit(Change{What: "ballot", Record: r, Lock: LockTake, Session: t.o.Consul.Session, Prior: t.o.Consul.Lock}, r.Reason)
	if len(t.actions) > asked {
		t.s.GivenUp = t.rec.Restore.ID
	}
}

// begunToGiveUp reports whether a transaction was sent by which the restore is over, also if Consul
// has lost what it made of that.
func (v *view) begunToGiveUp() bool {
	return v.rec.Restore.ID != "" && v.s.GivenUp == v.rec.Restore.ID
}

// undoRules put the data back that a restore has replaced which was given up.
var undoRules = [...]rule{
	{"undo-stop", (*view).running, stopNow("the restore was given up"), ends},
	{"undo-data", nil, discard("the restore was given up: the data before it are put back"), ends},
}

// toUndo reports whether the data are of a restore with which the cluster did not go on. Those that
// PostgreSQL has not recovered yet have led nothing, and would promote themselves: where a person
// decides that this member is to lead, it is not with them. Nor is it with those that it gave up
// itself, although Consul has lost that.
func (v *view) toUndo() bool {
	id := v.o.Server.Restored
	if v.o.Server.Undoable && id != v.rec.Restored && v.stopped() && v.forced() && !v.mayLead() {
		return true
	}
	return v.o.Server.Undoable && id != v.rec.Restore.ID && id != v.rec.Restored && !v.putBack && v.rec.Term > v.o.Server.Promise && v.rec.Term == v.seen.Term
}

// unsureOfRestore reports whether the data are of a restore of which this member does not know
// whether the cluster has gone on with it, as it has not read the newest record.
func (v *view) unsureOfRestore() bool {
	return v.o.Server.Undoable && v.o.Server.Restored != v.rec.Restored && !v.mayLead() && !v.forced()
}

// unsureRules keep such data from being started: as a vote they would lack what the data
// before them have, and PostgreSQL, which was told to recover them, would promote itself.
var unsureRules = [...]rule{
	{"unsure-exit", (*view).shutdown, (*turn).stopAndExit, ends},
	{"unsure-stop", (*view).running, stopNow("it is not known whether the cluster has gone on with the restored data"), ends},
	{"unsure-discard", (*view).halfMade, discard("an unfinished copy or rewind was found"), ends},
	{"unsure-reinit", func(v *view) bool { return v.o.Intent.Reinit && v.spareable() }, clone("a new clone was requested"), ends},
	{"unsure", nil, blocked((*view).unsureBlock), ends},
}

func (v *view) unsureBlock() Block {
	b := Block{What: "this member's server is not started", Missing: "Consul's record of term " + itoa(max(v.seen.Term, v.o.Server.Promise)) +
		": it says whether the cluster has gone on with the data that this member has restored"}
	// A record that was made anew since never will.
	if v.spareable() {
		b.Override, b.Cost = "pgsidecar reinit "+v.o.Self, "every commit that "+v.o.Self+" alone has"
	}
	return b
}

// spareable reports whether the cluster has a primary, and does not count on what this member has.
func (v *view) spareable() bool {
	return v.leaderPeer() != nil && !v.putBack && v.rec.Term == v.seen.Term && !v.rec.Durability.Has(v.o.Self)
}

// restoresInVain reports whether a restore is being made that was given up. It may take
// hours, in which this member could neither vote nor lead.
func (v *view) restoresInVain() bool {
	return v.o.Busy.Server == Restore && v.rec.Phase != PhaseRestoring && !v.putBack && v.rec.Exists() && v.rec.Term == v.seen.Term
}

// besideRestore reports whether another member restores. Where one has seen that it is
// done, Consul was put back. A person who has this member lead does without the restore.
func (v *view) besideRestore() bool {
	return !v.forced() && v.rec.Phase == PhaseRestoring && v.seen.Phase == PhaseRestoring && v.seen.Term == v.rec.Term
}

// besideRules are what the other members do while the leader restores: they stop, as soon
// as they have all that the primary wrote, and wait.
var besideRules = [...]rule{
	{"beside-give-up", func(v *view) bool {
		return v.o.Intent.GiveUp && !v.fresh(v.peer(v.rec.Leader)) && v.o.Consul.Session != ""
	}, (*turn).giveUpRestore, ends},
	{"beside-primary", func(v *view) bool {
		p := v.peer(v.rec.Leader)
		return v.running() && v.fresh(p) && p.Report.Serving && p.Report.Position.TLI != v.rec.Restore.Timeline
	}, nil, ends},
	{"beside-stop", (*view).running, func(t *turn) {
		t.do(Action{Kind: Stop, Why: "the cluster is restored by " + t.rec.Leader + ": " + t.rec.Restore.Words})
	}, ends},
	{"beside", nil, blocked(func(v *view) Block { return v.restoreBlock(v.rec.Leader + ", which restores") }), ends},
}

// String says it for people.
func (r Restoring) String() string { return strings.TrimSpace(r.Words + " from backup " + r.Backup) }
