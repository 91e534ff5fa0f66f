package sim

import (
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Mutation breaks one safety rule: the simulation must notice, or it proves
// nothing about that rule. It breaks either what the core sees, or what is done
// for it, never the checks.
type Mutation uint8

// The mutations, named after the rule of DESIGN.md that they break.
const (
	NoMutation        Mutation = iota
	MutateS1                   // the ballot is not a compare-and-swap: two members win one term
	MutateS2                   // a fence leaves the walreceiver as it is
	MutateS2Disk               // a fence does not outlive a restart of the server
	MutateS3                   // one vote fewer is taken for enough
	MutateS3Ahead              // votes that are ahead look as if they were not
	MutateS4                   // a reload is taken for an effect, nobody has to catch up
	MutateS4CatchUp            // the record is narrowed before anybody has caught up
	MutateS4Widen              // the setting asks for new voters before the record has them
	MutateS4Narrow             // the record drops voters that the setting still asks for
	MutateS4Promotion          // the record names the new primary's voters as soon as it is elected
	MutateS4Votes              // votes that lack commits look as if they had them
	MutateS5                   // the guard does not stop anything
	MutateS5Sent               // a lease counts from when it was confirmed, not from when that was requested
	MutateS6                   // a silent member is taken for a dead one
	MutateS7                   // histories are not compared, every log seems to contain every other
	MutateS8                   // nobody refuses a pre-vote
	MutateS9                   // a restarted primary shows everything at once
	MutateS10                  // no marker stands while a data directory is half-made
	MutateKeep                 // a program drops the fields of the record that it does not know
	MutateBase                 // who follows a log that was none of the cluster's compares it by its numbers
	MutateStrayed              // a server that was run by hand as a primary counts like any other
	MutateClaims               // and it is not looked at which timelines were claimed
	MutateOwed                 // a copy of a replica votes before it has what its member acknowledged
	MutatePutBack              // whatever Consul says is the newest record
	MutateFound                // a cluster is founded beside the data of another
	MutateDecided              // an election is under way if Consul's record says so
	MutateAmid                 // who was started amid an election knows that it was not decided
	MutateBeyond               // the record of an election that is written again has the term that it had
	MutateMarks                // nothing tells timelines of one number apart
	MutateUndone               // the data of a restore that was given up count like any other
	MutateReused               // what a leader may have claimed that has lost its data is claimed again
	MutatePartial              // the beginning of a record proves that a log has diverged
	MutateUnheard              // data found a cluster beside members that are not heard
	MutateInstructed           // who is made to lead keeps restored data that promote themselves
	MutateGivenUp              // that a restore was given up is forgotten if Consul loses it
	MutateAlone                // an election is under way if Consul says so, where all others are gone
	MutateBegun                // who has read of an election amid it takes itself for one that has seen it begin
	MutatePatient              // a forced candidate waits for positions for longer than others wait for it
	MutateContends             // who has seen an election takes part in another of its term
	MutateAnew                 // an election that a person has begun by an older record has the voters of that
	MutateAgain                // restored data that are lost are restored again in the same term
	mutations
)

var mutationNames = [...]string{"none", "S1", "S2", "S2-disk", "S3", "S3-ahead", "S4", "S4-catch-up", "S4-widen", "S4-narrow", "S4-promotion", "S4-votes",
	"S5", "S5-sent", "S6", "S7", "S8", "S9", "S10", "keep", "base", "strayed", "claims", "owed", "put-back", "found", "decided", "amid", "beyond", "marks", "undone", "reused", "partial", "unheard",
	"instructed", "given-up", "alone", "begun", "patient", "contends", "anew", "again"}

// String returns the name of the rule that is broken.
func (m Mutation) String() string { return mutationNames[m] }

var mutationWords = [...]string{"", "the ballot is not a compare-and-swap", "a fence leaves the walreceiver as it is", "a fence does not outlive a restart of the server",
	"one vote fewer is taken for enough", "votes that are ahead look as if they were not", "a reload is taken for an effect",
	"the record is narrowed before anybody has caught up", "the setting asks for new voters before the record has them",
	"the record drops voters that the setting still asks for", "the record names the new voters as soon as a primary is elected", "votes that lack commits look as if they had them",
	"the guard does not stop anything", "a lease counts from its confirmation, not from the request", "a silent member is taken for a dead one",
	"histories are not compared", "nobody refuses a pre-vote", "a restarted primary shows everything at once", "no marker stands while files are half-made",
	"a program drops the fields of the record that it does not know", "logs from before a person chose another are compared by their numbers",
	"a server that was run by hand as a primary counts like any other", "nor is it looked at which timelines were claimed",
	"a copy votes before it has what its member acknowledged", "whatever Consul says is the newest record", "a cluster is founded beside the data of another",
	"an election is under way if Consul's record says so", "who was started amid an election knows that it was not decided",
	"the record of an election that is written again has the term that it had", "nothing tells timelines of one number apart",
	"the data of a restore that was given up count like any other", "what a leader may have claimed that has lost its data is claimed again",
	"the beginning of a record proves that a log has diverged", "data found a cluster beside members that are not heard",
	"who is made to lead keeps restored data that promote themselves", "that a restore was given up is forgotten if Consul loses it",
	"an election is under way if Consul says so, where all others are gone",
	"who has read of an election amid it takes itself for one that has seen it begin", "a forced candidate waits longer than others wait for it",
	"who has seen an election takes part in another of its term", "an election that a person has begun by an older record has the voters of that",
	"restored data that are lost are restored again in the same term"}

// What says in words what is broken.
func (m Mutation) What() string { return mutationWords[m] }

// Mutations are all mutations, in the order of their rules.
func Mutations() []Mutation {
	all := make([]Mutation, 0, mutations)
	for m := MutateS1; m < mutations; m++ {
		all = append(all, m)
	}
	return all
}

// mutate corrupts what the core is about to see.
func (w *World) mutate(o *ha.Observation) {
	w.opt.pair.mutate(w, o)
	switch w.opt.Mutation {
	case MutateS3, MutateS3Ahead, MutateS4Votes, MutateS7, MutateS8, MutateBase, MutateFound, MutateStrayed, MutateClaims:
		w.peersCopy(o)
		w.mutateReports(o)
	case MutatePutBack, MutateGivenUp, MutateBegun, MutateContends, MutateAgain:
		w.mutateMemory(o)
	case MutateDecided, MutateAmid, MutatePartial, MutateUnheard, MutateAlone:
		w.peersCopy(o)
		w.halfSeen(o)
	case MutateS4CatchUp:
		for i := range o.Server.Walsenders {
			o.Server.Walsenders[i].Flush = o.Server.Position.LSN
		}
		if o.Server.SyncAt == 0 {
			o.Server.SyncAt = 1
		}
	case MutateOwed:
		o.Server.Owed = ha.Position{}
	case MutateUndone:
		if o.Server.Restored != o.Consul.Record.Restore.ID {
			o.Server.Undoable = false
		}
	case MutateInstructed:
		if o.Intent.Force {
			o.Server.Instructed, o.Server.Undoable = "", false
		}
	case MutatePatient:
		if r := &o.Consul.Record; o.Intent.Force && r.Leader == o.Self && r.Phase == ha.PhaseElecting {
			o.Policy.HandoverTimeout = time.Hour
		}
	}
}

// mutateReports corrupts what others say, and with it what the record or the server says of the same.
func (w *World) mutateReports(o *ha.Observation) {
	r := &o.Consul.Record
	switch w.opt.Mutation {
	case MutateS3:
		if r.Leader == o.Self && r.Phase == ha.PhaseElecting && r.Durability.K > 0 && r.Durability.K <= len(r.Durability.Voters) {
			w.extraVote(o)
		}
		return
	case MutateBase:
		r.Base = 0
	case MutateClaims:
		r.Claims, o.Server.Strayed = nil, ""
	case MutateStrayed:
		o.Server.Strayed = ""
	}
	for i := range o.Peers {
		w.mutateReport(o, &o.Peers[i].Report)
	}
}

func (w *World) mutateReport(o *ha.Observation, p *ha.Report) {
	mine := o.Server.Position
	switch w.opt.Mutation {
	case MutateS3Ahead:
		if p.Voted && p.Position.Compare(mine) > 0 {
			p.Position = mine
		}
	case MutateS4Votes:
		if p.Voted && p.Position.Compare(mine) < 0 {
			p.Position = mine
		}
	case MutateS7:
		if p.Serving {
			p.Position = ha.Position{History: mine.History, TLI: mine.TLI, LSN: 1 << 40}
		}
	case MutateS8:
		p.Hears, p.Serving = false, false
	case MutateBase:
		p.Record.Base = 0
	case MutateFound:
		if !o.Consul.Record.Exists() {
			p.ServerID, p.Record = "", ha.RecordSeen{}
		}
	case MutateStrayed, MutateClaims:
		p.Strayed = ""
	}
}

// mutateMemory lets a member forget what it knows better than Consul.
func (w *World) mutateMemory(o *ha.Observation) {
	s := &w.members[w.index(o.Self)].sidecar.state
	switch w.opt.Mutation {
	case MutateGivenUp:
		s.GivenUp = ""
		return
	case MutateBegun:
		if r := &o.Consul.Record; r.Phase == ha.PhaseElecting && s.FirstTerm == r.Term {
			s.FirstTerm--
		}
		return
	case MutateContends:
		if r := &o.Consul.Record; r.Term == s.Last.Term && r.Leader != s.Last.Leader && s.Last.Phase == ha.PhaseLeading {
			s.Last, s.Heard = *r, ha.RecordSeen{}
		}
		o.Server.Seen = ha.RecordKept{}
		o.Server.PromisedTo = "" // nor do promises say whose the term is
		w.peersCopy(o)
		for i := range o.Peers {
			p := &o.Peers[i].Report
			p.PromisedTo = ""
			if r := &o.Consul.Record; p.Record.Term == r.Term && p.Record.Leader != r.Leader {
				p.Record = ha.RecordSeen{}
			}
		}
		return
	case MutateAgain:
		s.RestoreTerm = o.Consul.Record.Term
		return
	}
	s.Last, s.Heard, o.Server.Seen = ha.Record{}, ha.RecordSeen{}, ha.RecordKept{}
	w.peersCopy(o)
	for i := range o.Peers {
		o.Peers[i].Report.Record = ha.RecordSeen{}
		o.Peers[i].Report.Term = min(o.Peers[i].Report.Term, o.Consul.Record.Term)
	}
	o.Server.Promise = min(o.Server.Promise, o.Consul.Record.Term)
}

// underWay lets all others say that an election was not decided, or those that cannot know.
func (w *World) underWay(o *ha.Observation) {
	r := &o.Consul.Record
	if r.Phase != ha.PhaseElecting || r.Leader == o.Self {
		return
	}
	for i := range o.Peers {
		p := &o.Peers[i]
		p.Report.First = 0
		if w.opt.Mutation == MutateDecided && p.Link != ha.LinkUp {
			p.Link, p.PostgresRefused = ha.LinkRefused, ha.Yes
		}
	}
}

// halfSeen hides what others have replayed, or which others there are, while there is no record.
func (w *World) halfSeen(o *ha.Observation) {
	switch w.opt.Mutation {
	case MutateDecided, MutateAmid:
		w.underWay(o)
		return
	case MutateAlone:
		w.noneToAsk(o)
		return
	}
	if w.opt.Mutation == MutateUnheard && !o.Consul.Record.Exists() {
		o.Consul.Registered = ""
		o.Peers = slices.DeleteFunc(o.Peers, func(p ha.Peer) bool { return p.Link != ha.LinkUp })
	}
	for i := range o.Peers {
		if w.opt.Mutation == MutatePartial {
			o.Peers[i].Report.Replay = 0
		}
	}
}

// noneToAsk hides that there are others, where an election is under way by Consul's record and all of
// them are gone.
func (w *World) noneToAsk(o *ha.Observation) {
	r := &o.Consul.Record
	if r.Phase == ha.PhaseElecting && r.Leader != o.Self && !slices.ContainsFunc(o.Peers, func(p ha.Peer) bool { return p.Link != ha.LinkRefused || p.PostgresRefused != ha.Yes }) {
		r.Members = []string{o.Self}
	}
}

// mutate corrupts what a core of two sites sees. p may be nil.
func (p *Pair) mutate(w *World, o *ha.Observation) {
	r := &o.Consul.Record
	switch {
	case p == nil || r.StandbyOf != "":
	case p.broken == PairDeaf:
		o.Source.SeenAt = 0
	case p.broken == PairLate:
		w.members[w.index(o.Self)].sidecar.state.ReignedAt = o.Now
	case p.broken == PairRewound:
		if r.Leader == o.Self && r.Phase == ha.PhaseElecting {
			o.Server.Rewound = ""
		}
	case p.broken == PairStandbys:
		if o.Source.Witness.OthersAt = 0; r.Leader == o.Self && o.Server.InRecovery != ha.No && o.Source.Position.TLI <= r.Timeline {
			o.Source.SystemID = "" // nor whether a primary is heard there
		}
	}
}

// distort corrupts what the core has asked for.
func (w *World) distort(m int, a *ha.Action) {
	s := &w.members[m].sidecar
	r := &a.Change.Record
	if p := w.opt.pair; p != nil && a.Change.What == "site" && r.StandbyOf == "" {
		p.distort(w, r)
	}
	switch {
	case w.opt.Mutation == MutateS4Widen && a.Kind == ha.Commit && a.Change.What == "widen" && w.members[m].server.run == up:
		w.setSync(m, ha.SyncSetting{K: r.Durability.K, Names: without(r.Durability.Voters, names[m])})
	case w.opt.Mutation == MutateS4Narrow && a.Kind == ha.SetSync && s.consul.Record.Phase == ha.PhaseLeading && !s.committing:
		set := a.Sync
		*a = ha.Action{Kind: ha.Commit, Change: ha.Change{What: "narrow", Record: s.consul.Record, Lock: ha.LockKeep, Session: s.consul.Session}}
		r.Durability.K, r.Durability.Voters = min(r.Durability.K, set.K), set.Names
	case w.opt.Mutation == MutateBeyond && a.Kind == ha.Commit && a.Change.What == "restate" && r.Phase == ha.PhaseElecting:
		last := &s.state.Last
		r.Term, r.Timeline, r.Claims = last.Term, last.Timeline, last.Claims
	case w.opt.Mutation == MutateReused && a.Kind == ha.Commit && (a.Change.What == "pass" || a.Change.What == "ballot") && s.consul.Record.Restore.ID == "":
		if n := len(r.Claims); n > 0 && r.Claims[n-1].Parent == r.Timeline {
			r.Timeline, r.Claims = s.consul.Record.Timeline, s.consul.Record.Claims
		}
	case w.opt.Mutation == MutateAnew && a.Kind == ha.Commit && a.Change.What == "ballot" && s.intent.Force:
		r.Durability = s.state.Last.Durability
	case w.opt.Mutation == MutateAlone && a.Kind == ha.Commit && a.Change.What == "ballot":
		r.Members = s.consul.Record.Members
	case w.opt.Mutation == MutateS4Promotion && a.Kind == ha.Commit && a.Change.What == "claim" && r.Durability.Has(names[m]):
		r.Durability.Voters = without(r.Durability.Voters, names[m])
		r.Durability.K = min(r.Durability.K, len(r.Durability.Voters))
	}
}

// without is a copy of the list that lacks the name.
func without(list []string, name string) []string {
	rest := make([]string, 0, len(list))
	for _, n := range list {
		if n != name {
			rest = append(rest, n)
		}
	}
	return rest
}

// peersCopy keeps a mutation from changing what the shell remembers.
func (w *World) peersCopy(o *ha.Observation) {
	o.Peers = append([]ha.Peer(nil), o.Peers...)
}

// extraVote makes the first voter that has not voted look as if it had, with
// nothing that this member lacks.
func (w *World) extraVote(o *ha.Observation) {
	for i := range o.Peers {
		p := &o.Peers[i]
		if o.Consul.Record.Durability.Has(p.Member) && !(p.Report.Voted && p.Report.Term == o.Consul.Record.Term) {
			p.Report.Voted, p.Report.Term, p.Report.Position = true, o.Consul.Record.Term, ha.Position{}
			return
		}
	}
}

// leaks says whether a fence is broken on purpose, so that a server looks fenced
// that has an upstream.
func (w *World) leaks() bool {
	return w.opt.Mutation == MutateS2 || w.opt.Mutation == MutateS2Disk
}
