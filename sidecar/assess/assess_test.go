package assess_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/assess"
)

var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// What the best cluster's evidence is; each test changes a part.
func servers() []assess.Server {
	return []assess.Server{
		{Member: "n1", Host: "a", Zone: "east", Leads: true, Primary: true},
		{Member: "n2", Host: "b", Zone: "east", Streams: true},
		{Member: "n3", Host: "c", Zone: "west", Streams: true},
	}
}

var (
	quorum     = assess.Quorum{Standbys: 1, Of: 2}
	takeover   = assess.Failover{Candidates: 2}
	archive    = assess.Archive{Engine: "pgbackrest", Waiting: time.Minute}
	backup     = assess.Backup{Engine: "pgbackrest", Ended: now.Add(-20 * time.Hour), Next: now.Add(4 * time.Hour)}
	continuity = assess.Continuity{From: now.Add(-20 * time.Hour), To: now.Add(-time.Minute)}
	restore    = assess.Proof{At: now.AddDate(0, 0, -10), Passed: true, What: "drill restore"}
	scrape     = assess.Scrape{Oldest: 12 * time.Second, By: "Prometheus/3.1 at 10.0.0.9", Member: "n2"}
	alerts     = assess.Alerts{Rules: 30, Receivers: 2}
	runbook    = assess.Runbook{Address: "https://wiki.example/pg"}
	drill      = assess.Drill{Scenario: "primary-killed", At: now.AddDate(0, 0, -20), Passed: true, RTO: 640 * time.Millisecond}
	objective  = assess.Objective{Availability: 0.9999, RTO: time.Second, Left: 3 * time.Minute}
	site       = assess.Site{Name: "dc2", Heard: time.Second, Streams: true, Lag: 512, Switched: true}
)

func proxies() []assess.Proxy {
	return []assess.Proxy{{Host: "a", HAProxy: true, PgBouncer: true}, {Host: "b", HAProxy: true, PgBouncer: true}}
}

func best() assess.Evidence {
	return assess.Evidence{Cluster: "pg", At: now,
		Servers: assess.Known(servers()), Quorum: assess.Known(quorum), Failover: assess.Known(takeover), Archive: assess.Known(archive),
		Backup: assess.Known(backup), Continuity: assess.Known(continuity), Restore: assess.Known(restore), Scraped: assess.Known(scrape),
		Alerts: assess.Known(alerts), Runbook: assess.Known(runbook), Proxies: assess.Known(proxies()), Consul: assess.Known(3),
		Drill: assess.Known(drill), Objective: assess.Known(objective), Site: assess.Known(site), Tracing: assess.Known(true)}
}

// but is a fact with a change.
func but[T any](value T, change func(*T)) assess.Fact[T] {
	change(&value)
	return assess.Known(value)
}

