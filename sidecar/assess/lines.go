package assess

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What is still recent.
const (
	scrapedWithin  = 5 * time.Minute
	backupWithin   = 8 * 24 * time.Hour // a weekly one, and a day for it to be made
	archivedWithin = 10 * time.Minute   // the first file that waits
	drilledWithin  = 184 * 24 * time.Hour
	quarter        = 92 * 24 * time.Hour
	heardWithin    = 30 * time.Second
	topRTO         = 30 * time.Second
)

// checklist has every line, by level. In a level that is named first with which one best
// begins.
var checklist = []item{
	{0, "primary", "a primary takes writes", "pgsidecar status --why", lookPrimary},

	{1, "standby", "a standby streams", "pgsidecar config init", lookStandbys(1)},
	{1, "other-host", "it is on another host than the primary", "pgsidecar topology", lookHosts(2)},
	{1, "backup", "the last good backup is at most 8 days old, and none is overdue", "pgsidecar backup run", lookBackup},
	{1, "monitored", "every member's metrics were scraped within 5 minutes", "pgsidecar files alerts", lookScraped},
	{1, "runbook", "a written procedure is named", "pgsidecar settings set runbook=https://...", lookRunbook},

	{2, "two-standbys", "two standbys stream", "pgsidecar config init", lookStandbys(2)},
	{2, "three-hosts", "the servers are on three hosts", "pgsidecar topology", lookHosts(3)},
	{2, "archive", "the log is archived, without a gap and without a file that waits", "pgsidecar backup check", lookArchive},
	{2, "point-in-time", "every moment since the last backup can be restored", "pgsidecar backup list", lookContinuity},
	{2, "alerts", "Prometheus has the alert rules, and an Alertmanager to tell", "pgsidecar files alerts", lookAlerts},
	{2, "haproxy", "HAProxy leads applications to the primary", "pgsidecar help proxy", lookProxies(1, haproxies, "HAProxy")},

	{3, "quorum", "a commit waits for a standby of several", "pgsidecar settings set durability.mode=quorum", lookQuorum},
	{3, "automatic", "a lost primary is replaced without a person", "pgsidecar status --why", lookFailover},
	{3, "remote", "another site follows, asynchronously", "pgsidecar help sites", lookSite},
	{3, "pooling", "PgBouncer pools connections", "pgsidecar help proxy", lookProxies(1, bouncers, "PgBouncer")},
	{3, "objective", "an objective is set, and its error budget is not spent", "pgsidecar settings set objective.availability=99.99", lookObjective},
	{3, "drill", "the last drill passed, within half a year", "pgsidecar drill live", lookDrill(drilledWithin)},
	{3, "runbook-answers", "the written procedure's address answers", "pgsidecar settings set runbook=https://...", lookRunbookAnswers},

	{4, "zones", "the servers are in two zones or more", "pgsidecar settings set tags.MEMBER.zone=...", lookZones},
	{4, "two-proxies", "there are two proxies or more, on different hosts", "pgsidecar help proxy", lookProxies(2, haproxies, "HAProxy")},
	{4, "consul", "Consul has three servers or more", "consul operator raft list-peers", lookConsul},
	{4, "restore", "a restore was proved within a quarter", "pgsidecar help backup", lookRestore},
	{4, "site-rehearsed", "the sites have changed places", "pgsidecar site switch", lookRehearsed},
	{4, "scheduled", "backups are made by a schedule", "pgsidecar help backup", lookSchedule},
	{4, "tracing", "every member exports traces", "pgsidecar help operate", lookTracing},
	{4, "game-day", "the last drill was within a quarter", "pgsidecar drill live", lookDrill(quarter)},
	{4, "figures", "the last drill had an RTO under 30 s, and an RPO of 0", "pgsidecar drill live", lookFigures},
}

func lookPrimary(e *Evidence) verdict {
	return by(e.Servers, func(all []Server) (bool, string) {
		i := slices.IndexFunc(all, func(s Server) bool { return s.Primary })
		if i < 0 {
			return false, "no member takes writes"
		}
		return true, all[i].Member
	})
}

func lookStandbys(wanted int) func(*Evidence) verdict {
	return func(e *Evidence) verdict {
		return by(e.Servers, func(all []Server) (bool, string) {
			var streaming []string
			for _, s := range all {
				if s.Streams && !s.Leads {
					streaming = append(streaming, s.Member)
				}
			}
			return len(streaming) >= wanted, counted(len(streaming), "standby streams", "standbys stream") + listed(streaming)
		})
	}
}

// working are the places of those that serve: of what is down nothing is held.
func working(all []Server, place func(Server) string) []string {
	var places []string
	for _, s := range all {
		if p := place(s); (s.Primary || s.Streams) && p != "" {
			places = append(places, p)
		}
	}
	slices.Sort(places)
	return slices.Compact(places)
}

