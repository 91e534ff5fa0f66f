package ha

import (
	"cmp"
	"time"
)

// bootstrapRules are what a member does while Consul has no record of the cluster.
var bootstrapRules = [...]rule{
	{"bootstrap-exit", (*view).shutdown, (*turn).stopAndExit, ends},
	{"bootstrap-discard", (*view).halfMade, discard("an unfinished bootstrap was found"), ends},
	{"bootstrap-foreign", (*view).unusable, exit(func(v *view) string { return v.o.Server.Problem }), ends},
	{"bootstrap-forced", (*view).mayRefound, (*turn).refound, ends},
	{"bootstrap-forced-empty", (*view).mayFoundEmpty, (*turn).found, ends},
	// It was made a primary outside of every term, so it leads none by itself.
	{"bootstrap-strayed", func(v *view) bool { return v.serving() && v.o.Server.Strayed != "" }, func(t *turn) {
		t.do(Action{Kind: Stop, Immediate: true, Why: "no cluster is founded with it: " + t.o.Server.Strayed})
	}, ends},
	{"bootstrap-standby", (*view).standbyData, (*turn).waitForPrimary, ends},
	// This one was a primary, and another since: its log is not the newest.
	{"bootstrap-later-term", func(v *view) bool { return v.present() && v.laterTermKnown() }, blocked((*view).laterTermBlock), ends},
	// A cluster of its own would be an empty one, beside the data that are elsewhere.
	{"bootstrap-empty", func(v *view) bool { return v.foundsEmpty() && v.dataElsewhere() != "" }, blocked((*view).emptyBlock), ends},
	// Who led after it may be among those that are not heard.
	{"bootstrap-unheard", func(v *view) bool {
		return v.stopped() && v.present() && v.laterUnheard() != ""
	}, blocked((*view).unheardLaterBlock), ends},
	// Those that know more are given the time to say so.
	{"bootstrap-wait-for-later", func(v *view) bool {
		return v.present() && v.stopped() && !v.heardOut()
	}, nil, ends},
	// Its clients would get the other's database.
	{"bootstrap-other-cluster", func(v *view) bool { return v.o.Consul.OtherCluster != "" }, blocked((*view).otherClusterBlock), ends},
	// A member that has data goes first.
	{"bootstrap-wait", func(v *view) bool { return v.absent() && !v.heardOut() }, nil, ends},
	{"bootstrap-starting", func(v *view) bool { return v.running() && v.o.Server.InRecovery == Unknown }, nil, ends},
	// Which of two sets of data is the cluster's only a person knows, or a leader that writes
	// its record again.
	{"bootstrap-two", func(v *view) bool { return v.present() && v.stopped() && !v.o.Server.Founding && v.otherData() != "" }, blocked((*view).otherDataBlock), ends},
	// There was a cluster, and others may have log that this one lacks: who has most is to
	// lead, on a timeline of its own.
	{"bootstrap-refound", func(v *view) bool {
		return v.present() && v.stopped() && v.wasMember() && v.o.Server.Instructed == "" && !v.o.Server.Undoable
	}, (*turn).refound, ends},
	// It was promoted in a term whose record is lost, and another may lead a later one since.
	{"bootstrap-unconfirmed", func(v *view) bool { return v.serving() && !v.forced() && v.unconfirmed() != "" }, blocked(func(v *view) Block {
		return Block{What: "no cluster is founded", Missing: "word from " + v.unconfirmed() + " that no later term has begun: Consul has lost the record of this primary's",
			Override: failoverTo(v.o.Self), Cost: "every commit of a later term, if there was one"}
	}), ends},
	{"bootstrap-found", nil, (*turn).found, ends},
}

func (v *view) otherClusterBlock() Block {
	return Block{What: "no cluster is founded", Missing: "a service name that no other cluster uses: " + v.o.Consul.OtherCluster}
}

