package ha

import "slices"

// leaseUntil is until when this member may serve as the primary of the record's
// term (S5): the lease, counted from the newest moment at which it is sure that
// no other could be elected. Zero if there was none.
func (d *decision) leaseUntil() Instant {
	since := Instant(0)
	if c := &d.o.Consul; c.HeldTerm == d.rec.Term {
		since = c.HeldAt
	}
	since = max(since, d.confirmedAt())
	if since == 0 {
		return 0
	}
	return since.Add(d.o.Policy.Lease)
}

// confirmedAt is the newest moment of which enough members have said that they
// had not promised a later term then.
// In quorum mode an election needs VotesNeeded of the voters, so it fails
// without K of them; this member is one of those if it is a voter. Where that
// leaves nobody to ask, and in async mode, every member must confirm.
func (d *decision) confirmedAt() Instant {
	dur := &d.rec.Durability
	need := dur.K
	if dur.Has(d.o.Self) {
		need--
	}
	if dur.Mode == ModeAsync || d.o.Policy.Mode == ModeAsync || need <= 0 {
		all := d.electors()
		return d.kthEcho(all, len(all))
	}
	return d.kthEcho(dur.Voters, need)
}

// electors are the others that may stand in an election: those on record and, while
// it is not known what the record is, whoever else is heard, as a transaction of this
// member's own may have admitted it.
func (d *decision) electors() []string {
	all := d.others()
	if !d.inDoubt() {
		return all
	}
	for i := range d.o.Peers {
		if m := d.o.Peers[i].Member; !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}

// kthEcho is the newest moment that at least k of the members, without this
// one, have confirmed. With k 0 that is now.
func (d *decision) kthEcho(members []string, k int) Instant {
	if k <= 0 {
		return d.o.Now
	}
	newest := Instant(0)
	for _, m := range members {
		at := d.echo(m)
		if at <= newest {
			continue
		}
		n := 0
		for _, other := range members {
			if d.echo(other) >= at {
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
func (d *decision) echo(member string) Instant {
	if member == d.o.Self {
		return 0
	}
	p := d.peer(member)
	if p == nil || p.Report.Term != d.rec.Term {
		return 0
	}
	return p.EchoSentAt
}

// extend tells the guard how long the server may run, and reports whether that
// is long enough to begin or go on serving. A server that may not is stopped
// here, while the guard would only do so at the very end.
func (d *decision) extend() bool {
	v := &d.o.Server
	until := d.leaseUntil()
	d.s.LeaseUntil = until
	// Not for every echo: a tenth of a lease is soon enough.
	if until > d.o.Now && (!v.Armed || until >= v.LeaseUntil.Add(d.o.Policy.Lease/10)) {
		d.do(Action{Kind: Lease, Until: until, Term: d.rec.Term, Why: "the lease was confirmed"})
	}
	// A lease that the guard holds already was rightly given, if by a sidecar
	// before this one.
	if v.Armed {
		until = max(until, v.LeaseUntil)
	}
	last := until.Add(-d.o.Policy.Lease / 10)
	if d.o.Now < last {
		d.wake(last)
		return true
	}
	return false
}

// armed reports whether the guard itself holds a lease that has not ended: only
// inside one may a server be promoted or started as primary.
func (d *decision) armed() bool { return d.o.Server.Armed && d.o.Server.LeaseUntil > d.o.Now }
