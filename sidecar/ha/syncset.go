package ha

import "slices"

// Covers reports whether every commit that the setting lets a primary
// acknowledge is held by at least K of the recorded voters (S4): of Ks names in
// the setting, at worst all that are not recorded answered, and the primary
// itself holds the commit.
func Covers(set SyncSetting, primary string, dur Durability) bool {
	outside := 0
	for _, name := range set.Names {
		if !dur.Has(name) {
			outside++
		}
	}
	held := max(0, set.K-outside)
	if dur.Has(primary) {
		held++
	}
	return held >= dur.K
}

func sameSync(a, b SyncSetting) bool { return a.K == b.K && slices.Equal(a.Names, b.Names) }

// promotionSync is the setting that the new primary has before it promotes: the
// record's voters but itself. Where it is a voter they may be one too few; since
// its own copy counts, one fewer need to answer then. Where it is the only voter
// any other member makes up for it.
func (d *decision) promotionSync() SyncSetting {
	dur := &d.rec.Durability
	if dur.Mode == ModeAsync || dur.K == 0 {
		return SyncSetting{}
	}
	set := SyncSetting{K: dur.K}
	for _, v := range dur.Voters {
		if v != d.o.Self {
			set.Names = append(set.Names, v)
		}
	}
	if len(set.Names) == 0 {
		set.K = 1
		for _, m := range d.rec.Members {
			if m != d.o.Self && !dur.Has(m) {
				set.Names = append(set.Names, m)
			}
		}
		slices.Sort(set.Names)
	}
	set.K = min(set.K, len(set.Names))
	return set
}

// narrowedByVotes is the record's durability without those whom the setting of
// the promotion does not ask: all that was acknowledged before this term ends at
// upto at the latest, and as many as the setting asks for have voted with all of
// that on disk; what is acknowledged later they hold by the setting (S4). Until
// they are enough it is the durability as it is.
func (d *decision) narrowedByVotes(set SyncSetting, upto Position) Durability {
	dur := d.rec.Durability
	if dur.Mode != ModeQuorum || dur.K == 0 || set.K != dur.K {
		return dur
	}
	n := 0
	for _, m := range set.Names {
		if p := d.peer(m); p != nil && d.votes(p) && p.Report.Position.Contains(upto) {
			n++
		}
	}
	if n < set.K {
		return dur
	}
	return Durability{Mode: ModeQuorum, K: set.K, Voters: slices.Clone(set.Names)}
}

// keepDurability takes the next single step from the recorded voters and the
// server's setting to those that are wanted: widen the record, change the
// setting, see it in effect and caught up with, narrow the record (S4).
func (d *decision) keepDurability() {
	if d.stray() && d.lockMine() {
		// Once this is done the index has moved, and the stray cannot be applied.
		d.record("settle", d.rec.Durability, "a transaction's outcome is not known")
		return
	}
	// A setting that is being changed must not be taken for what it was.
	if b := d.o.Busy.Server; b != NoAction && b != Unhide {
		return
	}
	set, mode := d.wantedSync()
	want := Durability{Mode: mode, K: set.K, Voters: set.Names}
	dur, v := &d.rec.Durability, &d.o.Server
	settled := sameSync(v.Sync, set) && !v.SyncUnsure
	if settled && dur.Equal(want) {
		return
	}
	if !settled {
		wide := d.widened(set, mode)
		switch {
		case !dur.Equal(wide):
			d.record("widen", wide, "before the setting may ask for other voters")
		case Covers(set, d.o.Self, *dur) && !d.inDoubt():
			d.do(Action{Kind: SetSync, Sync: set, Why: "the voters have changed"})
		}
		return
	}
	if v.SyncAt == 0 {
		return // some walsender may still count as it did before
	}
	if n := d.flushed(set.Names, v.SyncAt); n < set.K {
		d.block(Block{What: "the recorded voters are not narrowed", Missing: itoa(uint64(set.K-n)) + " of " +
			joined(set.Names) + " to flush " + v.SyncAt.String()})
		return
	}
	d.record("narrow", want, "the new voters have all that was acknowledged")
}

// widened is the record under which both the present setting and the wanted one
// are safe: the smaller K, and everybody of both.
func (d *decision) widened(set SyncSetting, mode Mode) Durability {
	dur := &d.rec.Durability
	wide := Durability{Mode: dur.Mode, K: min(dur.K, set.K), Voters: union(union(dur.Voters, set.Names), d.o.Server.Sync.Names)}
	if mode == ModeAsync {
		wide.Mode = ModeAsync
	}
	return wide
}

func (d *decision) record(what string, dur Durability, why string) {
	r := d.rec
	r.Durability = dur
	d.commit(Change{What: what, Record: r, Lock: LockKeep, Session: d.o.Consul.Session}, why)
}

// wantedSync is the setting that the policy asks for, given who streams.
func (d *decision) wantedSync() (SyncSetting, Mode) {
	pol := &d.o.Policy
	if pol.Mode == ModeAsync {
		return SyncSetting{}, ModeAsync
	}
	limit := pol.MaxVoters
	if limit == 0 {
		limit = 2 * pol.Standbys
	}
	d.noteGone()
	names := make([]string, 0, limit)
	// Present voters first, so that the set does not change without need.
	for _, m := range d.rec.Durability.Voters {
		if len(names) < limit && d.keepsVote(m) {
			names = append(names, m)
		}
	}
	for i := range d.o.Server.Walsenders {
		w := &d.o.Server.Walsenders[i]
		if len(names) < limit && w.Streaming && d.mayVote(w.Member) && !slices.Contains(names, w.Member) {
			names = append(names, w.Member)
		}
	}
	k := min(pol.Standbys, len(names))
	if floor := min(pol.Standbys, d.rec.Durability.K); pol.Strict && k < floor {
		k = floor
		names = d.fill(names, k)
		k = min(k, len(names))
	}
	slices.Sort(names)
	return SyncSetting{K: k, Names: names}, ModeQuorum
}