func (v *view) otherDataBlock() Block {
	return Block{What: "no cluster is founded", Missing: "one set of data: " + v.otherData() + " has another cluster's than this member; move away the one that is not wanted",
		Override: failoverTo(v.o.Self), Cost: "what " + v.otherData() + " has is no part of the cluster"}
}

// laterUnheard are the members that are known and not heard: one may have led a later term than
// this member's data are from. That they are from none says nothing, as what this member has
// written beside them may be lost. Empty: there is none.
func (v *view) laterUnheard() string {
	if names := v.unheard(); names != "" {
		return names
	}
	if v.notHeard(v.o.Consul.Registered) {
		return v.o.Consul.Registered
	}
	return ""
}

func (v *view) unheardLaterBlock() Block {
	return Block{What: "no cluster is founded", Missing: "word from " + v.laterUnheard() + ", where a primary of a later term may be",
		Override: failoverTo(v.o.Self), Cost: "every commit that " + v.o.Self + " does not have"}
}

// firstContact reports whether somebody else's server runs on data that were never in a
// cluster. Nobody counts on this member's promises then, so that server may serve on.
func (v *view) firstContact() bool { return v.o.Server.Stray != 0 && v.o.Server.Promise == 0 }

// waitsToFound is why a cluster is not founded with the data of such a server, which would
// be stopped for nothing; nil: it is founded as soon as that server is down, or exists.
func (v *view) waitsToFound() *Block {
	var b Block
	switch {
	case v.rec.Exists() || v.putBack || v.forced():
		return nil
	case v.standbyData():
		b = v.standbyBlock()
	case v.o.Consul.OtherCluster != "":
		b = v.otherClusterBlock()
	case v.otherData() != "":
		b = v.otherDataBlock()
	case v.laterUnheard() != "":
		b = v.unheardLaterBlock()
	case !v.heardOut():
		b = Block{What: "no cluster is founded", Missing: "the time in which other members can say that they know of one"}
	default:
		return nil
	}
	return &b
}

// heardOut reports whether those that know more had the time to say so: one that was cut off,
// or stood still, hears one of the others first.
func (v *view) heardOut() bool {
	return v.after(max(v.s.EmptySince, v.s.HeardSince, v.s.GapAt), v.o.Policy.FailureTimeout)
}

// hearsAny reports whether any other member is heard, be the failure time-out shorter than the
// others send reports.
func (v *view) hearsAny() bool {
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		until := p.ReceivedAt.Add(v.o.Policy.FailureTimeout + reportTime)
		if p.ReceivedAt != 0 && p.Link != LinkRefused && v.o.Now <= until {
			v.wake(until + 1)
			return true
		}
	}
	return false
}

// reportTime is how long after a report the next one is surely there.
const reportTime = time.Second

// unconfirmed are those whose word a primary needs whose record Consul has lost, while they are
// too few: as many of whom its commits wait for as an election fails without (S3), else all
// others. They are asked since the loss was seen. Empty: it has it.
func (v *view) unconfirmed() string {
	sv, all := &v.o.Server, []string{}
	for i := range v.o.Peers {
		all = append(all, v.o.Peers[i].Member)
	}
	need := len(all)
	if v.o.Policy.Mode == ModeQuorum && sv.Sync.K > 0 && !sv.SyncUnsure {
		all, need = sv.Sync.Names, sv.Sync.K
	}
	var silent []string
	for _, m := range all {
		if p := v.peer(m); p == nil || p.EchoSentAt < v.s.EmptySince || v.related(p) && p.Report.Term > max(1, sv.Promise) || v.forgets(p) {
			silent = append(silent, m)
		}
	}
	if len(all)-len(silent) >= need {
		return ""
	}
	return joined(silent)
}

// forgets reports whether a member may have lost what it knew of a later term than this primary's
// with its disk.
func (v *view) forgets(p *Peer) bool {
	own := v.o.Server.Promise
	return own > 0 && p.Report.ServerID == "" && (p.Report.SeenSince == 0 || p.Report.SeenSince > own)
}

