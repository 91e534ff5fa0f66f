package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

const (
	second = ha.Instant(time.Second)
	start  = 1000 * second // the time of the fixtures' decision
)

// record is a cluster that n1 leads; commits wait for one of n2 and n3.
func record() ha.Record {
	return ha.Record{Version: 1, SystemID: "7412345678901234567", Term: 7, Leader: "n1", Timeline: 3, Phase: ha.PhaseLeading,
		Durability: ha.Durability{Mode: ha.ModeQuorum, K: 1, Voters: []string{"n2", "n3"}},
		Members:    []string{"n1", "n2", "n3"}, Index: 42}
}

func position(lsn ha.LSN) ha.Position { return ha.Position{TLI: 3, LSN: lsn} }

func reportOf(name string) ha.Report {
	r := ha.Report{Member: name, Seq: 1, Term: 7, Position: position(0x3000000), Eligible: true,
		Postgres: "10.0.0." + name[1:] + ":5432", API: "10.0.0." + name[1:] + ":8008", Version: "0.1.0"}
	if name == "n1" {
		r.Role, r.Serving, r.Writable = ha.RolePrimary, true, true
	} else {
		r.Role, r.Leader, r.Streaming, r.Hears = ha.RoleReplica, "n1", true, true
	}
	return r
}

// viewOf is what the member sees of a healthy cluster.
func viewOf(self string) *api.View {
	v := &api.View{Cluster: "pg", Report: reportOf(self), PostgresVersion: 150014,
		PostgresStarted: time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC),
		Config:          json.RawMessage(`{"zeta":1,"alpha":{"b":2}}`),
		History: []failover.Record{{Term: 7, Timeline: 2, Forked: 0x2000060, Reason: "n9 was lost", Leader: "n1",
			Announced: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}},
		PeersRefused: map[string]uint64{"forged": 3}, PeersUnreachable: map[string]uint64{"n2": 2},
	}
	o := &v.Observation
	o.Now, o.Self = start, self
	o.Policy = ha.Policy{Mode: ha.ModeQuorum, Standbys: 1, FailureTimeout: 2 * time.Second, Lease: 5 * time.Second}
	o.Consul = ha.Consul{SeenAt: start, Record: record(), Reachable: ha.Yes, Lock: ha.Lock{Holder: "n1", Session: "s1", Index: 5}, Session: "s" + self[1:]}
	o.Server = ha.Server{
		Postmaster: ha.Postmaster{Process: ha.ProcessRunning, StartedAt: 1},
		Files:      ha.Files{DataDir: ha.DataPresent, SystemID: record().SystemID},
		SQL:        ha.SQL{SeenAt: start, Position: position(0x3000000)},
	}
	if self == "n1" {
		v.State.Role, v.State.LeaseUntil = ha.RolePrimary, start+5*second
		o.Server.InRecovery, o.Server.Writable, o.Server.Armed, o.Server.LeaseUntil = ha.No, ha.Yes, true, start+5*second
		o.Server.Walsenders = []ha.Walsender{{Member: "n2", Streaming: true, Sync: true, Flush: 0x3000000}, {Member: "n3", Streaming: true}}
		v.Senders = []api.Sender{{Name: "n2", User: "replicator", Address: "10.0.0.2", State: "streaming", SyncState: "quorum", SyncPriority: 1},
			{Name: "n3", User: "replicator", State: "streaming", SyncState: "async"}}
	} else {
		v.State.Role, v.State.Hears = ha.RoleReplica, true
		o.Server.InRecovery, o.Server.Receiving, o.Server.Upstream = ha.Yes, ha.Yes, "n1"
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		if name != self {
			o.Peers = append(o.Peers, ha.Peer{Member: name, Link: ha.LinkUp, ReceivedAt: start, Report: reportOf(name)})
		}
	}
	return v
}

// bench is a server whose view and clock a test moves.
type bench struct {
	*api.Server
	view atomic.Pointer[api.View]
	now  atomic.Int64
}

