package proxy

import (
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
	"github.com/pgsidecar/pgsidecar/templates"
)

// Two sites (consul.other_datacenter): one topology of both clusters, whose primary is the
// one of the site that takes the writes. All members of both are in it all the time, so
// that a change of sites reloads nothing, and clients that wait for it are served by the
// other site's primary. Those of the other site have its datacenter before their name, as
// both may have an n1; no member's name has a dot.

// site is one of two as its Consul tells it.
type site struct {
	client     *sessions.Client
	datacenter string             // before its members' names; empty: this one
	last       templates.Topology // of this site alone
	fresh      bool               // what was read last is to be believed
	record     ha.Record
}

// otherSite is the site in another datacenter; nil: the configuration names none.
func otherSite(cfg *config.Config, log hclog.Logger) (*site, error) {
	if cfg.Consul.OtherDatacenter == "" {
		return nil, nil
	}
	o := process.Consul(cfg, log)
	o.Datacenter = cfg.Consul.OtherDatacenter
	client, err := sessions.New(o)
	if err != nil {
		return nil, err
	}
	return &site{client: client, datacenter: o.Datacenter}, nil
}

// see takes the site's newest view.
func (s *site) see(cfg *config.Config, v sessions.View, lags map[string]uint64, now ha.Instant) error {
	s.record = v.Consul.Record
	s.fresh = v.Consul.SeenAt.Within(staleAfter, now) && v.Consul.Broken == "" && v.Consul.Record.Exists() && v.Members != nil
	if !s.fresh {
		return nil
	}
	t, err := topology(cfg, v, s.last, lags)
	s.last = t
	return err
}

// leads reports whether the site is seen to take the writes.
func (s *site) leads() bool { return s.fresh && s.record.StandbyOf == "" }

// newer reports whether of two sites that say that they take the writes this one stays.
func (s *site) newer(other *site) bool {
	if s.record.Epoch != other.record.Epoch {
		return s.record.Epoch > other.record.Epoch
	}
	return s.record.Timeline > other.record.Timeline
}

// named is the site's topology with the names that its members have among those of both.
func (s *site) named() templates.Topology {
	t := s.last
	if s.datacenter == "" {
		return t
	}
	name := func(all []templates.Member) []templates.Member {
		all = slices.Clone(all)
		for i := range all {
			all[i].Name = s.datacenter + "." + all[i].Name
		}
		return all
	}
	t.Members, t.Replicas = name(t.Members), name(t.Replicas)
	if t.Primary != nil {
		t.Primary = &name([]templates.Member{*t.Primary})[0]
	}
	return t
}

// recall takes up what was known of both before this process.
func recall(near, far *site, was templates.Topology) {
	near.last, far.last = templates.Topology{}, templates.Topology{}
	for _, m := range was.Members {
		if name, there := strings.CutPrefix(m.Name, far.datacenter+"."); there {
			m.Name = name
			far.last.Members = append(far.last.Members, m)
			continue
		}
		near.last.Members = append(near.last.Members, m)
	}
}

// across is the topology of both sites; false: it is not known who takes the writes. Of two
// that say so, the one of the later epoch does, or in the same one that of the higher
// timeline. While both say that they do not, as in the
// middle of a change, there is no primary, and clients wait.
//
// Reads stay at this site while it has a replica.
func across(near, far *site) (t templates.Topology, record ha.Record, known bool) {
	here, there := near.named(), far.named()
	switch {
	case far.leads() && (!near.leads() || far.newer(near)):
		t, record = there, far.record
	case near.leads():
		t, record = here, near.record
	case near.fresh && far.fresh:
		t, record = here, near.record
		t.Primary, t.Announced, t.Held = nil, false, false
	default:
		return t, record, false
	}
	t.Cluster, t.Service = here.Cluster, here.Service
	if t.Cluster == "" { // only the other site was read yet
		t.Cluster, t.Service = there.Cluster, there.Service
	}
	// Each site counts its own terms. What follows a topology leaves out one of a lower term
	// than it has: the sum grows with each election at either site.
	t.Term = near.record.Term + far.record.Term
	t.Members = slices.Concat(here.Members, there.Members)
	slices.SortFunc(t.Members, func(a, b templates.Member) int { return strings.Compare(a.Name, b.Name) })
	t.Replicas = here.Replicas
	if len(t.Replicas) == 0 || !near.fresh {
		t.Replicas = there.Replicas
	}
	if t.Replicas == nil {
		t.Replicas = []templates.Member{}
	}
	return t, record, true
}