func lookHosts(wanted int) func(*Evidence) verdict {
	return func(e *Evidence) verdict {
		return by(e.Servers, func(all []Server) (bool, string) {
			hosts := working(all, func(s Server) string { return s.Host })
			return len(hosts) >= wanted, counted(len(hosts), "host", "hosts") + listed(hosts)
		})
	}
}

func lookZones(e *Evidence) verdict {
	return by(e.Servers, func(all []Server) (bool, string) {
		zones := working(all, func(s Server) string { return s.Zone })
		if len(zones) == 0 {
			return false, "no member has a tag zone"
		}
		return len(zones) >= 2, counted(len(zones), "zone", "zones") + listed(zones)
	})
}

func lookBackup(e *Evidence) verdict {
	return by(e.Backup, func(b Backup) (bool, string) {
		switch age := e.At.Sub(b.Ended); {
		case b == Backup{}:
			return false, "there is no block backup"
		case b.Ended.IsZero():
			return false, b.Engine + ": there is no good backup"
		case b.Overdue > 0:
			return false, fmt.Sprintf("%s: %s old; one has been due for %s", b.Engine, ago(age), ago(b.Overdue))
		default:
			return age <= backupWithin, fmt.Sprintf("%s: %s old", b.Engine, ago(age))
		}
	})
}

func lookSchedule(e *Evidence) verdict {
	return by(e.Backup, func(b Backup) (bool, string) {
		if b.Next.IsZero() {
			return false, "none is scheduled"
		}
		return true, "the next is due at " + b.Next.UTC().Format(time.DateTime) + " UTC"
	})
}

func lookScraped(e *Evidence) verdict {
	return by(e.Scraped, func(s Scrape) (bool, string) {
		if s.Oldest < 0 {
			return false, s.Member + "'s never were since its sidecar began"
		}
		return s.Oldest <= scrapedWithin, fmt.Sprintf("%s's %s ago, by %s", s.Member, ago(s.Oldest), s.By)
	})
}

func lookRunbook(e *Evidence) verdict {
	return by(e.Runbook, func(r Runbook) (bool, string) {
		if r.Address == "" {
			return false, "the setting runbook is not set"
		}
		return true, r.Address
	})
}

func lookRunbookAnswers(e *Evidence) verdict {
	return by(e.Runbook, func(r Runbook) (bool, string) {
		switch {
		case r.Address == "":
			return false, "the setting runbook is not set"
		case r.Problem != "":
			return false, r.Problem
		}
		return true, r.Address
	})
}

func lookArchive(e *Evidence) verdict {
	return by(e.Archive, func(a Archive) (bool, string) {
		switch {
		case a == Archive{}:
			return false, "no block backup archives the log"
		case a.Problem != "":
			return false, a.Engine + ": " + a.Problem
		case a.Gaps > 0:
			return false, a.Engine + ": " + counted(a.Gaps, "gap", "gaps")
		}
		return a.Waiting <= archivedWithin, fmt.Sprintf("%s: the oldest file that waits does so for %s", a.Engine, ago(a.Waiting))
	})
}

func lookContinuity(e *Evidence) verdict {
	return by(e.Continuity, func(c Continuity) (bool, string) {
		if c.From.IsZero() || c.To.IsZero() {
			return false, "no moment can be restored"
		}
		span := "from " + c.From.UTC().Format(time.DateTime) + " to " + c.To.UTC().Format(time.DateTime) + " UTC"
		if c.Gaps > 0 {
			return false, span + ", but for " + counted(c.Gaps, "gap", "gaps")
		}
		return true, span
	})
}

func lookAlerts(e *Evidence) verdict {
	return by(e.Alerts, func(a Alerts) (bool, string) {
		return a.Rules > 0 && a.Receivers > 0, counted(a.Rules, "rule", "rules") + ", " + counted(a.Receivers, "Alertmanager", "Alertmanagers")
	})
}

func haproxies(p Proxy) bool { return p.HAProxy }
func bouncers(p Proxy) bool  { return p.PgBouncer }

func lookProxies(wanted int, is func(Proxy) bool, name string) func(*Evidence) verdict {
	return func(e *Evidence) verdict {
		return by(e.Proxies, func(all []Proxy) (bool, string) {
			var hosts, faults []string
			for _, p := range all {
				switch {
				case is(p) && p.Problem == "":
					hosts = append(hosts, p.Host)
				case p.Problem != "":
					faults = append(faults, p.Host+": "+p.Problem)
				}
			}
			slices.Sort(hosts)
			hosts = slices.Compact(hosts)
			evidence := name + " on " + counted(len(hosts), "host", "hosts") + listed(hosts)
			if len(faults) > 0 {
				evidence += "; " + strings.Join(faults, "; ")
			}
			return len(hosts) >= wanted, evidence
		})
	}
}

