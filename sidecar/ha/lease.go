package ha

import (
	"cmp"
	"slices"
	"time"
)

// leaseUntil is until when this member may serve as the primary of the record's
// term (S5): the lease, counted from the newest moment at which it is sure that
// no other could be elected. Zero if there was none.
func (v *view) leaseUntil() Instant {
	since := Instant(0)
	if c := &v.o.Consul; c.HeldTerm == v.rec.Term && !(v.putBack && c.HeldAt >= v.s.PutBackAt) {
		since = c.HeldAt // a Consul that was put back names who led then
	}
	since = max(since, v.confirmedAt())
	if since == 0 {
		return 0
	}
	return since.Add(v.lease())
}

// confirming is how many voters, besides this member, an election fails without.
func (v *view) confirming() int {
	need := v.rec.Durability.K
	if v.rec.Durability.Has(v.o.Self) {
		need--
	}
	return need
}

// confirmedAt is the newest moment of which enough members have said that they
// had not promised a later term then.
// In quorum mode an election needs VotesNeeded of the voters, so it fails
// without K of them; this member is one of those if it is a voter. Where that
// leaves nobody to ask, and in async mode, every member must confirm.
func (v *view) confirmedAt() Instant {
	dur := &v.rec.Durability
	need := v.confirming()
	if dur.Mode == ModeAsync || v.o.Policy.Mode == ModeAsync || need <= 0 {
		all := v.electors()
		return v.kthEcho(all, len(all))
	}
	return v.kthEcho(dur.Voters, need)
}

// confirmationMissing says whose word the lease lacks. In async mode that is of all: one that is
// silent, be it new and without data, may be led by a person's decision.
func (v *view) confirmationMissing() string {
	if v.rec.Durability.Mode != ModeAsync && v.o.Policy.Mode != ModeAsync {
		return "confirmation of its lease, by Consul or by the members"
	}
	silent := slices.DeleteFunc(v.electors(), func(m string) bool { return v.echo(m).Add(v.o.Policy.FailureTimeout) > v.o.Now })
	return "confirmation of its lease, by Consul or by each member that it has heard; not from: " + joined(silent)
}

// electors are the others that may stand in an election: those on record; all
// that this process has heard, as a person may make it lead whatever the record says; and, while
// it is not known what the record is, no matter who else there is, as a transaction of this
// member's own may have admitted it.
func (v *view) electors() []string {
	all, doubt := v.others(), v.inDoubt()
	for i := range v.o.Peers {
		p := &v.o.Peers[i]
		if m := p.Member; !slices.Contains(all, m) && (doubt || p.ReceivedAt != 0 && v.related(p) && !slices.Contains(v.s.Dismissed, m)) {
			all = append(all, m)
		}
	}
	return all
}

// kthEcho is the newest moment that at least k of the members, without this
// one, have confirmed. With k 0 that is now.
func (v *view) kthEcho(members []string, k int) Instant {
	if k <= 0 {
		return v.o.Now
	}
	newest := Instant(0)
	for _, m := range members {
		at := v.echo(m)
		if at <= newest {
			continue
		}
		n := 0
		for _, other := range members {
			if v.echo(other) >= at {
				n++
			}
		}
		if n >= k {
			newest = at
		}
	}
	return newest
}

// echo is when this member sent the newest report that the other confirmed
// while it had promised no later term.
func (v *view) echo(member string) Instant {
	if member == v.o.Self {
		return 0
	}
	p := v.peer(member)
	if p == nil || p.Report.Term != v.rec.Term && !(p.Report.Term < v.rec.Term && p.Report.ServerID == "") {
		return 0 // one without data has promised nothing, and elects nobody
	}
	return p.EchoSentAt
}

// extendLease tells the guard how long the server may run, and notes whether that
// is long enough to begin or go on serving. A server that may not is stopped by the
// rules below, while the guard would only do so at the very end.
func (t *turn) extendLease() {
	sv := &t.o.Server
	until := t.leaseUntil()
	t.s.LeaseUntil = until
	if at := t.confirmedAt(); at != 0 {
		t.s.VouchedUntil = at.Add(t.lease())
	}
	// Not for every echo: a tenth of a lease is soon enough. None for a server that is to
	// be stopped, and does not end: another may lead when this lease is over.
	if until > t.o.Now && !t.o.hangs() && (!sv.Armed || until >= sv.LeaseUntil.Add(t.lease()/10)) {
		t.do(Action{Kind: Lease, Until: until, Term: t.rec.Term, Why: "the lease was confirmed"})
	}
	// A lease that the guard holds already was rightly given, if by a sidecar
	// before this one.
	if sv.Armed {
		until = max(until, sv.LeaseUntil)
	}
	last := until.Add(-t.lease() / 10)
	t.inTime = t.o.Now < last
	t.wake(last)
	if t.o.Busy.Server == Stop && t.o.Busy.Immediate {
		t.wake(t.o.stopHangsAt() + 1)
	}
}

// lease is the lease that this primary may use: its own setting, but no longer than the
// record says, which is what a successor waits for.
func (v *view) lease() time.Duration {
	if v.rec.Lease != 0 {
		return min(v.rec.Lease, v.o.Policy.Lease)
	}
	return v.o.Policy.Lease
}

// longestLease is how long the primary of the newest term may hold a lease at most: the same
// for all members, or those that wait longer would be taken for gone by the others.
func (v *view) longestLease() time.Duration { return cmp.Or(v.rec.Lease, v.o.Policy.Lease) }

// leaseToRecord reports whether the record is to say another lease: a longer one before it
// is used, a shorter one when no longer one runs any more.
func (v *view) leaseToRecord() bool {
	own, sv := v.o.Policy.Lease, &v.o.Server
	return v.lockMine() && (v.rec.Lease < own || !v.rec.listsClaims() || v.rec.Lease > own && sv.LeaseUntil <= v.o.Now.Add(own))
}

// recordLease writes it, and begins the claims of a record that a program wrote which
// kept none.
func (t *turn) recordLease() {
	r, why := t.rec, "the setting failover.lease has changed"
	if !r.listsClaims() {
		r.Claims, why = []Claim{{TLI: r.Timeline, Term: r.Term}}, "the record does not say yet which timelines were claimed"
	}
	r.Lease = t.o.Policy.Lease
	t.commit(Change{What: "lease", Record: r, Lock: LockKeep, Session: t.o.Consul.Session}, why)
}

// leased reports whether the guard itself holds a lease that has not ended: only
// inside one may a server be promoted or started as primary.
func (v *view) leased() bool { return v.o.Server.Armed && v.o.Server.LeaseUntil > v.o.Now }
