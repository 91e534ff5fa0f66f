package ha

import (
	"cmp"
	"slices"
)

// Claim is a timeline that a term has claimed, and where it leaves the one before: at Low
// on Parent or later, also on a later timeline, as its candidate may fetch more before it
// promotes; and exactly there once that is recorded (High is Low then).
type Claim struct {
	TLI    TLI    `json:"tli"`
	Term   uint64 `json:"term"`
	Parent TLI    `json:"parent,omitempty"` // zero: the first of a cluster, or of a record made anew
	Low    LSN    `json:"low,omitempty"`
	High   LSN    `json:"high,omitempty"` // zero: not known yet
	Mark   Mark   `json:"mark,omitempty"` // the timeline's, once it is known
}

// Diverged is a copy of the data with log that its primary never wrote.
type Diverged struct {
	Member string `json:"member"`
	Copy   string `json:"copy,omitempty"` // Files.Copy: a later copy of the member's is another
}

// Histories say which log is the cluster's.
type Histories struct {
	// Claims are the newest timelines that terms have claimed, oldest first, and where
	// they began: log on any other timeline is nobody's.
	// A list whose last is not of Timeline is one that an older program has not continued:
	// it says nothing.
	Claims []Claim `json:"claims,omitempty"`
	// Diverged names copies of the data that have log of the leader's timeline which the
	// leader never wrote: they are no votes, lead nothing, and are cloned anew.
	Diverged []Diverged `json:"diverged,omitempty"`
	// Base is the timeline with which the cluster's log began anew, as a person made a log
	// lead that was none of the cluster's. The numbers of its timelines before may be those
	// of others, so that nothing tells where another log parts from it, not even pg_rewind:
	// a copy that did not come by Base is cloned anew. Zero: it never did.
	Base TLI `json:"base,omitempty"`
}

// lacksBase says that a log is from before the cluster's began anew; empty: it is not.
func (s RecordSeen) lacksBase(p Position) string {
	if s.Base == 0 || !p.Known() || p.Passed(s.Base) {
		return ""
	}
	return "it is at " + p.String() + ", and the cluster's log began anew with timeline " + itoa(uint64(s.Base)) +
		", when a person made a member lead whose server had been run by hand: nothing tells where the two part"
}

// keptClaims is how many claims a record keeps: more terms than a member may be away
// for and still be rewound rather than cloned.
const keptClaims = 16

// claims returns the record's claims with one more, which begins the list where one is
// missing in it.
func (r *Record) claims(c Claim) []Claim {
	if !r.listsClaims() {
		return []Claim{c}
	}
	kept := r.Claims[max(0, len(r.Claims)+1-keptClaims):]
	return append(slices.Clone(kept), c)
}

// unclaimed is how many terms before the record's are not known to have claimed a timeline. Each
// may have, where Consul was put back to before its claim, so each has one left to it; at most
// unseenTerms, as standbys ask for the history of each number that is passed over.
func (r *Record) unclaimed() TLI {
	if !r.listsClaims() {
		return 0
	}
	last := r.Claims[len(r.Claims)-1].Term
	return TLI(min(max(r.Term, last+1)-last-1, unseenTerms))
}

// claimsUnknown reports whether the record's term was won, and on which timeline is not known
// (restoreClaim).
func (r *Record) claimsUnknown() bool { return r.Phase == PhasePromoting && len(r.Claims) == 0 }

// beyondClaims moves a record beyond the timelines that may have been claimed by what Consul has
// lost, and that no data shows any more: an archive may have their log.
func (t *turn) beyondClaims(r *Record) {
	r.Timeline = t.ofSite(max(r.Timeline, t.newestTimeline()) + unseenTerms)
	r.Claims = r.claims(Claim{TLI: r.Timeline, Term: r.Term, Parent: r.Timeline, Low: 1, High: 1})
}

