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
func (v *view) promotionSync() SyncSetting {
	dur := &v.rec.Durability
	if dur.Mode == ModeAsync || dur.K == 0 {
		return SyncSetting{}
	}
	set := SyncSetting{K: dur.K}
	for _, m := range dur.Voters {
		if m != v.o.Self {
			set.Names = append(set.Names, m)
		}
	}
	if len(set.Names) == 0 {
		set.K = 1
		for _, m := range v.rec.Members {
			if m != v.o.Self && !dur.Has(m) {
				set.Names = append(set.Names, m)
			}
		}
		slices.Sort(set.Names)
	}
	set.K = min(set.K, len(set.Names))
	if v.zoned() && v.o.Policy.Strict {
		return v.acrossZonesSync(set, v.mayVoteOf(slices.Concat(set.Names, v.others())))
	}
	return set
}

// electionSync is the setting with which a candidate promotes: that of the recorded voters.
// Where too few of those have voted with all that it has, and enough other members have,
// it is theirs: they can go on by themselves then if the new primary is lost at once.
func (v *view) electionSync() SyncSetting {
	set, dur := v.promotionSync(), &v.rec.Durability
	own := v.o.Server.Position
	strictZones := v.zoned() && v.o.Policy.Strict
	if set.K == 0 || !strictZones && (set.K != dur.K || v.votedWith(set.Names, own) >= set.K) {
		return set
	}
	var all []string
	for _, m := range v.others() {
		if v.mayVote(m) && v.votedWith([]string{m}, own) == 1 && len(all) < 2*dur.K {
			all = append(all, m)
		}
	}
	if v.zoned() {
		all = v.acrossZones(all)
	}
	if len(all) < dur.K {
		return set
	}
	return SyncSetting{K: dur.K, Names: all}
}

// votedWith counts the members that have voted with the log up to a position.
func (v *view) votedWith(members []string, upto Position) int {
	n := 0
	for _, m := range members {
		if p := v.peer(m); p != nil && v.votes(p) && p.Report.Position.Contains(upto) {
			n++
		}
	}
	return n
}

// narrowedByVotes is the record's durability without those whom the setting of
// the promotion does not ask: all that was acknowledged before this term ends at
// upto at the latest, and as many as the setting asks for have voted with all of
// that on disk; what is acknowledged later they hold by the setting (S4). Until
// they are enough it is the durability as it is.
func (v *view) narrowedByVotes(set SyncSetting, upto Position) Durability {
	dur := v.rec.Durability
	if dur.Mode != ModeQuorum || dur.K == 0 || set.K != dur.K {
		return dur
	}
	if v.votedWith(set.Names, upto) < set.K {
		return dur
	}
	return Durability{Mode: ModeQuorum, K: set.K, Voters: slices.Clone(set.Names)}
}

// durabilityRules take the next single step from the recorded voters and the
// server's setting to those that are wanted: widen the record, change the
// setting, see it in effect and caught up with, narrow the record (S4).
var durabilityRules = [...]rule{
	// The record that is being written again will settle it.
	{"settle-restated", func(v *view) bool { return v.stray() && v.putBack }, nil, ends},
	// Once this is done the index has moved, and the stray cannot be applied.
	{"settle", func(v *view) bool { return v.stray() && v.lockMine() },
		func(t *turn) { t.record("settle", t.rec.Durability, "a transaction's outcome is not known") }, ends},
	// Consul was put back, and an election may be under way by the votes of those on record: they
	// are to hold what is acknowledged meanwhile. Its block stands already.
	{"durability-promised", (*view).promisedLater, nil, ends},
	// It has just woken up, or was started: those who have led since are about to say so.
	{"durability-unheard", (*view).wokenUnheard, nil, ends},
	// A setting that is being changed must not be taken for what it was.
	{"durability-busy", func(v *view) bool { return v.o.Busy.Server != NoAction && v.o.Busy.Server != Unhide }, nil, ends},
	{"choose-voters", nil, (*turn).chooseVoters, goesOn},
	{"zones-short", func(v *view) bool { return v.fewZones }, blocked((*view).zonesBlock), goesOn},
	{"commits-wait", func(v *view) bool { return v.short > 0 }, blocked((*view).commitsWaitBlock), goesOn},
	{"durability-kept", func(v *view) bool { return v.settingInEffect() && v.rec.Durability.Equal(v.wanted()) }, nil, ends},
	{"widen", func(v *view) bool { return !v.settingInEffect() && !v.rec.Durability.Equal(v.widened()) },
		func(t *turn) { t.record("widen", t.widened(), "before the setting may ask for other voters") }, ends},
	{"set-sync", func(v *view) bool {
		return !v.settingInEffect() && Covers(v.want, v.o.Self, v.rec.Durability) && !v.inDoubt()
	}, func(t *turn) { t.do(Action{Kind: SetSync, Sync: t.want, Why: "the voters have changed"}) }, ends},
	{"set-sync-later", func(v *view) bool { return !v.settingInEffect() }, nil, ends},
	// Some walsender may still count as it did before.
	{"narrow-early", func(v *view) bool { return v.o.Server.SyncAt == 0 }, nil, ends},
	{"narrow-wait", func(v *view) bool { return v.caughtUp() < v.want.K }, blocked(func(v *view) Block {
		return Block{What: "the recorded voters are not narrowed", Missing: itoa(uint64(v.want.K-v.caughtUp())) + " of " +
			joined(v.want.Names) + " to flush " + v.o.Server.SyncAt.String()}
	}), ends},
	{"narrow", nil, func(t *turn) { t.record("narrow", t.wanted(), "the new voters have all that was acknowledged") }, ends},
}

