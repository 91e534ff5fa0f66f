package ha

import "cmp"

// What a request that this site take the writes comes to, and why it may not.

// promoteSite begins the term in which this site takes writes: an election of the members
// that are heard, with nobody's acknowledged commits among them. Its timeline is beyond
// those that the other site may come to while it has not heard of this.
func (t *turn) promoteSite() {
	t.s.Promotion = SitePromotion{Since: t.o.Intent.Since, Begun: true, Index: t.rec.Index}
	r := t.next(t.o.Self, "this site takes writes in the place of "+t.rec.StandbyOf)
	r.StandbyOf, r.Released, r.Given = "", nil, t.o.Intent.SiteFinal
	r.Origin, r.Fenced, r.Final, r.Claims = Origin{}, true, nil, nil
	r.Durability = Durability{Mode: t.o.Policy.Mode, Voters: []string{}}
	known := t.timelineOfSites()
	r.Half = t.ownHalf() + 1
	r.Epoch = EpochOf(known+siteTimelines/2) + 1
	r.Timeline = TLI(r.Epoch)*EpochTimelines + t.ownHalf()*siteTimelines
	t.commit(Change{What: "site", Record: r, Lock: LockTake, Session: t.o.Consul.Session, Prior: t.o.Consul.Lock}, r.Reason)
}

// mayTakeWrites reports whether a transaction was sent by which this site takes the writes, and it
// is not known whether it was carried out, or still will be: with what this server has now.
func (v *view) mayTakeWrites() bool {
	return v.s.Promotion.Begun && v.s.Promotion.Index == v.rec.Index
}

// withdrawPromotion changes the record, so that what was sent before is not carried out any more.
func (t *turn) withdrawPromotion() {
	t.block(Block{What: "the server is not brought onto " + t.rec.StandbyOf + "'s log", Missing: "Consul's word on whether this site has taken the writes, as was requested"})
	t.commit(Change{What: "withdraw", Record: t.rec, Lock: LockKeep, Session: t.o.Consul.Session}, "the request that this site take the writes is over")
}

// promotionRefused says why this site may not take the writes although a person asks for
// it; empty: it may.
func (v *view) promotionRefused() string { return cmp.Or(v.promotionBarred(), v.witnessRefuses()) }

// promotionOver reports whether this request was refused already, and promotionBegun whether
// it may have been carried out.
func (v *view) promotionOver() bool {
	p := &v.s.Promotion
	return p.Refused != "" && p.Since == v.o.Intent.Since
}

func (v *view) promotionBegun() bool {
	p := &v.s.Promotion
	return p.Begun && p.Since == v.o.Intent.Since
}

func (t *turn) refusePromotion() {
	if !t.promotionOver() {
		t.s.Promotion = SitePromotion{Since: t.o.Intent.Since, Refused: t.promotionRefused()}
	}
	t.s.Refused = t.s.Promotion.Refused
}

// promotionBarred is that, but for what the witness says.
func (v *view) promotionBarred() string {
	switch {
	case v.o.Intent.SiteFinal != nil && v.timelineOfWrites() > v.o.Intent.SiteFinal.TLI:
		return "the writes were taken since they were given up: a site has come to timeline " + itoa(uint64(v.timelineOfWrites())) +
			", and they were given up on " + itoa(uint64(v.o.Intent.SiteFinal.TLI))
	case v.o.Intent.SiteFinal != nil:
		return ""
	case v.o.Source.SeenAt == 0 && !v.after(v.s.BegunAt, siteSilence): // unknown is not gone
		return "it is not known yet whether " + v.rec.StandbyOf + " takes writes; try again in a few seconds"
	case !v.sourceServes():
		return ""
	}
	return v.rec.StandbyOf + " takes writes, at " + v.o.Source.Address + "; for a planned change of sites type pgsidecar site switch"
}