// standbyData reports whether the data directory is a standby's.
func (v *view) standbyData() bool {
	return v.present() && !v.serving() && (!v.o.Server.WasPrimary || v.running() && v.standby())
}

// laterTermKnown reports whether a member that is heard has followed, or is, a primary of
// a later term than this one.
func (v *view) laterTermKnown() bool {
	newest, seen := v.newestPromise(), v.newestHeard()
	return newest > v.o.Server.Promise && (seen.Term < newest || seen.Leader != v.o.Self)
}

func (v *view) laterTermBlock() Block {
	b := Block{What: "no cluster is founded", Missing: "the member that leads term " + itoa(v.newestPromise()) +
		": this one was primary in an earlier one"}
	best := cmp.Or(v.bestHeard(), v.o.Self)
	b.Override, b.Cost = failoverTo(best), "every commit that "+best+" does not have"
	return b
}

// newestPromise is the latest term that a member that is heard knows of.
func (v *view) newestPromise() uint64 {
	newest := v.newestHeard().Term
	for i := range v.o.Peers {
		if p := &v.o.Peers[i]; v.fresh(p) && v.related(p) {
			newest = max(newest, p.Report.Term)
		}
	}
	return newest
}

// newestHeard is the newest record that a member that is heard knows of.
func (v *view) newestHeard() RecordSeen {
	newest := RecordSeen{}
	for i := range v.o.Peers {
		if p := &v.o.Peers[i]; v.fresh(p) && v.related(p) && p.Report.Record.newer(newest) {
			newest = p.Report.Record
		}
	}
	return newest
}

// related reports whether the peer's data may be of the same cluster as this member's.
func (v *view) related(p *Peer) bool {
	return p.Report.ServerID == "" || v.o.Server.SystemID == "" || p.Report.ServerID == v.o.Server.SystemID
}

// foundsEmpty reports whether a cluster that this member founds would have no data.
func (v *view) foundsEmpty() bool {
	return v.absent() || v.present() && v.stopped() && v.o.Server.Founding
}

// dataElsewhere says why a member that has no data is not to found a cluster: there is,
// or was, one; or nobody can say that there is none. Empty: it may.
func (v *view) dataElsewhere() string {
	heard, begun := false, false
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		heard, begun = heard || v.fresh(p), begun || v.fresh(p) && max(p.Report.Record.Term, p.Report.Term) > 0
		// What this one was founding itself is empty, as long as nobody has seen it lead.
		known := p.Report.Record
		if v.hasOther(p) || v.fresh(p) && known.Term > 0 && (known.Leader != v.o.Self || known.Phase != PhaseBootstrap) {
			return p.Member + ", which knows of a cluster, to found it anew or to write its record again"
		}
	}
	switch {
	case v.absent() && v.o.Server.Promise > 0:
		return "this member's data: it was in a cluster, and has lost them"
	case len(v.o.Peers) > 0 && !heard:
		return "word from another member: this one hears none of the others, and they may have data"
	case v.notHeard(v.o.Consul.Lock.Holder):
		return "word from " + v.o.Consul.Lock.Holder + ", which the leader key in Consul names, and which may have the cluster's data"
	case v.notHeard(v.o.Consul.Registered):
		return "word from " + v.o.Consul.Registered + ", which is registered as the primary, and may have the cluster's data"
	case begun && v.unheard() != "":
		return "word from " + v.unheard() + ", which may have the cluster's data, or have founded it in this member's place"
	case v.unheard() != "" && !v.after(v.s.EmptySince, foundingTime): // it may be starting
		return "word from " + v.unheard() + ", which is known, and may have the cluster's data; it is not waited for longer than " + foundingTime.String()
	}
	return ""
}

// notHeard reports whether another member is named, by what outlives a lost record, that
// is not heard: one that is says itself what it has.
func (v *view) notHeard(member string) bool {
	return member != "" && member != v.o.Self && !v.fresh(v.peer(member))
}