func lookQuorum(e *Evidence) verdict {
	return by(e.Quorum, func(q Quorum) (bool, string) {
		switch {
		case q.Relaxed != "":
			return false, "the server relaxes it: " + q.Relaxed
		case q.Standbys == 0:
			return false, "commits wait for no standby"
		}
		words := fmt.Sprintf("each waits for %d of %d", q.Standbys, q.Of)
		if q.Of <= q.Standbys {
			return false, words + ": without one of them writes wait"
		}
		return true, words
	})
}

func lookFailover(e *Evidence) verdict {
	return by(e.Failover, func(f Failover) (bool, string) {
		switch {
		case f.Paused:
			return false, "the cluster is paused"
		case f.Blocked != "":
			return false, "blocked: " + f.Blocked
		}
		return f.Candidates > 0, counted(f.Candidates, "member can take over", "members can take over")
	})
}

func lookSite(e *Evidence) verdict {
	return by(e.Site, func(s Site) (bool, string) {
		switch {
		case s.Name == "":
			return false, "there is one site"
		case s.Heard < 0:
			return false, s.Name + " was never heard"
		}
		evidence := fmt.Sprintf("%s, heard %s ago", s.Name, ago(s.Heard))
		if s.Lag >= 0 {
			evidence += fmt.Sprintf(", %d bytes behind", s.Lag)
		}
		if !s.Streams {
			evidence += "; it does not receive the log"
		}
		return s.Heard <= heardWithin && s.Streams, evidence
	})
}

func lookRehearsed(e *Evidence) verdict {
	return by(e.Site, func(s Site) (bool, string) {
		switch {
		case s.Name == "":
			return false, "there is one site"
		case !s.Switched:
			return false, "they never did"
		}
		return true, "they did"
	})
}

func lookObjective(e *Evidence) verdict {
	return by(e.Objective, func(o Objective) (bool, string) {
		if o.Availability == 0 {
			return false, "no availability is set"
		}
		return o.Left >= 0, strconv.FormatFloat(o.Availability*100, 'g', 10, 64) + " %; of the error budget of 30 days " + ago(o.Left) + " is left"
	})
}

// drillWords tells what the last drill was, and whether it met the cluster's own objective.
func drillWords(e *Evidence, d Drill) (met bool, words string) {
	if d.At.IsZero() {
		return false, "there was no drill"
	}
	words = fmt.Sprintf("%s, %s ago: RTO %s, RPO %d rows", d.Scenario, ago(e.At.Sub(d.At)), d.RTO.Round(time.Millisecond), d.LostRows)
	switch o := e.Objective; {
	case !d.Passed:
		return false, words + "; it failed"
	case o.known && o.value.RTO > 0 && d.RTO > o.value.RTO:
		return false, words + "; the objective's RTO is " + o.value.RTO.String()
	case o.known && o.value.Availability > 0 && o.value.RPO >= 0 && d.LostRows > o.value.RPO:
		return false, words + fmt.Sprintf("; the objective's RPO is %d rows", o.value.RPO)
	}
	return true, words
}

func lookDrill(within time.Duration) func(*Evidence) verdict {
	return func(e *Evidence) verdict {
		return by(e.Drill, func(d Drill) (bool, string) {
			met, words := drillWords(e, d)
			return met && e.At.Sub(d.At) <= within, words
		})
	}
}

func lookFigures(e *Evidence) verdict {
	return by(e.Drill, func(d Drill) (bool, string) {
		met, words := drillWords(e, d)
		return met && d.RTO < topRTO && d.LostRows == 0, words
	})
}

func lookConsul(e *Evidence) verdict {
	return by(e.Consul, func(n int) (bool, string) { return n >= 3, counted(n, "server", "servers") })
}

func lookRestore(e *Evidence) verdict {
	return by(e.Restore, func(p Proof) (bool, string) {
		switch {
		case p.At.IsZero():
			return false, "none was"
		case !p.Passed:
			return false, fmt.Sprintf("%s, %s ago: it failed", p.What, ago(e.At.Sub(p.At)))
		}
		return e.At.Sub(p.At) <= quarter, fmt.Sprintf("%s, %s ago", p.What, ago(e.At.Sub(p.At)))
	})
}

func lookTracing(e *Evidence) verdict {
	return by(e.Tracing, func(on bool) (bool, string) {
		if !on {
			return false, "not every member has a block trace"
		}
		return true, "every member has a block trace"
	})
}

// counted writes a number with its noun.
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// listed writes names behind what they are of.
func listed(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return ": " + strings.Join(all, ", ")
}

// ago writes a time in its largest unit.
func ago(d time.Duration) string {
	switch n := d.Abs(); {
	case n < time.Minute:
		return d.Round(time.Second).String()
	case n < 2*time.Hour:
		return d.Round(time.Minute).String()
	case n < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + " h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + " days"
}