// no has, by line, evidence that makes it a no; a line may have several.
var no = map[string][]func(e *assess.Evidence){
	"primary": {func(e *assess.Evidence) {
		e.Servers = but(servers(), func(s *[]assess.Server) { (*s)[0].Primary = false })
	}},
	"standby": {
		func(e *assess.Evidence) { e.Servers = but(servers(), func(s *[]assess.Server) { *s = (*s)[:1] }) },
		func(e *assess.Evidence) { // at a site that follows another one
			e.Servers = but(servers(), func(s *[]assess.Server) { *s = (*s)[:1]; (*s)[0].Primary, (*s)[0].Streams = false, true })
		},
	},
	"other-host": {func(e *assess.Evidence) {
		e.Servers = but(servers(), func(s *[]assess.Server) { (*s)[1].Host, (*s)[2].Host = "a", "a" })
	}},
	"backup": {
		func(e *assess.Evidence) { e.Backup = assess.Known(assess.Backup{}) },
		func(e *assess.Evidence) { e.Backup = but(backup, func(b *assess.Backup) { b.Ended = time.Time{} }) },
		func(e *assess.Evidence) { e.Backup = but(backup, func(b *assess.Backup) { b.Overdue = time.Hour }) },
		func(e *assess.Evidence) {
			e.Backup = but(backup, func(b *assess.Backup) { b.Ended = now.AddDate(0, 0, -9) })
		},
	},
	"monitored": {
		func(e *assess.Evidence) { e.Scraped = but(scrape, func(s *assess.Scrape) { s.Oldest = -1 }) },
		func(e *assess.Evidence) {
			e.Scraped = but(scrape, func(s *assess.Scrape) { s.Oldest = 6 * time.Minute })
		},
	},
	"runbook": {func(e *assess.Evidence) { e.Runbook = assess.Known(assess.Runbook{}) }},
	"two-standbys": {func(e *assess.Evidence) {
		e.Servers = but(servers(), func(s *[]assess.Server) { (*s)[2].Streams = false })
	}},
	"three-hosts": {
		func(e *assess.Evidence) { e.Servers = but(servers(), func(s *[]assess.Server) { (*s)[2].Host = "b" }) },
		func(e *assess.Evidence) {
			e.Servers = but(servers(), func(s *[]assess.Server) { (*s)[2].Streams = false })
		},
	},
	"archive": {
		func(e *assess.Evidence) { e.Archive = assess.Known(assess.Archive{}) },
		func(e *assess.Evidence) {
			e.Archive = but(archive, func(a *assess.Archive) { a.Problem = "it is full" })
		},
		func(e *assess.Evidence) { e.Archive = but(archive, func(a *assess.Archive) { a.Gaps = 1 }) },
		func(e *assess.Evidence) { e.Archive = but(archive, func(a *assess.Archive) { a.Waiting = time.Hour }) },
	},
	"point-in-time": {
		func(e *assess.Evidence) { e.Continuity = assess.Known(assess.Continuity{}) },
		func(e *assess.Evidence) { e.Continuity = but(continuity, func(c *assess.Continuity) { c.Gaps = 2 }) },
	},
	"alerts": {
		func(e *assess.Evidence) { e.Alerts = but(alerts, func(a *assess.Alerts) { a.Rules = 0 }) },
		func(e *assess.Evidence) { e.Alerts = but(alerts, func(a *assess.Alerts) { a.Receivers = 0 }) },
	},
	"haproxy": {
		func(e *assess.Evidence) { e.Proxies = assess.Known([]assess.Proxy(nil)) },
		func(e *assess.Evidence) {
			e.Proxies = but(proxies(), func(p *[]assess.Proxy) { (*p)[0].Problem, (*p)[1].Problem = "no", "no" })
		},
	},
	"quorum": {
		func(e *assess.Evidence) { e.Quorum = assess.Known(assess.Quorum{}) },
		func(e *assess.Evidence) {
			e.Quorum = but(quorum, func(q *assess.Quorum) { q.Relaxed = "fsync is off" })
		},
		func(e *assess.Evidence) { e.Quorum = but(quorum, func(q *assess.Quorum) { q.Of = 1 }) },
	},
	"automatic": {
		func(e *assess.Evidence) { e.Failover = but(takeover, func(f *assess.Failover) { f.Paused = true }) },
		func(e *assess.Evidence) {
			e.Failover = but(takeover, func(f *assess.Failover) { f.Blocked = "commits wait" })
		},
		func(e *assess.Evidence) { e.Failover = but(takeover, func(f *assess.Failover) { f.Candidates = 0 }) },
	},
	"remote": {
		func(e *assess.Evidence) { e.Site = assess.Known(assess.Site{}) },
		func(e *assess.Evidence) { e.Site = but(site, func(s *assess.Site) { s.Heard = -1 }) },
		func(e *assess.Evidence) { e.Site = but(site, func(s *assess.Site) { s.Heard = time.Minute }) },
		func(e *assess.Evidence) { e.Site = but(site, func(s *assess.Site) { s.Streams = false }) },
	},
	"pooling": {func(e *assess.Evidence) {
		e.Proxies = but(proxies(), func(p *[]assess.Proxy) { (*p)[0].PgBouncer, (*p)[1].PgBouncer = false, false })
	}},
	"objective": {
		func(e *assess.Evidence) { e.Objective = assess.Known(assess.Objective{}) },
		func(e *assess.Evidence) {
			e.Objective = but(objective, func(o *assess.Objective) { o.Left = -time.Second })
		},
	},
	"drill": {
		func(e *assess.Evidence) { e.Drill = assess.Known(assess.Drill{}) },
		func(e *assess.Evidence) { e.Drill = but(drill, func(d *assess.Drill) { d.Passed = false }) },
		func(e *assess.Evidence) { e.Drill = but(drill, func(d *assess.Drill) { d.At = now.AddDate(0, -7, 0) }) },
		func(e *assess.Evidence) { e.Drill = but(drill, func(d *assess.Drill) { d.RTO = 2 * time.Second }) }, // the objective's is 1 s
		func(e *assess.Evidence) { e.Drill = but(drill, func(d *assess.Drill) { d.LostRows = 1 }) },
	},
	"runbook-answers": {
		func(e *assess.Evidence) { e.Runbook = assess.Known(assess.Runbook{}) },
		func(e *assess.Evidence) {
			e.Runbook = but(runbook, func(r *assess.Runbook) { r.Problem = "404 Not Found" })
		},
	},
	"zones": {
		func(e *assess.Evidence) {
			e.Servers = but(servers(), func(s *[]assess.Server) { (*s)[2].Zone = "east" })
		},
		func(e *assess.Evidence) {
			e.Servers = but(servers(), func(s *[]assess.Server) { (*s)[0].Zone, (*s)[1].Zone, (*s)[2].Zone = "", "", "" })
		},
	},
	"two-proxies": {func(e *assess.Evidence) { e.Proxies = but(proxies(), func(p *[]assess.Proxy) { (*p)[1].Host = "a" }) }},
	"consul":      {func(e *assess.Evidence) { e.Consul = assess.Known(1) }},
	"restore": {
		func(e *assess.Evidence) { e.Restore = assess.Known(assess.Proof{}) },
		func(e *assess.Evidence) { e.Restore = but(restore, func(p *assess.Proof) { p.Passed = false }) },
		func(e *assess.Evidence) {
			e.Restore = but(restore, func(p *assess.Proof) { p.At = now.AddDate(0, -4, 0) })
		},
	},
	"site-rehearsed": {
		func(e *assess.Evidence) { e.Site = assess.Known(assess.Site{}) },
		func(e *assess.Evidence) { e.Site = but(site, func(s *assess.Site) { s.Switched = false }) },
	},
	"scheduled": {func(e *assess.Evidence) { e.Backup = but(backup, func(b *assess.Backup) { b.Next = time.Time{} }) }},
	"tracing":   {func(e *assess.Evidence) { e.Tracing = assess.Known(false) }},
	"game-day":  {func(e *assess.Evidence) { e.Drill = but(drill, func(d *assess.Drill) { d.At = now.AddDate(0, -4, 0) }) }},
	"figures": {
		func(e *assess.Evidence) {
			e.Drill = but(drill, func(d *assess.Drill) { d.RTO = 31 * time.Second })
			e.Objective = assess.Known(assess.Objective{})
		},
		func(e *assess.Evidence) {
			e.Drill = but(drill, func(d *assess.Drill) { d.LostRows = 1 })
			e.Objective = assess.Known(assess.Objective{})
		},
	},
}

