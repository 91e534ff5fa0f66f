package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
)

// siteView is what one site's Consul says: n1 leads, and n2 is a replica, if its record says
// no more.
func siteView(host string, r ha.Record) sessions.View {
	r.Index, r.Leader, r.Phase, r.SystemID, r.Members = 1, "n1", ha.PhaseLeading, "1", []string{"n1", "n2"}
	tags := []string{"primary"}
	if r.StandbyOf != "" {
		tags = []string{"standby-leader"}
	}
	return sessions.View{Consul: ha.Consul{SeenAt: 1, Record: r}, Members: []sessions.Member{
		{Name: "n1", Postgres: host + ":5432", Tags: tags, Status: "passing"},
		{Name: "n2", Postgres: host + ":5433", Tags: []string{"replica"}, Status: "passing"}}}
}

// TestAcross: clients are led to the primary of the site that takes the writes, as both
// Consuls say; all members of both sites are there all the time.
func TestAcross(t *testing.T) {
	const late = ha.Instant(time.Minute) // after an answer at 1
	leads, follows := ha.Record{Term: 4, Standing: ha.Standing{Epoch: 1}}, ha.Record{Term: 9, Standing: ha.Standing{Epoch: 1, StandbyOf: "pg@other"}}
	newer := ha.Record{Term: 10, Standing: ha.Standing{Epoch: 2}}
	away := func(v sessions.View) sessions.View { v.Consul.SeenAt = -late; return v }
	noReplica := siteView("10.0.0.1", leads)
	noReplica.Members = noReplica.Members[:1]
	for name, c := range map[string]struct {
		near, far sessions.View
		want      string // the primary and the replicas; empty: it is not known
	}{
		"this site":                    {siteView("10.0.0.1", leads), siteView("10.1.0.1", follows), "n1 10.0.0.1:5432, n2"},
		"the other site":               {siteView("10.0.0.1", follows), siteView("10.1.0.1", leads), "dc2.n1 10.1.0.1:5432, n2"},
		"both, and the other is newer": {siteView("10.0.0.1", leads), siteView("10.1.0.1", newer), "dc2.n1 10.1.0.1:5432, n2"},
		"both, and this one is newer":  {siteView("10.0.0.1", newer), siteView("10.1.0.1", leads), "n1 10.0.0.1:5432, n2"},
		"both, in one epoch":           {siteView("10.0.0.1", leads), siteView("10.1.0.1", ha.Record{Term: 2, Timeline: 97, Standing: leads.Standing}), "dc2.n1 10.1.0.1:5432, n2"},
		"neither":                      {siteView("10.0.0.1", follows), siteView("10.1.0.1", follows), "-, n2"},
		"the other's Consul is away":   {siteView("10.0.0.1", leads), away(siteView("10.1.0.1", follows)), "n1 10.0.0.1:5432, n2"},
		"this Consul is away":          {away(siteView("10.0.0.1", follows)), siteView("10.1.0.1", leads), "dc2.n1 10.1.0.1:5432, dc2.n2"},
		"whose takes the writes":       {away(siteView("10.0.0.1", leads)), siteView("10.1.0.1", follows), ""},
		"no replica here":              {noReplica, siteView("10.1.0.1", follows), "n1 10.0.0.1:5432, dc2.n2"},
	} {
		cfg := &config.Config{Cluster: "pg"}
		cfg.Service.Name = "pg"
		near, far := new(site), &site{datacenter: "dc2"}
		// What was read before stays in the list of members.
		for _, seen := range []struct {
			at   *site
			view sessions.View
		}{{near, siteView("10.0.0.1", leads)}, {far, siteView("10.1.0.1", follows)}, {near, c.near}, {far, c.far}} {
			if err := seen.at.see(cfg, seen.view, nil, 1); err != nil {
				t.Fatal(err)
			}
		}
		all, record, known := across(near, far)
		got := ""
		if known {
			if got = "-"; all.Primary != nil {
				got = all.Primary.Name + " " + all.Primary.Address()
			}
			for _, r := range all.Replicas {
				got += ", " + r.Name
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if !known {
			continue
		}
		var names []string
		for _, m := range all.Members {
			names = append(names, m.Name)
		}
		if got := strings.Join(names, " "); got != "dc2.n1 dc2.n2 n1 n2" {
			t.Errorf("%s: the members are %s", name, got)
		}
		if all.Term != c.near.Consul.Record.Term+c.far.Consul.Record.Term || record.Term == 0 || all.Service != "pg" {
			t.Errorf("%s: term %d of %+v and %+v, service %q", name, all.Term, c.near.Consul.Record, c.far.Consul.Record, all.Service)
		}
		again, other := new(site), &site{datacenter: "dc2"}
		recall(again, other, all)
		if len(again.last.Members) != 2 || len(other.last.Members) != 2 || other.last.Members[1].Name != "n2" {
			t.Errorf("%s: recalled %+v and %+v", name, again.last.Members, other.last.Members)
		}
	}
}

// TestAcrossLetsGo: where it is not known any more which site takes the writes, HAProxy is
// left to its own checks, and the proxy is not ready.
func TestAcrossLetsGo(t *testing.T) {
	cfg := &config.Config{Cluster: "pg", Member: "proxy"}
	cfg.Service.Name = "pg"
	cfg.Consul.Addresses, cfg.Consul.OtherDatacenter = []string{"127.0.0.1:1"}, "dc2"
	client, err := sessions.New(process.Consul(cfg, hclog.NewNullLogger()))
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFollower(cfg, client, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	follows := siteView("10.0.0.1", ha.Record{Term: 2, Standing: ha.Standing{StandbyOf: "pg@dc2"}})
	f.seeBoth(follows, siteView("10.1.0.1", ha.Record{Term: 3}), 1)
	if !f.given || f.last.Primary == nil || f.last.Primary.Name != "dc2.n1" || f.unready() != "" {
		t.Fatalf("given %t, %+v, %q", f.given, f.last.Primary, f.unready())
	}
	away := siteView("10.1.0.1", ha.Record{Term: 3})
	away.Consul.SeenAt = -ha.Instant(time.Minute)
	f.seeBoth(follows, away, 1)
	if why := f.unready(); f.given || !strings.Contains(why, "which site takes the writes is not known") {
		t.Errorf("given %t, %q", f.given, why)
	}
	f.seeBoth(follows, siteView("10.1.0.1", ha.Record{Term: 3}), 1)
	if !f.given || f.unready() != "" {
		t.Errorf("it is back: given %t, %q", f.given, f.unready())
	}
}
