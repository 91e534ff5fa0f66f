package api

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// viewCollector reads metrics off the newest view when they are scraped.
type viewCollector struct {
	server *Server
	own    []viewMetric
	like   []viewMetric // Patroni's
}

// viewMetric is one metric; read gives each value with its labels' values.
type viewMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	read  func(f facts, give func(value float64, labels ...string))
	fixed []string // values of the first labels
}

func newViewCollector(s *Server) *viewCollector {
	c := &viewCollector{server: s}
	own := func(name, help string, labels []string, read func(f facts, give func(float64, ...string))) {
		c.own = append(c.own, viewMetric{prometheus.NewDesc("pgsidecar_"+name, help, labels, nil), prometheus.GaugeValue, read, nil})
	}
	single := func(name, help string, value func(f facts) float64) {
		own(name, help, nil, func(f facts, give func(float64, ...string)) { give(value(f)) })
	}
	singleMetrics(single)
	labelledMetrics(own)
	archiveMetrics(own)
	backupMetrics(own)
	siteMetrics(own)
	objectiveMetrics(own)
	c.like = patroniMetrics(s)
	own("info", "1, with the version as label.", []string{"cluster", "member", "version"}, func(_ facts, give func(float64, ...string)) {
		give(1, s.cluster, s.member, s.version)
	})
	return c
}

// number turns a claim into a value.
func number(claim bool) float64 {
	if claim {
		return 1
	}
	return 0
}

func singleMetrics(single func(name, help string, value func(f facts) float64)) {
	rec := func(f facts) *ha.Record { return &f.Observation.Consul.Record }
	single("primary", "1 while this member's server takes writes within its lease.", func(f facts) float64 { return number(f.primary()) })
	single("term", "Number of the newest election.", func(f facts) float64 { return float64(rec(f).Term) })
	single("promised_term", "Highest term promised on disk.", func(f facts) float64 { return float64(f.Observation.Server.Promise) })
	single("timeline", "Timeline of this member's server.", func(f facts) float64 { return float64(f.Observation.Server.Position.TLI) })
	single("lease_seconds", "Seconds left of the lease in which this member may serve as primary; 0: none.", func(f facts) float64 {
		if f.leader() != f.self() {
			return 0
		}
		return f.leaseLeft()
	})
	single("decision_age_seconds", "Age of the last decision; it is made at least once a second.", func(f facts) float64 { return f.age(f.Observation.Now) })
	single("consul_seen_seconds", "Age of the newest consistent read of the cluster's record; -1: never.", func(f facts) float64 {
		return f.age(f.Observation.Consul.SeenAt)
	})
	single("consul_reachable", "1 if the last request to Consul succeeded.", func(f facts) float64 { return number(f.Observation.Consul.Reachable == ha.Yes) })
	single("votes", "Other members that have voted in the newest term.", func(f facts) float64 { return float64(f.votes()) })
	single("votes_needed", "Votes that an election needs (S3).", func(f facts) float64 { return float64(rec(f).Durability.VotesNeeded()) })
	single("voters", "Members whose votes count.", func(f facts) float64 { return float64(len(rec(f).Durability.Voters)) })
	single("commit_copies", "How many voters hold each acknowledged commit; 0 in async mode.", func(f facts) float64 {
		if rec(f).Durability.Mode != ha.ModeQuorum {
			return 0
		}
		return float64(rec(f).Durability.K)
	})
	single("durability_k", "How many standbys the primary's server waits for at each commit, by synchronous_standby_names in effect; 0 elsewhere.", func(f facts) float64 {
		if !f.looked() {
			return 0
		}
		return float64(f.Observation.Server.Sync.K)
	})
	single("durability_relaxed", "1 if a setting of this primary's server acknowledges commits that a standby, or its own disk, may not have.", func(f facts) float64 {
		return number(f.looked() && f.Observation.Server.Relaxed != "")
	})
	single("cancelled_waits_total", "Commits whose wait for standbys was cancelled since the sidecar began: a failover may lose them.", func(f facts) float64 {
		return float64(f.Observation.Server.CancelledWaits)
	})
	single("strayed", "1 if this member's data has log that no term of this cluster wrote.", func(f facts) float64 { return number(f.strayed(f.self()) != "") })
	single("config_refused", "1 if PostgreSQL refuses to read one of its server's files.", func(f facts) float64 {
		return number(f.Observation.Server.ConfigProblem != "")
	})
	single("crashed_terms", "Terms in a row whose primary crashed, or stopped answering, soon after it began; from 3 on it is restarted in its place.", func(f facts) float64 {
		return float64(rec(f).Crashes)
	})
	single("paused", "1 in maintenance.", func(f facts) float64 { return number(f.paused()) })
	single("pending_restart", "1 if a parameter waits for a restart.", func(f facts) float64 { return number(f.Observation.Server.PendingRestart) })
	single("server_running", "1 if the postmaster runs, as reported by the guard.", func(f facts) float64 { return number(f.running()) })
	single("blocked", "Actions that a safety rule blocks; pgsidecar status lists them.", func(f facts) float64 { return float64(len(f.State.Blocks)) })
}