// TestLines: each line is once yes, once no for each of its reasons, and once unknown.
func TestLines(t *testing.T) {
	yes, unknown := assess.Judge(best()), assess.Judge(assess.Evidence{Drill: assess.Unknown[assess.Drill]("no member answers")})
	if yes.Level != assess.MaxLevel || len(yes.Missing) != 0 || yes.Next != "" {
		t.Errorf("the best cluster: level %d, missing %+v", yes.Level, yes.Missing)
	}
	if unknown.Level != -1 || unknown.Name != "no primary" {
		t.Errorf("a cluster of which nothing is known: level %d, %q", unknown.Level, unknown.Name)
	}
	seen := map[string]bool{}
	for i, line := range yes.Lines {
		if seen[line.ID] {
			t.Errorf("%s is there twice", line.ID)
		}
		seen[line.ID] = true
		if line.Answer != assess.Yes || line.Command != "" || line.Evidence == "" {
			t.Errorf("%s of the best cluster: %+v", line.ID, line)
		}
		if u := unknown.Lines[i]; u.Answer != assess.NotKnown || u.Command == "" || u.Evidence == "" {
			t.Errorf("%s of an unknown cluster: %+v", line.ID, u)
		}
		if len(no[line.ID]) == 0 {
			t.Errorf("%s has no case that makes it a no", line.ID)
		}
		for n, change := range no[line.ID] {
			e := best()
			change(&e)
			r := assess.Judge(e)
			at := slices.IndexFunc(r.Lines, func(l assess.Line) bool { return l.ID == line.ID })
			if got := r.Lines[at]; got.Answer != assess.No || got.Command == "" || got.Evidence == "" {
				t.Errorf("%s, case %d: %+v", line.ID, n, got)
			}
			if r.Level >= line.Level || len(r.Missing) == 0 || r.Next == "" {
				t.Errorf("%s, case %d: level %d, missing %+v, next %q", line.ID, n, r.Level, r.Missing, r.Next)
			}
		}
	}
	for id := range no {
		if !seen[id] {
			t.Errorf("there is no line %s", id)
		}
	}
}

// TestMissing: what is missing is that of the next level alone, and the first of it
// comes with the command.
func TestMissing(t *testing.T) {
	e := best()
	e.Alerts = assess.Unknown[assess.Alerts]("name Prometheus with --prometheus")
	e.Archive = assess.Known(assess.Archive{})
	e.Consul = assess.Known(1) // of level 4, beyond the next
	r := assess.Judge(e)
	var ids []string
	for _, l := range r.Missing {
		ids = append(ids, l.ID)
	}
	if r.Level != 1 || strings.Join(ids, " ") != "archive alerts" || r.Next != "pgsidecar backup check" {
		t.Errorf("level %d, missing %v, next %q", r.Level, ids, r.Next)
	}
	if i := slices.IndexFunc(r.Missing, func(l assess.Line) bool { return l.ID == "alerts" }); r.Missing[i].Evidence != "name Prometheus with --prometheus" {
		t.Errorf("why it is unknown: %q", r.Missing[i].Evidence)
	}
}