// claimUnknown reports whether the leader of the term, which has claimed nothing yet by the
// record, and has promised it, is beyond all that was ever claimed, and says nothing of
// having come there by hand: Consul may have been put back to before the claim of this very
// term, and commits acknowledged since. (Who was there before is not elected: strayed.)
func (v *view) claimUnknown() bool {
	if v.rec.Phase != PhaseElecting || v.follower() { // whose timelines are another site's
		return false
	}
	if sv := &v.o.Server; v.rec.Leader == v.o.Self {
		return sv.Promise == v.rec.Term && sv.Strayed == "" && sv.Position.TLI > v.rec.Timeline
	}
	p := v.peer(v.rec.Leader)
	return p != nil && p.Report.Term == v.rec.Term && p.Report.Strayed == "" && p.Report.ServerID == v.rec.SystemID && p.Report.Position.TLI > v.rec.Timeline
}

func (v *view) claimUnknownBlock() Block {
	return Block{What: "no leader is elected", Missing: "the claim of term " + itoa(v.rec.Term) +
		": " + v.rec.Leader + " has log of a later timeline than Consul's record knows. Was Consul restored from a snapshot?",
		Override: failoverTo(v.o.Self), Cost: "every commit that " + v.o.Self + " does not have"}
}

// promotedBefore reports whether this leader's server, a standby, is on the timeline already that
// it is to begin.
func (v *view) promotedBefore() bool {
	sv := &v.o.Server
	return v.standby() && sv.Settled && sv.Position.Known() && !v.rec.claimsUnknown() && sv.Position.TLI >= v.rec.Timeline
}

// onUnclaimed reports whether this leader's server is a primary on another timeline than its
// term has claimed: a person, or a recovery target, has promoted it beside the election.
func (v *view) onUnclaimed() bool {
	at := &v.o.Server.Position
	return v.primary() && v.running() && at.Known() && !v.inDoubt() && !v.claimForgotten() && (at.TLI != v.rec.Timeline || !v.rec.Claimed(*at))
}

// claimForgotten reports whether this leader's server is on the timeline that its term has
// claimed, which Consul has forgotten (restoreClaim).
func (v *view) claimForgotten() bool {
	return v.rec.claimsUnknown() && v.o.Server.Position.TLI > v.rec.Timeline
}

// claimLost reports whether Consul was put back to before the claim of this member's own
// term, which its files show: it promised the term as a standby, and was promoted since.
func (v *view) claimLost() bool {
	sv := &v.o.Server
	return !v.putBack && !v.follower() && v.rec.Phase == PhaseElecting && v.stopped() && v.present() && sv.WasPrimary && sv.Strayed == "" && sv.Promise == v.rec.Term
}

// claimLostBlock: others may have been elected since as well, of which Consul knows no more either.
func (v *view) claimLostBlock() Block {
	return Block{What: "the primary is not started", Missing: "word from at least half of the other members that no later term has begun: Consul was put back to before the claim of term " + itoa(v.rec.Term),
		Override: failoverTo(v.o.Self), Cost: "every commit of a later term, if there was one"}
}