func newBench(t testing.TB, v *api.View, change func(*api.Options)) *bench {
	t.Helper()
	b := &bench{}
	b.view.Store(v)
	b.now.Store(int64(start + second/10))
	name := "n1"
	if v != nil {
		name = v.Observation.Self
	}
	o := api.Options{Member: name, Cluster: "pg", Version: "0.1.0", Listen: "127.0.0.1:0",
		View: b.view.Load, Now: func() ha.Instant { return ha.Instant(b.now.Load()) },
		Token: func() (string, error) { return "letmein", nil }}
	if change != nil {
		change(&o)
	}
	var err error
	if b.Server, err = api.New(o); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) ask(method, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	b.Handler().ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w
}

// run serves on a real port until the test ends.
func (b *bench) run(t testing.TB) string {
	t.Helper()
	addr, err := b.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error)
	go func() { ran <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	return addr.String()
}

var healthPaths = []string{"/", "/primary", "/read-write", "/master", "/leader", "/standby-leader", "/standby_leader", "/replica",
	"/read-only", "/sync", "/synchronous", "/read-only-sync", "/read-only-synchronous", "/quorum", "/read-only-quorum",
	"/async", "/asynchronous", "/health", "/liveness", "/readiness"}

func TestHealth(t *testing.T) {
	primary := []string{"/", "/primary", "/read-write", "/master", "/leader", "/read-only", "/read-only-sync",
		"/read-only-synchronous", "/read-only-quorum", "/health", "/liveness", "/readiness"}
	quorum := []string{"/replica", "/read-only", "/quorum", "/read-only-quorum", "/health", "/liveness", "/readiness"}
	synced := append([]string{"/sync", "/synchronous", "/read-only-sync", "/read-only-synchronous"}, quorum...)
	async := []string{"/replica", "/read-only", "/async", "/asynchronous", "/health", "/liveness", "/readiness"}
	alive := []string{"/liveness"}
	well := []string{"/health", "/liveness"}

	tests := map[string]struct {
		self   string
		change func(v *api.View)
		after  time.Duration // since the decision
		want   []string
	}{
		"primary":                      {self: "n1", want: primary},
		"primary near its lease's end": {self: "n1", after: 4900 * time.Millisecond, want: primary},
		"primary past its lease":       {self: "n1", after: 5001 * time.Millisecond, want: well},
		"primary whose guard's lease ends sooner": {self: "n1", after: 2 * time.Second, want: well,
			change: func(v *api.View) { v.Observation.Server.LeaseUntil = start + second }},
		"primary not writable":         {self: "n1", change: func(v *api.View) { v.Report.Writable = false }, want: well},
		"primary of another's record":  {self: "n1", change: func(v *api.View) { v.Observation.Consul.Record.Leader = "n2" }, want: well},
		"primary whose server stopped": {self: "n1", change: func(v *api.View) { v.Observation.Server.Process = ha.ProcessStopped }, want: alive},
		"primary whose loop hangs":     {self: "n1", after: 11 * time.Second, want: nil},
		"primary paused, loop hangs": {self: "n1", after: 11 * time.Second, want: alive,
			change: func(v *api.View) { v.Observation.Policy.Paused = true }},

		"voter of ANY 1 (2)": {self: "n2", want: quorum},
		"voter of ANY 2 (2)": {self: "n2", change: func(v *api.View) { v.Observation.Consul.Record.Durability.K = 2 }, want: synced},
		"voter with the leader among the voters": {self: "n2", want: synced, change: func(v *api.View) {
			v.Observation.Consul.Record.Durability = ha.Durability{Mode: ha.ModeQuorum, K: 2, Voters: []string{"n1", "n2"}}
		}},
		"no voter":   {self: "n2", change: func(v *api.View) { v.Observation.Consul.Record.Durability.Voters = []string{"n3"} }, want: async},
		"async mode": {self: "n2", change: func(v *api.View) { v.Observation.Consul.Record.Durability.Mode = ha.ModeAsync }, want: async},
		"replica not streaming": {self: "n2", change: func(v *api.View) { v.Observation.Server.Receiving = ha.No },
			want: []string{"/replica", "/read-only", "/async", "/asynchronous", "/health", "/liveness"}},
		"replica far behind": {self: "n2", change: func(v *api.View) { v.Replay = 0x3000000 - 2<<20 },
			want: slices.DeleteFunc(slices.Clone(quorum), func(p string) bool { return p == "/readiness" })},
		"noloadbalance": {self: "n2", change: func(v *api.View) { v.Tags = map[string]string{"noloadbalance": "true"} },
			want: []string{"/health", "/liveness", "/readiness"}},
		"replica slow for a moment": {self: "n2", change: func(v *api.View) { v.Observation.Server.FailingSince = start - second }, want: quorum},
		"replica that does not answer": {self: "n2", change: func(v *api.View) { v.Observation.Server.FailingSince = start - 3*second },
			want: alive},
		"replica starting":         {self: "n2", change: func(v *api.View) { v.Observation.Server.SeenAt = 0 }, want: alive},
		"replica whose loop hangs": {self: "n2", after: 11 * time.Second, want: nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			v := viewOf(test.self)
			if test.change != nil {
				test.change(v)
			}
			b := newBench(t, v, nil)
			if test.after != 0 {
				b.now.Store(int64(start.Add(test.after)))
			}
			for _, path := range healthPaths {
				want := http.StatusServiceUnavailable
				if slices.Contains(test.want, path) {
					want = http.StatusOK
				}
				for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
					w := b.ask(method, path)
					if w.Code != want {
						t.Errorf("%s %s: %d, want %d", method, path, w.Code, want)
					}
					if method != http.MethodGet && w.Body.Len() != 0 {
						t.Errorf("%s %s: a body of %d bytes", method, path, w.Body.Len())
					}
				}
			}
		})
	}
}