// hasOther reports whether the peer, which is heard, has data that are not of this
// member's making.
func (v *view) hasOther(p *Peer) bool {
	return v.fresh(p) && p.Report.ServerID != "" && p.Report.ServerID != v.o.Server.SystemID
}

// otherData is a member that is heard and has data of another cluster; empty: none.
func (v *view) otherData() string {
	for i := range v.o.Peers {
		if p := &v.o.Peers[i]; v.hasOther(p) {
			return p.Member
		}
	}
	return ""
}

// unheard are the other members that are known and not heard.
func (v *view) unheard() string {
	var names []string
	for i := range v.o.Peers {
		if p := &v.o.Peers[i]; !v.fresh(p) {
			names = append(names, p.Member)
		}
	}
	return joined(names)
}

// mayFoundEmpty reports whether a person has decided that this member, which has no data,
// is to found the cluster.
func (v *view) mayFoundEmpty() bool { return v.forced() && v.absent() }

func (v *view) emptyBlock() Block {
	b := Block{What: "no cluster is founded", Missing: v.dataElsewhere()}
	switch to := v.hasMost(); {
	case to != v.o.Self:
		b.Override, b.Cost = failoverTo(to), "every commit that "+to+" does not have"
	case v.after(v.s.EmptySince, foundingTime):
		b.Override, b.Cost = failoverTo(v.o.Self), "the cluster that is founded is empty, and whatever the other members have is no part of it"
	}
	return b
}

// foundingTime is how long a member without data waits for others before status names the
// command that founds an empty cluster, or takes the founding over.
const foundingTime = 20 * time.Second

// wasMember reports whether the data were part of a cluster before, rather than brought in
// from elsewhere to found one with.
func (v *view) wasMember() bool {
	return v.o.Server.Promise > 0 || v.o.Server.Copy != "" || v.newestPromise() > 0
}

// bestHeard is the member that is heard and has most.
func (v *view) bestHeard() string {
	best := candidate{}
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		if c := p.candidate(); v.fresh(p) && p.Report.Eligible && c.position.Known() && (best.member == "" || c.better(best)) {
			best = c
		}
	}
	return best.member
}

// hasMost is the member that a command is to make lead: this one, or, where it has no data,
// another that is heard and has.
func (v *view) hasMost() string {
	if !v.foundsEmpty() {
		return v.o.Self
	}
	to := v.bestHeard()
	for i := range v.o.Peers {
		if p := &v.o.Peers[i]; to == "" && v.hasOther(p) {
			to = p.Member
		}
	}
	return cmp.Or(to, v.o.Self)
}

// mayRefound reports whether a person has decided that this member's data are to lead,
// whatever the record was.
func (v *view) mayRefound() bool {
	return v.forced() && (v.o.eligible() || v.present() && v.stopped() && !v.o.Policy.NoFailover && !v.shutdown())
}

// notFounded is the block of a member with data while another is to found the cluster anew.
func (v *view) notFounded() Block {
	b := Block{What: "no cluster is founded", Missing: v.rec.Leader + " to found the cluster"}
	switch {
	case v.present() && !v.o.Server.Founding:
		b.Override = failoverTo(v.o.Self)
		b.Cost = "every commit that " + v.o.Self + " does not have"
	case (v.foundsEmpty() || v.halfMade()) && v.after(v.s.PhaseAt, foundingTime):
		b.Override = failoverTo(v.o.Self)
		b.Cost = "the cluster that is founded is empty, and whatever " + v.rec.Leader + " has is no part of it"
	}
	return b
}

// waitForPrimary keeps a standby as it is: it starts, as a command may make it lead, and
// answers no election. One that was run by hand does not start: the servers that followed it
// before would be sent its log, which by the numbers goes on from theirs.
func (t *turn) waitForPrimary() {
	t.block(t.standbyBlock())
	if t.stopped() && t.o.Server.Strayed == "" {
		t.startStandby()
	}
}