// restoreClaim writes what is true no matter what was claimed, and who the voters were: this
// member has all that was acknowledged. On which timeline it was promoted its server will say.
func (t *turn) restoreClaim() {
	if !t.lockMine() {
		return
	}
	r := t.rec
	r.Phase, r.Final, r.Claims = PhasePromoting, nil, nil
	if r.Durability.Mode == ModeQuorum {
		r.Durability.K, r.Durability.Voters = 1, slices.Clone(r.Members)
	}
	r.Changes = max(r.Changes, t.seen.Changes)
	t.commit(Change{What: "claimed", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "Consul was put back to before the claim of this term")
}

// listsClaims reports whether the record's claims are all that its newest terms have made.
// An older program that leads raises Timeline, and leaves the list as it was.
func (r *Record) listsClaims() bool {
	n := len(r.Claims)
	return n > 0 && r.Claims[n-1].TLI == r.Timeline
}

// Claimed reports whether the log up to the position was written in terms of this
// cluster: each of its timelines was claimed, and was left where the next one's claim
// says. A server that was promoted by hand, or by a recovery target, is on a timeline
// that was not. Timelines before the oldest claim that is kept are taken as they are, and
// all are where none is.
func (r *Record) Claimed(p Position) bool {
	if !p.Known() || !r.listsClaims() {
		return true
	}
	if p.TLI > r.Timeline {
		return false
	}
	parent := Fork{}
	for _, f := range p.History {
		if !r.begins(f.TLI, f.Mark, parent) {
			return false
		}
		parent = f
	}
	return r.begins(p.TLI, p.Mark, parent)
}

// begins reports whether the timeline was claimed as leaving its parent there, and is not
// another of the same number.
func (r *Record) begins(tli TLI, mark Mark, parent Fork) bool {
	if tli < r.Claims[0].TLI {
		return true
	}
	for i := range r.Claims {
		c := &r.Claims[i]
		if c.TLI == tli {
			if mark != 0 && c.Mark != 0 && mark != c.Mark {
				return false
			}
			return c.Parent == 0 || c.Parent == parent.TLI && c.Low <= parent.End && (c.High == 0 || parent.End <= c.High) ||
				c.High == 0 && c.Parent < parent.TLI
		}
	}
	return false
}

// claimsAsBegun are the record's claims, with where the newest one really began.
func (v *view) claimsAsBegun() []Claim {
	claims, own := slices.Clone(v.rec.Claims), &v.o.Server.Position
	if n := len(claims); n > 0 && claims[n-1].TLI == own.TLI {
		if from := own.origin(); from.Known() {
			claims[n-1].Parent, claims[n-1].Low, claims[n-1].High = from.TLI, from.LSN, from.LSN
			claims[n-1].Mark = own.Mark
		}
	}
	return claims
}

// claimToRecord reports whether it is to be recorded where this primary's timeline really
// began: it was not known yet when the promotion was recorded.
func (v *view) claimToRecord() bool {
	n := len(v.rec.Claims)
	if n == 0 || !v.lockMine() {
		return false
	}
	c, own := &v.rec.Claims[n-1], &v.o.Server.Position
	return c.TLI == own.TLI && own.origin().Known() && (c.High == 0 && c.Parent != 0 || c.Mark == 0 && own.Mark != 0)
}

func (t *turn) recordClaim() {
	r := t.rec
	r.Claims = t.claimsAsBegun()
	t.commit(Change{What: "begun", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "where the timeline began is known")
}

// Strayed says why a member's copy, with its log up to a position, is none of this
// cluster's: by the member's own word, by the record's, or as no term claimed it. Empty:
// it is. A record that is known not to be the newest does not judge by its claims: a newer
// one may have claimed the log's timeline. (Newest is asked only where it decides.)
func (r *Record) Strayed(d Diverged, word string, at Position, newest func() bool) string {
	switch {
	case word != "":
		return word
	case slices.Contains(r.Diverged, d):
		return "it has more log of the primary's timeline than the primary had written"
	case r.seen().lacksBase(at) != "" && newest():
		return r.seen().lacksBase(at)
	case newest() && !r.Claimed(at):
		return "it is at " + at.String() + ", which no term of this cluster began: was the server promoted by hand?"
	}
	return ""
}

// strays reports whether the peer's log is none of this cluster's.
func (v *view) strays(p *Peer) bool {
	return v.rec.Strayed(Diverged{Member: p.Member, Copy: p.Report.Copy}, p.Report.Strayed, p.Report.Position, v.newestRecord) != "" ||
		v.seen.lacksBase(p.Report.Position) != ""
}

// strayed says why this member's own log is none of this cluster's; empty: it is.
func (v *view) strayed() string {
	sv := &v.o.Server
	return cmp.Or(v.rec.Strayed(Diverged{Member: v.o.Self, Copy: sv.Copy}, sv.Strayed, sv.Position, v.newestRecord), v.seen.lacksBase(sv.Position), v.apartFromLeader())
}

// apartFromLeader says that this member's log is on another timeline than the leader's of the
// same number; empty: nothing of the kind is known.
func (v *view) apartFromLeader() string {
	own := &v.o.Server.Position
	if own.Mark == 0 && len(own.History) == 0 || v.seen.Leader == v.o.Self {
		return ""
	}
	if p := v.leaderPeer(); p != nil {
		if tli := own.apart(&p.Report.Position); tli != 0 {
			return "its timeline " + itoa(uint64(tli)) + " is another than that of " + p.Member + ": was a server promoted by hand?"
		}
	}
	return ""
}

// newestRecord reports whether no record or promise is known that is newer than the record.
func (v *view) newestRecord() bool { return !v.seen.newer(v.rec.seen()) && !v.promisedLater() }

// newlyDiverged are the copies that are on another timeline of the same number as this
// primary's, or that have more log of it than it has itself.
func (v *view) newlyDiverged() []Diverged {
	var found []Diverged
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		d := Diverged{Member: p.Member, Copy: p.Report.Copy}
		if v.provenDiverged(p) && !slices.Contains(v.rec.Diverged, d) {
			found = append(found, d)
		}
	}
	return found
}

// provenDiverged reports whether a report, that came before this primary was asked where it
// is, proves it: a standby is sent what is flushed here, and nothing beyond. What was flushed
// before a crash may end inside a record, which its recovery has passed over: so what a standby
// has not replayed proves nothing yet.
func (v *view) provenDiverged(p *Peer) bool {
	own, at := &v.o.Server.Position, &p.Report.Position
	if p.ReceivedAt == 0 || p.ReceivedAt >= v.o.Server.SeenAt || p.Report.ServerID != v.rec.SystemID || !own.Known() {
		return false
	}
	return at.TLI == own.TLI && at.LSN > own.LSN && (p.Report.Replay == 0 || p.Report.Replay > own.LSN) || at.apart(own) != 0
}

// renewed are the copies in the record's list that their members have replaced.
func (v *view) renewed(d Diverged) bool {
	p := v.peer(d.Member)
	return p != nil && p.ReceivedAt != 0 && p.Report.Copy != d.Copy && p.Report.Copy != ""
}

// listDiverged writes the list of diverged copies as it is now.
func (t *turn) listDiverged() {
	r := t.rec
	r.Diverged = slices.DeleteFunc(slices.Clone(r.Diverged), t.renewed)
	r.Diverged = append(r.Diverged, t.newlyDiverged()...)
	t.commit(Change{What: "diverged", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "members have log that the primary never wrote")
}

// strayedLater reports whether another member that can lead only by the same decision has log of
// a later timeline, or more of the same.
func (v *view) strayedLater() bool {
	own := v.o.Server.Position
	return slices.ContainsFunc(v.o.Peers, func(p Peer) bool {
		at := p.Report.Position
		return v.fresh(&p) && p.Report.Session != "" && p.Report.Override == failoverTo(p.Member) && p.Report.ServerID == v.rec.SystemID && at.Known() &&
			cmp.Or(cmp.Compare(at.TLI, own.TLI), cmp.Compare(at.LSN, own.LSN)) > 0
	})
}

// strayedRules keep a standby whose log is none of this cluster's out of everything,
// and replace it as soon as its copy is not needed.
var strayedRules = [...]rule{
	// A primary that is not heard yet may know of a later term.
	{"strayed-early", func(v *view) bool { return v.leaderPeer() == nil && !v.after(v.s.PhaseAt, v.o.Policy.FailureTimeout) }, nil, ends},
	{"strayed-alone", func(v *view) bool { return v.leaderPeer() == nil }, blocked(func(v *view) Block {
		b := Block{What: "this member neither votes nor leads", Missing: "a primary to be cloned from; " + v.strayed()}
		mayLead := !v.o.Policy.NoFailover && v.o.Consul.Session != ""
		if mayLead && (v.seen.Phase == PhaseLeading || v.vacant()) && !v.strayedLater() { // else another is about to lead
			b.Override = failoverTo(v.o.Self)
			b.Cost = "every commit since this member's log left the cluster's; all other members are cloned anew"
		}
		return b
	}), ends},
	// Its copy is no vote. A primary that can do without it soon does; one that has nobody
	// else would wait for ever, and has all that was acknowledged itself.
	{"strayed-voter", func(v *view) bool {
		return v.rec.Durability.Has(v.o.Self) && !v.after(v.s.StrayedAt, 3*v.o.Policy.FailureTimeout)
	}, func(t *turn) {
		spare("this member's data is not cloned anew, and it does not follow: " + t.strayed())(t)
	}, ends},
	{"strayed-clone", nil, func(t *turn) { clone("it has log that is none of this cluster's: " + t.strayed())(t) }, ends},
}