func labelledMetrics(own func(name, help string, labels []string, read func(f facts, give func(float64, ...string)))) {
	own("role", "1 for the role that this member has.", []string{"role"}, func(f facts, give func(float64, ...string)) {
		for _, role := range []ha.Role{ha.RoleStopped, ha.RoleReplica, ha.RoleCandidate, ha.RolePrimary} {
			give(number(f.State.Role == role), string(role))
		}
	})
	own("peer_link", "1 for the state of the stream from another member.", []string{"peer", "state"}, func(f facts, give func(float64, ...string)) {
		for _, p := range f.Observation.Peers {
			for _, name := range linkNames {
				give(number(linkName(&p) == name), p.Member, name)
			}
		}
	})
	own("peer_heard_seconds", "Age of another member's last report; -1: never.", []string{"peer"}, func(f facts, give func(float64, ...string)) {
		for _, p := range f.Observation.Peers {
			give(f.age(p.ReceivedAt), p.Member)
		}
	})
	own("peer_unreachable_total", "How often a silent member's host answered no connection attempt, before failover.failure_timeout was over.", []string{"peer"}, func(f facts, give func(float64, ...string)) {
		for peer, n := range f.PeersUnreachable {
			give(float64(n), peer)
		}
	})
	own("peer_refused_total", "What the mesh of streams refused, by cause.", []string{"cause"}, func(f facts, give func(float64, ...string)) {
		for cause, n := range f.PeersRefused {
			give(float64(n), cause)
		}
	})
	own("lag_bytes", "How far a replica is behind the leader's log: received, and replayed.", []string{"replica", "kind"}, func(f facts, give func(float64, ...string)) {
		for _, name := range f.members() {
			r, _ := f.reportOf(name)
			if name == f.leader() {
				continue
			}
			for kind, at := range map[string]ha.LSN{"received": r.Position.LSN, "replayed": cmp.Or(r.Replay, r.Position.LSN)} {
				if lag, known := f.lagOf(r.Position, at); known {
					give(float64(lag), name, kind)
				}
			}
		}
	})
	own("lag_seconds", "Since when a replica has not replayed what the leader's log has; 0: it has all of it.", []string{"replica"}, func(f facts, give func(float64, ...string)) {
		for _, name := range f.members() {
			r, _ := f.reportOf(name)
			if _, known := f.lagOf(r.Position, cmp.Or(r.Replay, r.Position.LSN)); known && name != f.leader() {
				give(f.lagTime(name), name)
			}
		}
	})
	own("block_seconds", "Since when safety forbids something.", []string{"what"}, func(f facts, give func(float64, ...string)) {
		var seen []string
		for _, b := range f.State.Blocks {
			if !slices.Contains(seen, b.What) {
				seen = append(seen, b.What)
				give(f.age(b.Since), b.What)
			}
		}
	})
}

// Describe implements prometheus.Collector.
func (c *viewCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range slices.Concat(c.own, c.like) {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *viewCollector) Collect(ch chan<- prometheus.Metric) {
	f, known := c.server.facts()
	if !known {
		return
	}
	for _, m := range slices.Concat(c.own, c.like) {
		m.read(f, func(value float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, value, slices.Concat(m.fixed, labels)...)
		})
	}
}

// patroniStates are the numbers of patroni_postgres_state that we have.
func patroniState(state string) float64 {
	switch state {
	case "initializing new cluster":
		return 0
	case "creating replica":
		return 4
	case "running":
		return 5
	case "starting":
		return 6
	case "start failed":
		return 8
	case "stopping":
		return 11
	case "crashed":
		return 14
	}
	return 12 // stopped
}