func TestHealthBeforeTheFirstDecision(t *testing.T) {
	b := newBench(t, nil, nil)
	for _, path := range append(healthPaths, "/cluster", "/history", "/config", "/status") {
		if w := b.ask(http.MethodGet, path); w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	for path, want := range map[string]int{"/patroni": 200, "/metrics": 200, "/nothing": 404} {
		if w := b.ask(http.MethodGet, path); w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}

func TestReplicaQuery(t *testing.T) {
	v := viewOf("n2")
	v.Replay = 0x3000000 - 1000
	v.Tags = map[string]string{"zone": "a", "clonefrom": "true"}
	b := newBench(t, v, nil)
	for query, want := range map[string]int{
		"lag=1000": 200, "lag=999": 503, "lag=1kB": 200, "lag=0": 503, "lag=10MB": 200, "lag=1+kB": 200, "lag=0.5kB": 503, "lag=1TB": 200,
		"lag=": 200, "lag=-1": 400, "lag=x": 400, "lag=1XB": 400, "lag=NaN": 400, "lag=1e999": 400, "lag=Inf": 400, "lag=99999999TB": 400,
		"tag_zone=a": 200, "tag_zone=b": 503, "tag_clonefrom=true": 200, "tag_none=": 503, "tag_zone=a&lag=5000": 200,
		"replication_state=streaming": 200, "replication_state=other": 503, "replication_state=in+archive+recovery": 503, "replication_state=": 200, "whatever=1": 200, "lag=%zz": 200,
	} {
		if w := b.ask(http.MethodGet, "/replica?"+query); w.Code != want {
			t.Errorf("%s: %d, want %d", query, w.Code, want)
		}
	}
	for query, want := range map[string]int{"": 200, "lag=999": 503, "lag=999&mode=write": 200, "mode=apply": 200, "mode=x": 400, "lag=x": 400} {
		if w := b.ask(http.MethodHead, "/readiness?"+query); w.Code != want {
			t.Errorf("readiness %s: %d, want %d", query, w.Code, want)
		}
	}
	// Positions on different timelines cannot be compared: the lag is unknown.
	v = viewOf("n2")
	v.Observation.Peers[0].Report.Position.TLI = 4
	b.view.Store(v)
	if w := b.ask(http.MethodGet, "/replica?lag=1TB"); w.Code != 503 {
		t.Errorf("lag on another timeline: %d", w.Code)
	}
}

func object(t *testing.T, w *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%v in %s", err, w.Body)
	}
	return v
}

// What check_patroni, vip-manager and dashboards read.
func TestPatroniStatus(t *testing.T) {
	b := newBench(t, viewOf("n1"), nil)
	got := object(t, b.ask(http.MethodGet, "/patroni"))
	version := got["patroni"].(map[string]any)["version"].(string)
	var x, y, z int
	if n, err := fmt.Sscanf(version, "%d.%d.%d", &x, &y, &z); n != 3 || err != nil || fmt.Sprintf("%d.%d.%d", x, y, z) != version {
		t.Errorf("version %q is not three plain integers", version)
	}
	for key, want := range map[string]any{
		"state": "running", "role": "primary", "timeline": 3.0, "server_version": 150014.0,
		"postmaster_start_time": "2026-01-02 03:04:05.678900+00:00", "database_system_identifier": "7412345678901234567",
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	if got["xlog"].(map[string]any)["location"] != float64(0x3000000) {
		t.Errorf("xlog: %v", got["xlog"])
	}
	if len(got["replication"].([]any)) != 2 {
		t.Errorf("replication: %v", got["replication"])
	}
	for _, absent := range []string{"pause", "pending_restart", "cluster_unlocked", "sync_standby", "quorum_standby"} {
		if v, there := got[absent]; there {
			t.Errorf("%s is %v", absent, v)
		}
	}

	v := viewOf("n2")
	v.Observation.Policy.Paused, v.Observation.Server.PendingRestart = true, true
	v.Tags = map[string]string{"clonefrom": "true"}
	got = object(t, newBench(t, v, nil).ask(http.MethodGet, "/replica"))
	for key, want := range map[string]any{"role": "replica", "replication_state": "streaming", "quorum_standby": true, "pause": true, "pending_restart": true} {
		if got[key] != want {
			t.Errorf("replica: %s is %v, want %v", key, got[key], want)
		}
	}
	if got["xlog"].(map[string]any)["received_location"] != float64(0x3000000) || got["tags"].(map[string]any)["clonefrom"] != true {
		t.Errorf("replica: %v", got)
	}
}

func TestPatroniCluster(t *testing.T) {
	v := viewOf("n1")
	v.Observation.Peers[0].Report.Replay = 0x3000000 - 100
	v.Observation.Peers[1].Link = ha.LinkRefused
	v.Scheduled = &api.Schedule{At: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), From: "n1", To: "n2"}
	got := object(t, newBench(t, v, nil).ask(http.MethodGet, "/cluster"))
	members := got["members"].([]any)
	if len(members) != 3 || got["scope"] != "pg" {
		t.Fatalf("%v", got)
	}
	for i, want := range []map[string]any{
		{"name": "n1", "role": "leader", "state": "running", "timeline": 3.0, "host": "10.0.0.1", "port": 5432.0, "api_url": "http://10.0.0.1:8008/patroni"},
		{"name": "n2", "role": "quorum_standby", "state": "streaming", "timeline": 3.0, "lag": 0.0, "receive_lag": 0.0, "replay_lag": 100.0, "replay_lsn": "0/2FFFF9C"},
		{"name": "n3", "role": "quorum_standby", "state": "unreachable", "lag": "unknown"},
	} {
		m := members[i].(map[string]any)
		for key, value := range want {
			if m[key] != value {
				t.Errorf("%v: %s is %v, want %v", want["name"], key, m[key], value)
			}
		}
		if _, there := m["lag"]; there != (i != 0) {
			t.Errorf("%v: lag is there: %t", want["name"], there)
		}
	}
	if at := got["scheduled_switchover"].(map[string]any)["at"]; at != "2030-01-01T00:00:00+00:00" {
		t.Errorf("scheduled at %v", at)
	}
	// check_patroni hashes it: the keys keep their order.
	if w := newBench(t, viewOf("n1"), nil).ask(http.MethodGet, "/config"); w.Body.String() != `{"zeta":1,"alpha":{"b":2}}` {
		t.Errorf("config: %s", w.Body)
	}
}

func TestMetrics(t *testing.T) {
	r := api.NewRecorder()
	r.ConsulRequest("commit", time.Millisecond, errors.New("x"))
	r.FailoverPhase("promoted", 40*time.Millisecond)
	r.Rule("ballot")
	r.Rule("ballot")
	v := viewOf("n1")
	v.Behind = map[string]ha.Instant{"n3": start - 3*second}
	v.Observation.Server.Sync.K, v.Observation.Server.Relaxed, v.Report.Strayed = 1, "fsync = off", "promoted by hand"
	v.Archive = &api.Archive{Leads: true, Files: 3, Bytes: 48 << 20, Oldest: 90, FullIn: new(3600.0), Gaps: []string{"a"}}
	b := newBench(t, v, func(o *api.Options) { o.Recorder = r })
	b.ask(http.MethodHead, "/primary")
	b.ask(http.MethodGet, "/../../etc/passwd")
	text := b.ask(http.MethodGet, "/metrics").Body.String()
	for _, line := range []string{
		`pgsidecar_primary 1`, `pgsidecar_term 7`, `pgsidecar_lease_seconds 4.9`, `pgsidecar_role{role="primary"} 1`,
		`pgsidecar_peer_link{peer="n2",state="up"} 1`, `pgsidecar_lag_bytes{kind="replayed",replica="n2"} 0`,
		`pgsidecar_durability_k 1`, `pgsidecar_durability_relaxed 1`, `pgsidecar_strayed 1`, `pgsidecar_crashed_terms 0`, `pgsidecar_config_refused 0`,
		`pgsidecar_archive_waiting_files 3`, `pgsidecar_archive_waiting_bytes 5.0331648e+07`, `pgsidecar_archive_waiting_seconds 90`,
		`pgsidecar_archive_disk_full_seconds 3600`, `pgsidecar_archive_gaps 1`,
		`pgsidecar_lag_seconds{replica="n2"} 0`, `pgsidecar_lag_seconds{replica="n3"} 3.1`,
		`pgsidecar_peer_refused_total{cause="forged"} 3`, `pgsidecar_peer_unreachable_total{peer="n2"} 2`, `pgsidecar_info{cluster="pg",member="n1",version="0.1.0"} 1`,
		`pgsidecar_consul_errors_total{operation="commit"} 1`, `pgsidecar_rule_total{rule="ballot"} 2`, `pgsidecar_failover_phase_seconds_count{phase="promoted"} 1`,
		`pgsidecar_api_requests_total{path="/primary",status="200"} 1`, `pgsidecar_api_requests_total{path="other",status="404"} 1`,
		`patroni_version{name="n1",scope="pg"} 40104`, `patroni_primary{name="n1",scope="pg"} 1`, `patroni_postgres_state{name="n1",scope="pg"} 5`,
		`patroni_xlog_location{name="n1",scope="pg"} 5.0331648e+07`, `# TYPE patroni_xlog_location counter`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	for _, name := range []string{"postgres_running", "postmaster_start_time", "standby_leader", "replica", "sync_standby", "quorum_standby",
		"xlog_received_location", "xlog_replayed_location", "xlog_replayed_timestamp", "xlog_paused", "postgres_streaming",
		"postgres_in_archive_recovery", "postgres_server_version", "cluster_unlocked", "failsafe_mode_is_active", "postgres_timeline",
		"dcs_last_seen", "pending_restart", "is_paused", "failsafe_mode_enabled", "failsafe_member", "failover_priority"} {
		if !strings.Contains(text, "\npatroni_"+name+"{") {
			t.Errorf("no metric patroni_%s", name)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// lines collects what is logged.
type lines struct{ atomic.Pointer[[]string] }

func (l *lines) Write(b []byte) (int, error) {
	for {
		old := l.Load()
		var all []string
		if old != nil {
			all = slices.Clone(*old)
		}
		all = append(all, string(b))
		if l.CompareAndSwap(old, &all) {
			return len(b), nil
		}
	}
}

func (l *lines) all() string {
	if p := l.Load(); p != nil {
		return strings.Join(*p, "")
	}
	return ""
}

func (l *lines) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: l, Level: hclog.Debug})
}