// wanted is the durability that the record is to have.
func (v *view) wanted() Durability {
	return Durability{Mode: v.mode, K: v.want.K, Voters: v.want.Names}
}

// settingInEffect reports whether the server has the wanted setting.
func (v *view) settingInEffect() bool {
	return sameSync(v.o.Server.Sync, v.want) && !v.o.Server.SyncUnsure
}

// caughtUp counts the wanted voters that have flushed what the primary had when the
// setting was in effect.
func (v *view) caughtUp() int { return v.flushed(v.want.Names, v.o.Server.SyncAt) }

// widened is the record under which both the present setting and the wanted one
// are safe: the smaller K, and everybody of both.
func (v *view) widened() Durability {
	dur := &v.rec.Durability
	wide := Durability{Mode: dur.Mode, K: min(dur.K, v.want.K), Voters: union(union(dur.Voters, v.want.Names), v.o.Server.Sync.Names)}
	if v.mode == ModeAsync {
		wide.Mode = ModeAsync
	}
	return wide
}

func (t *turn) record(what string, dur Durability, why string) {
	r := t.rec
	r.Durability = dur
	t.commit(Change{What: what, Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, why)
}

// chooseVoters works out the setting that the policy asks for, given who streams.
func (t *turn) chooseVoters() {
	pol := &t.o.Policy
	if pol.Mode == ModeAsync {
		t.want, t.mode = SyncSetting{}, ModeAsync
		return
	}
	limit := pol.MaxVoters
	if limit == 0 {
		limit = 2 * pol.Standbys
	}
	t.noteGone()
	if t.zoned() && t.zonesUnknown() {
		t.want, t.mode = t.o.Server.Sync, ModeQuorum
		return
	}
	names := t.candidates()
	if t.zoned() {
		names = t.chooseZones(names)
	}
	names = names[:min(limit, len(names))]
	k := min(pol.Standbys, len(names))
	if floor := t.strictFloor(); k < floor {
		if names, k = t.fill(names, floor), floor; t.zoned() {
			names, k = t.fillZones(names, floor)
		}
		k = min(k, len(names))
		if len(names) > 0 && t.streaming(names) < floor {
			t.short, t.shortOf = floor, slices.Clone(names)
		}
	}
	slices.Sort(names)
	t.want, t.mode = SyncSetting{K: k, Names: names}, ModeQuorum
}

// candidates are those that may be voters, the best first: by their priority, and among
// equals those that are voters now, so that the set does not change without need.
func (t *turn) candidates() []string {
	var names []string
	for _, m := range t.rec.Durability.Voters {
		if t.keepsVote(m) {
			names = append(names, m)
		}
	}
	for i := range t.o.Server.Walsenders {
		w := &t.o.Server.Walsenders[i]
		if w.Streaming && t.mayVote(w.Member) && !slices.Contains(names, w.Member) {
			names = append(names, w.Member)
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return t.syncPriority(b) - t.syncPriority(a) })
	return names
}

// syncPriority is a member's own; not known, or not set: 1.
func (v *view) syncPriority(member string) int {
	if p := v.peer(member); p != nil {
		return max(p.Report.SyncPriority, 1)
	}
	return 1
}

// strictFloor is the K below which a strict policy does not lower it by itself.
func (v *view) strictFloor() int {
	if !v.o.Policy.Strict {
		return 0
	}
	return min(v.o.Policy.Standbys, v.rec.Durability.K)
}

// fill adds names that do not stream now, so that a strict setting still asks
// for k of them, and commits wait.
func (v *view) fill(names []string, k int) []string {
	for _, list := range [2][]string{v.rec.Durability.Voters, v.rec.Members} {
		for _, m := range list {
			if len(names) < k && m != v.o.Self && !slices.Contains(names, m) && (!v.zoned() || v.holdsElsewhere(names, m)) {
				names = append(names, m)
			}
		}
	}
	return names
}

func (v *view) commitsWaitBlock() Block {
	missing := counted(v.short, "standby that streams", "standbys that stream") + ", of " + joined(v.shortOf)
	if v.zoned() && v.o.Policy.Zone != "" && len(v.o.Server.Walsenders) > 0 {
		return Block{What: "commits wait", Missing: missing + ", in a zone other than " + v.o.Policy.Zone,
			Override: "pgsidecar settings set durability.zones=1", Cost: "commits that only one zone has: they are lost if that zone is"}
	}
	return Block{What: "commits wait", Missing: missing,
		Override: "pgsidecar settings set durability.strict=false",
		Cost:     "commits that only the primary has, and no automatic failover, until a standby is back"}
}

// mayVote reports whether the member may be a voter at all.
func (v *view) mayVote(member string) bool {
	if member == v.o.Self || !slices.Contains(v.rec.Members, member) {
		return false
	}
	p := v.peer(member)
	return p == nil || !p.Report.NoSync && !v.strays(p)
}

// keepsVote reports whether a present voter stays one: it streams, or has been
// gone for less than the failure time-out.
func (v *view) keepsVote(member string) bool {
	if !v.mayVote(member) {
		return false
	}
	for i := range v.s.Gone {
		if v.s.Gone[i].Member == member {
			return !v.after(v.s.Gone[i].Since, v.o.Policy.FailureTimeout)
		}
	}
	return true
}

// noteGone dates the voters whose walsender is missing.
func (t *turn) noteGone() {
	gone := make([]Gone, 0, len(t.rec.Durability.Voters))
	for _, m := range t.rec.Durability.Voters {
		if m == t.o.Self || t.streams(m) {
			continue
		}
		g := Gone{Member: m, Since: t.o.Now}
		for i := range t.s.Gone {
			if t.s.Gone[i].Member == m {
				g.Since = t.s.Gone[i].Since
			}
		}
		gone = append(gone, g)
	}
	t.s.Gone = gone
}

// streaming counts those that stream, one with the tag nosync too: nobody else is there.
func (v *view) streaming(members []string) int {
	n := 0
	for _, m := range members {
		if v.streams(m) {
			n++
		}
	}
	return n
}

func (v *view) streams(member string) bool {
	for i := range v.o.Server.Walsenders {
		if w := &v.o.Server.Walsenders[i]; w.Member == member && w.Streaming {
			return true
		}
	}
	return false
}

// flushed counts the members whose walsenders have reported the position as
// flushed; the primary itself counts where it is one of them.
func (v *view) flushed(members []string, upto LSN) int {
	n := 0
	for _, m := range members {
		for i := range v.o.Server.Walsenders {
			if w := &v.o.Server.Walsenders[i]; w.Member == m && w.Streaming && w.Flush >= upto {
				n++
				break
			}
		}
	}
	return n
}

// newMembers are those that stream and are not recorded yet: only when they are may
// they stand in an election, or vote.
func (v *view) newMembers() []string {
	var found []string
	for i := range v.o.Server.Walsenders {
		w := &v.o.Server.Walsenders[i]
		p := v.peer(w.Member)
		if w.Streaming && p != nil && p.Report.ServerID == v.rec.SystemID && !slices.Contains(v.rec.Members, w.Member) {
			found = append(found, w.Member)
		}
	}
	return found
}

func (t *turn) admit() {
	r := t.rec
	r.Members = union(r.Members, t.newMembers())
	t.commit(Change{What: "admit", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "a new member streams")
}

// dismissAsked reports whether a member is to be taken off the record: from then on it
// may neither stand in an election nor is it counted on for the lease, and its slots go.
// One that streams is admitted again, so one that is not gone is not dismissed; and
// a voter may be the only one that holds a commit (S3), so it must have been
// replaced before.
func (v *view) dismissAsked() bool {
	m := v.o.Intent.Remove
	return m != "" && slices.Contains(v.rec.Members, m)
}

func (t *turn) dismiss() {
	m, r := t.o.Intent.Remove, t.rec
	r.Members = slices.DeleteFunc(slices.Clone(r.Members), func(name string) bool { return name == m })
	t.commit(Change{What: "dismiss", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, "asked to remove "+m)
}

// indispensable says why a member cannot be taken off the record; empty: it can.
func (v *view) indispensable(m string) string {
	streams := slices.ContainsFunc(v.o.Server.Walsenders, func(w Walsender) bool { return w.Member == m })
	switch p := v.peer(m); {
	case m == v.o.Self:
		return m + " leads; hand over first: pgsidecar switchover"
	case p != nil && p.Link == LinkUp || streams:
		return m + " is alive; stop its sidecar first"
	case v.rec.Durability.Has(m) || slices.Contains(v.o.Server.Sync.Names, m):
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