// patroniMetrics are those that dashboards for Patroni read.
func patroniMetrics(s *Server) []viewMetric {
	var all []viewMetric
	add := func(kind prometheus.ValueType, name, help string, value func(f facts) float64) {
		desc := prometheus.NewDesc("patroni_"+name, help, []string{"scope", "name"}, nil)
		all = append(all, viewMetric{desc, kind, func(f facts, give func(float64, ...string)) { give(value(f)) }, []string{s.cluster, s.member}})
	}
	gauge := func(name, help string, value func(f facts) float64) { add(prometheus.GaugeValue, name, help, value) }
	flag := func(name, help string, is func(f facts) bool) {
		gauge(name, "Value is 1 if "+help+", 0 otherwise.", func(f facts) float64 { return number(is(f)) })
	}
	counter := func(name, help string, value func(f facts) float64) { add(prometheus.CounterValue, name, help, value) }
	when := func(role ha.Tri, value func(f facts) ha.LSN) func(facts) float64 {
		return func(f facts) float64 {
			if !f.running() || f.Observation.Server.InRecovery != role {
				return 0
			}
			return float64(value(f))
		}
	}
	epoch := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return float64(t.UnixMicro()) / 1e6
	}
	position := func(f facts) ha.LSN { return f.Observation.Server.Position.LSN }
	version := 0
	for _, part := range strings.Split(patroniVersion, ".") {
		n, _ := strconv.Atoi(part) // a constant of ours
		version = version*100 + n
	}

	gauge("version", "Patroni semver without periods, of the Patroni whose API this is.", func(facts) float64 { return float64(version) })
	flag("postgres_running", "Postgres is running", func(f facts) bool { return f.serverState() == "running" })
	gauge("postmaster_start_time", "Epoch seconds since Postgres started.", func(f facts) float64 { return epoch(f.PostgresStarted) })
	flag("primary", "this node is the leader", facts.primary)
	counter("xlog_location", "Current location of the Postgres transaction log, 0 if this node is not the leader.", when(ha.No, position))
	flag("standby_leader", "this node is the standby_leader", facts.standbyLeader)
	flag("replica", "this node is a replica", func(f facts) bool { return f.role() == "replica" })
	flag("sync_standby", "this node is a sync standby", func(f facts) bool { return f.standing() == synced })
	flag("quorum_standby", "this node is a quorum standby", func(f facts) bool { return f.standing() == quorum })
	counter("xlog_received_location", "Current location of the received Postgres transaction log, 0 if this node is not a replica.", when(ha.Yes, position))
	counter("xlog_replayed_location", "Current location of the replayed Postgres transaction log, 0 if this node is not a replica.", when(ha.Yes, facts.replayed))
	gauge("xlog_replayed_timestamp", "Current timestamp of the replayed Postgres transaction log, 0 if null.", func(f facts) float64 { return epoch(f.ReplayedAt) })
	flag("xlog_paused", "the Postgres xlog is paused", func(f facts) bool { return f.ReplayPaused })
	flag("postgres_streaming", "Postgres is streaming", facts.streaming)
	flag("postgres_in_archive_recovery", "Postgres is replicating from archive", func(facts) bool { return false })
	gauge("postgres_server_version", "Version of Postgres (if running), 0 otherwise.", func(f facts) float64 { return float64(f.PostgresVersion) })
	flag("cluster_unlocked", "the cluster is unlocked", facts.unlocked)
	flag("failsafe_mode_is_active", "failsafe mode is active", facts.failsafe)
	flag("failsafe_mode_enabled", "failsafe mode is enabled", func(facts) bool { return true })
	flag("failsafe_member", "this node confirms a primary while the DCS is away", func(facts) bool { return true })
	gauge("failover_priority", "Failover priority of this node, 0 if it never leads.", func(f facts) float64 {
		priority, err := strconv.Atoi(f.Tags["failover_priority"])
		switch {
		case f.Tags["nofailover"] == "true":
			return 0
		case err != nil:
			return 1 // as Patroni's default
		}
		return float64(priority)
	})
	gauge("postgres_timeline", "Postgres timeline of this node (if running), 0 otherwise.", func(f facts) float64 { return float64(f.Observation.Server.Position.TLI) })
	gauge("dcs_last_seen", "Epoch timestamp when DCS was last contacted successfully by Patroni.", func(f facts) float64 { return float64(f.consulSeen()) })
	flag("pending_restart", "the node needs a restart", func(f facts) bool { return f.Observation.Server.PendingRestart })
	flag("is_paused", "auto failover is disabled", facts.paused)
	gauge("postgres_state", "Numeric representation of Postgres state.", func(f facts) float64 { return patroniState(f.serverState()) })
	return all
}
