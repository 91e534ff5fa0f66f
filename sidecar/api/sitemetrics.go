package api

import "github.com/pgsidecar/pgsidecar/sidecar/ha"

// siteMetrics are of the other site, where there is one: its cluster is the label.
func siteMetrics(own func(name, help string, labels []string, read func(f facts, give func(float64, ...string)))) {
	site := func(name, help string, value func(f facts, s *SiteStatus) (float64, bool)) {
		own("site_"+name, help, []string{"site"}, func(f facts, give func(float64, ...string)) {
			if s := f.site(); s != nil {
				if v, known := value(f, s); known {
					give(v, s.Name)
				}
			}
		})
	}
	site("follows", "1 if this cluster follows the other site's, 0 if it takes the writes.", func(_ facts, s *SiteStatus) (float64, bool) {
		return number(s.Follows), true
	})
	site("epoch", "Newest epoch of sites that this member knows; it grows when the other site takes the writes.", func(_ facts, s *SiteStatus) (float64, bool) {
		return float64(s.Epoch), true
	})
	site("heard_seconds", "How long ago a server of the other site last answered; -1: never.", func(f facts, _ *SiteStatus) (float64, bool) {
		return f.age(f.Observation.Source.HeardAt), true
	})
	site("lag_bytes", "What this cluster's leader lacks of the log of the site that it follows, in bytes.", func(_ facts, s *SiteStatus) (float64, bool) {
		if s.Lag == nil {
			return 0, false
		}
		return float64(*s.Lag), true
	})
	site("lag_seconds", "Age of the newest commit that this cluster's leader has of the site that it follows; 0: it has all of its log.", func(_ facts, s *SiteStatus) (float64, bool) {
		if s.LagSeconds == nil {
			return 0, false
		}
		return *s.LagSeconds, true
	})
	site("both", "1 if both sites are seen to take writes.", func(f facts, s *SiteStatus) (float64, bool) {
		return number(f.primary() && s.BothWrite), true
	})
	site("may_switch", "1 if nothing is known that keeps a planned change of sites, or a promotion, from succeeding.", func(_ facts, s *SiteStatus) (float64, bool) {
		return number(s.WhyNot == ""), true
	})
	site("witness_seconds", "How long ago the witness last confirmed that this site may take writes, on the member that leads the site that does; -1: never.",
		func(f facts, s *SiteStatus) (float64, bool) {
			return f.age(f.Observation.Source.Witness.HeldAt), s.Witness != "" && !s.Follows && f.leader() == f.self()
		})
}

// whyNot says what keeps the sites from being changed as far as this member knows: the
// one that follows from being promoted by a planned change; empty: nothing.
func (f facts) whyNot(s *SiteStatus) string {
	o := &f.Observation
	r, known := f.reportOf(o.Consul.Record.Leader)
	switch {
	case s.BothWrite:
		return "both sites take writes"
	case o.Source.HeardAt == 0:
		return "the other site was never heard by this member"
	case f.age(o.Source.HeardAt) > lateSite:
		return "the other site is not heard"
	case !s.Follows && o.Source.SystemID != "" && o.Source.SystemID != o.Consul.Record.SystemID:
		return "the other site has other data"
	case !s.Follows:
		return ""
	case s.Problem != "":
		return s.Problem
	case o.Source.SystemID != o.Consul.Record.SystemID:
		return "the other site has other data"
	case !known:
		return "this cluster has no leader"
	case r.Role != ha.RoleStandbyLeader:
		return "this cluster's leader does not stream yet"
	}
	return ""
}

// lateSite is how long a server of the other site, which is asked once a second, may take
// to answer before status says so, in seconds.
const lateSite = 5