// fill adds names that do not stream now, so that a strict setting still asks
// for k of them, and commits wait.
func (d *decision) fill(names []string, k int) []string {
	for _, list := range [2][]string{d.rec.Durability.Voters, d.rec.Members} {
		for _, m := range list {
			if len(names) < k && m != d.o.Self && !slices.Contains(names, m) {
				names = append(names, m)
			}
		}
	}
	streaming := 0
	for _, m := range names {
		if d.streams(m) {
			streaming++ // one with the tag nosync too: nobody else is there
		}
	}
	if len(names) > 0 && streaming < k {
		d.block(Block{What: "commits wait", Missing: itoa(uint64(k)) + " standbys that stream, of " + joined(names),
			Override: "pgsidecar config set durability.strict=false",
			Cost:     "commits that only the primary has, and no automatic failover, until a standby is back"})
	}
	return names
}

// mayVote reports whether the member may be a voter at all.
func (d *decision) mayVote(member string) bool {
	if member == d.o.Self || !slices.Contains(d.rec.Members, member) {
		return false
	}
	p := d.peer(member)
	return p == nil || !p.Report.NoSync
}

// keepsVote reports whether a present voter stays one: it streams, or has been
// gone for less than the failure time-out.
func (d *decision) keepsVote(member string) bool {
	if !d.mayVote(member) {
		return false
	}
	for i := range d.s.Gone {
		if d.s.Gone[i].Member == member {
			return !d.after(d.s.Gone[i].Since, d.o.Policy.FailureTimeout)
		}
	}
	return true
}

// noteGone dates the voters whose walsender is missing.
func (d *decision) noteGone() {
	gone := make([]Gone, 0, len(d.rec.Durability.Voters))
	for _, m := range d.rec.Durability.Voters {
		if m == d.o.Self || d.streams(m) {
			continue
		}
		g := Gone{Member: m, Since: d.o.Now}
		for i := range d.s.Gone {
			if d.s.Gone[i].Member == m {
				g.Since = d.s.Gone[i].Since
			}
		}
		gone = append(gone, g)
	}
	d.s.Gone = gone
}

func (d *decision) streams(member string) bool {
	for i := range d.o.Server.Walsenders {
		if w := &d.o.Server.Walsenders[i]; w.Member == member && w.Streaming {
			return true
		}
	}
	return false
}

// flushed counts the members whose walsenders have reported the position as
// flushed; the primary itself counts where it is one of them.
func (d *decision) flushed(members []string, upto LSN) int {
	n := 0
	for _, m := range members {
		for i := range d.o.Server.Walsenders {
			if w := &d.o.Server.Walsenders[i]; w.Member == m && w.Streaming && w.Flush >= upto {
				n++
				break
			}
		}
	}
	return n
}

// admit records members that stream and are not recorded yet: only then may
// they stand in an election, or vote.
func (d *decision) admit() {
	members := d.rec.Members
	for i := range d.o.Server.Walsenders {
		w := &d.o.Server.Walsenders[i]
		p := d.peer(w.Member)
		if w.Streaming && p != nil && p.Report.ServerID == d.rec.SystemID && !slices.Contains(members, w.Member) {
			members = union(members, []string{w.Member})
		}
	}
	if len(members) == len(d.rec.Members) {
		return
	}
	r := d.rec
	r.Members = members
	d.commit(Change{What: "admit", Record: r, Lock: LockKeep, Session: d.o.Consul.Session}, "a new member streams")
}

// dismiss takes a member off the record, as asked: from then on it may neither
// stand in an election nor is it counted on for the lease, and its slots go. One
// that streams is admitted again, so one that is not gone is not dismissed; and
// a voter may be the only one that holds a commit (S3), so it must have been
// replaced before.
func (d *decision) dismiss() {
	m := d.o.Intent.Remove
	if m == "" || !slices.Contains(d.rec.Members, m) {
		return
	}
	if d.s.Refused = d.indispensable(m); d.s.Refused != "" || !d.lockMine() {
		return
	}
	r := d.rec
	r.Members = slices.DeleteFunc(slices.Clone(r.Members), func(name string) bool { return name == m })
	d.commit(Change{What: "dismiss", Record: r, Lock: LockKeep, Session: d.o.Consul.Session}, "asked to remove "+m)
}

// indispensable says why a member cannot be taken off the record; empty: it can.
func (d *decision) indispensable(m string) string {
	streams := slices.ContainsFunc(d.o.Server.Walsenders, func(w Walsender) bool { return w.Member == m })
	switch p := d.peer(m); {
	case m == d.o.Self:
		return m + " leads; hand over first: pgsidecar switchover"
	case p != nil && p.Link == LinkUp || streams:
		return m + " is alive; stop its sidecar first"
	case d.rec.Durability.Has(m) || slices.Contains(d.o.Server.Sync.Names, m):
		return m + " is a voter: it may hold the only other copy of the last commits. It stops being one when another standby streams; see pgsidecar status"
	}
	return ""
}

func union(a, b []string) []string {
	u := make([]string, 0, len(a)+len(b))
	u = append(append(u, a...), b...)
	slices.Sort(u)
	return slices.Compact(u)
}

func joined(names []string) string {
	s := ""
	for i, n := range names {
		if i > 0 {
			s += ", "
		}
		s += n
	}
	return s
}
