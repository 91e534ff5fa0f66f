package ha

import (
	"cmp"
	"slices"
	"time"
)

// Which record is the newest, of those that this process has read and heard of.

// newestSeen is the newest record that this member has read, or a peer knows.
func (o *Observation) newestSeen(last Record) RecordSeen {
	newest := o.Consul.Record.seen()
	if seen := last.seen(); seen.newer(newest) {
		newest = seen
	}
	for i := range o.Peers {
		if seen := o.Peers[i].Report.Record; seen.newer(newest) && !seen.alien(newest) {
			newest = seen
		}
	}
	if kept := o.Server.Seen.RecordSeen; o.onRecord() && kept.order(newest) > 0 && kept.System == cmp.Or(newest.System, o.Server.SystemID) {
		newest = kept
	}
	return newest
}

// onRecord reports whether Consul's record, if there is one, names this member. If not, what it has on
// disk may be of an earlier cluster with the same data, which a person has restored from a backup.
func (o *Observation) onRecord() bool {
	return !o.Consul.Record.Exists() || slices.Contains(o.Consul.Record.Members, o.Self)
}

// ToKeep is what is to be written to disk of the newest record that this member knows, and
// whether it is news to what was kept before. Nobody waits for it: a process that is killed
// first has forgotten one record.
func (s *State) ToKeep(kept RecordSeen) (RecordSeen, bool) {
	now := s.Heard
	now.Index = 0
	return now, now.System != "" && (now.System != kept.System || now.order(kept) > 0)
}

func (r *Record) seen() RecordSeen {
	return RecordSeen{Term: r.Term, Leader: r.Leader, Phase: r.Phase, Index: r.Index, Changes: r.Changes, Base: r.Base, System: r.SystemID, Timeline: r.Timeline}
}

// alien reports whether the two are of different clusters.
func (s RecordSeen) alien(to RecordSeen) bool {
	return s.System != "" && to.System != "" && s.System != to.System
}

// newer reports whether s was written after than: in a later term, or later in the same.
// Indexes count only within one phase, as they begin anew when Consul has lost all it had.
func (s RecordSeen) newer(than RecordSeen) bool {
	return cmp.Or(s.order(than), cmp.Compare(s.Index, than.Index)) > 0
}

// order compares two records by what they say themselves. No term goes back to an earlier
// phase, while a leader that took an earlier record for the newest may have changed it as
// often as the newest was. One whose changes were not counted is from before they were, as
// nobody takes the count away.
func (s RecordSeen) order(than RecordSeen) int {
	return cmp.Or(cmp.Compare(s.Term, than.Term), cmp.Compare(s.Phase.order(), than.Phase.order()), cmp.Compare(s.Changes, than.Changes))
}

// noteRecord keeps the newest record that this process has read. Where Consul has an
// earlier one, none, or one that cannot be read, the member goes on by what it has read
// itself: the leader restates it, and nobody else changes the record unless a person asks.
func (t *turn) noteRecord() {
	last, c := &t.s.Last, &t.o.Consul
	t.noteFollowed()
	switch {
	case c.Newer || c.SeenAt == 0:
	case t.rec.Exists() && !t.rec.before(last):
		t.noteDismissed()
		t.noteForgotten()
		*last, t.s.PutBackAt = t.rec, 0
		if t.s.FirstTerm == 0 && c.SeenAt > t.s.GapAt {
			t.s.FirstTerm = t.rec.Term
		}
	case last.Term != 0:
		t.putBack = true
		t.s.PutBackAt = cmp.Or(t.s.PutBackAt, t.o.Now)
		index := cmp.Or(t.rec.Index, c.BrokenIndex)
		t.rec = *last
		t.rec.Index = index
	}
}

// followTime is for how long a process may not hear Consul, or stand still, before it counts as
// one that has just begun to read the record: what was written meanwhile may have been lost.
const followTime = 2 * time.Second