func (v *view) standbyBlock() Block {
	missing, strayed := "the primary's member: this data directory is a standby's", v.o.Server.Strayed
	if strayed != "" {
		missing += "; " + strayed
	}
	return Block{What: "no cluster is founded", Missing: missing,
		Override: failoverTo(v.o.Self), Cost: "every commit that " + v.o.Self + " does not have"}
}

// refound makes a record anew where Consul has lost it, by a person's decision, or of a
// former primary's that nobody contradicts: an election of the next term, of the members
// that are heard, in which the one that has most leads. Nobody knows who held which
// commits, nor which timelines were claimed; each term has claimed one at most.
func (t *turn) refound() {
	sv, o := &t.o.Server, &t.o
	r := Record{SystemID: sv.SystemID, Term: max(sv.Promise, t.newestPromise(), t.seen.Term) + unseenTerms, Leader: o.Self, Phase: PhaseElecting,
		Members: []string{o.Self}, Durability: Durability{Mode: o.Policy.Mode, Voters: []string{}}, Lease: o.Policy.Lease,
		Standing: Standing{StandbyOf: t.siteToFollow(), Epoch: sv.Epoch}, Reason: "the record was lost"}
	r.Timeline = inHalf(t.newestTimeline()+TLI(r.Term), half(t.newestTimeline()))
	for i := range o.Peers {
		if p := &o.Peers[i]; t.fresh(p) && p.Report.ServerID == sv.SystemID {
			r.Members = union(r.Members, []string{p.Member})
		}
		r.Lease = max(r.Lease, o.Peers[i].Report.Lease) // the last primary may hold as long a one
	}
	if !t.forced() { // it has all that was acknowledged, or it would not found the cluster anew
		r.Origin = Origin{Term: sv.Promise, Leader: o.Self}
	}
	r.Index = max(o.Consul.Record.Index, o.Consul.BrokenIndex)
	t.commit(Change{What: "refound", Record: r, Lock: LockTake, Session: o.Consul.Session, Prior: o.Consul.Lock}, r.Reason)
}

// unseenTerms is how many terms a record that was made anew is above all that are known:
// members that are not heard may have promised some that nobody else remembers, and are
// to follow this one when they come back.
const unseenTerms = 16

// newestTimeline is the highest timeline that any member is known to be on, or to know of.
func (v *view) newestTimeline() TLI {
	newest := max(v.o.Server.Position.TLI, v.s.Last.Timeline, v.seen.Timeline)
	for i := range v.o.Peers {
		if p := &v.o.Peers[i].Report; p.ServerID == "" || p.ServerID == v.o.Server.SystemID {
			newest = max(newest, p.Position.TLI)
		}
	}
	return newest
}

// found asks for the first record of the cluster.
func (t *turn) found() {
	sv, o := &t.o.Server, &t.o
	// If there was a record and it is lost, others have promised to follow no leader of an
	// earlier term than they know; nor does this one lead in one. A primary that runs leads
	// the term that it has promised; one that is stopped may have promised another's.
	term := max(1, sv.Promise)
	if !t.serving() {
		term = sv.Promise + 1
	}
	if newest := t.newestPromise(); newest >= term && !t.serving() {
		term = newest + unseenTerms // a person has decided that the others' cluster is none
	}
	if !t.serving() {
		term = max(term, t.seen.Term+1)
	}
	r := Record{SystemID: sv.SystemID, Term: term, Leader: o.Self, Phase: PhaseBootstrap, Members: []string{o.Self},
		Durability: Durability{Mode: o.Policy.Mode, Voters: []string{}}, Lease: o.Policy.Lease,
		Standing: Standing{StandbyOf: t.siteToFollow(), Epoch: sv.Epoch}, Reason: "the cluster is founded"}
	// In the place of one that cannot be read, nothing is claimed twice either.
	if r.Index = o.Consul.BrokenIndex; t.serving() {
		r.Timeline, r.Restored = sv.Position.TLI, sv.Restored
	}
	t.commit(Change{What: "found", Record: r, Lock: LockTake, Session: o.Consul.Session, Prior: o.Consul.Lock}, "there is no cluster yet")
}