// noteFollowed notes that this process has read the record, or what may have kept it from that.
func (t *turn) noteFollowed() {
	s := &t.s
	if t.o.Consul.Reachable == No {
		return
	}
	// One that could not read it when it began has followed nothing either.
	if last := cmp.Or(s.FollowedAt, s.BegunAt); last != 0 && t.o.Now > last.Add(followTime) {
		s.FirstTerm, s.GapAt = 0, t.o.Now
	}
	s.FollowedAt = t.o.Now
}

// noteForgotten notes that this member's state was lost while its data were not.
func (t *turn) noteForgotten() {
	if t.o.Server.DataDir == DataAbsent || t.o.Server.DataDir == DataHalfMade {
		t.s.Copied = true
	}
	if sv := &t.o.Server; !t.s.Copied && t.ownVoteElects() && sv.DataDir == DataPresent && sv.Promise < t.rec.Term && t.rec.Phase == PhaseLeading && t.rec.Leader != t.o.Self {
		t.s.ForgotTerm = t.rec.Term
	}
}

// noteDismissed notes who is on the record no more, by a person's decision.
func (t *turn) noteDismissed() {
	s := &t.s
	if slices.Equal(s.Last.Members, t.rec.Members) {
		return
	}
	off := s.Dismissed
	if s.Last.Term == t.rec.Term { // a record that is made anew has those that are heard
		off = union(off, s.Last.Members)
	}
	s.Dismissed = slices.DeleteFunc(slices.Clone(off), func(m string) bool { return slices.Contains(t.rec.Members, m) })
}

// before reports whether this program has read a newer record than r in the same or a
// later term. What was written in the same term has a higher index, unless Consul was put
// back and the same was written again.
func (r *Record) before(last *Record) bool {
	if r.SystemID != "" && last.SystemID != "" && r.SystemID != last.SystemID {
		return false // it is another cluster's
	}
	if r.Term != last.Term {
		return r.Term < last.Term
	}
	if r.contends(last) {
		return true
	}
	if phase := r.Phase.order() - last.Phase.order(); phase != 0 && r.Leader == last.Leader {
		return phase < 0
	}
	if max(r.Changes, last.Changes) > 0 && r.Leader == last.Leader {
		return r.Changes < last.Changes
	}
	return r.Index < last.Index && r.Leader == last.Leader && !r.same(last)
}

// contends reports whether r is of another election in the term of last, which had come as
// far or further, or founds the cluster beside it: Consul was put back to before it, or has lost
// it, and who did not know of it began the term anew. Who has seen the first takes no part in the
// second: a term has one leader (S1).
func (r *Record) contends(last *Record) bool {
	return r.Term == last.Term && r.Leader != last.Leader && last.Phase.order() >= PhaseElecting.order() && r.Phase.order() <= last.Phase.order()
}

// same reports whether two records say the same.
func (r *Record) same(other *Record) bool {
	return r.Phase == other.Phase && r.Timeline == other.Timeline && r.Durability.Equal(other.Durability) &&
		slices.Equal(r.Members, other.Members) && (r.Final == nil) == (other.Final == nil) && r.Fenced == other.Fenced &&
		len(r.Claims) == len(other.Claims) && slices.Equal(r.Diverged, other.Diverged) && r.Base == other.Base && r.Lease == other.Lease &&
		r.StandbyOf == other.StandbyOf && r.Epoch == other.Epoch && r.Restore.ID == other.Restore.ID && r.Restored == other.Restored
}

// noteHeard keeps the newest record that this process has heard of: who told of it may have
// forgotten it since.
func (t *turn) noteHeard() {
	s := &t.s
	if system := cmp.Or(t.rec.SystemID, t.o.Server.SystemID); s.HeardOf != system {
		s.Heard, s.HeardOf = RecordSeen{}, system
	}
	if t.seen = t.o.newestSeen(s.Last); s.Heard.order(t.seen) > 0 && !s.Heard.alien(t.seen) {
		t.seen = s.Heard
	}
	s.Heard = t.seen
}
