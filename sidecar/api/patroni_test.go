package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// busyView is a member's view of a cluster in which all is there that Patroni has a field
// for.
func busyView(self string) *api.View {
	v := viewOf(self)
	at := time.Date(2031, 1, 1, 12, 0, 0, 123456000, time.UTC)
	tags := map[string]string{"clonefrom": "true", "failover_priority": "10", "zone": "a"}
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		v.Report.Tags = append(v.Report.Tags, ha.Tag{Name: name, Value: tags[name]})
		for i := range v.Observation.Peers {
			r := &v.Observation.Peers[i].Report
			r.Tags = append(r.Tags, ha.Tag{Name: name, Value: tags[name]})
		}
	}
	wait := []ha.PendingValue{{Name: "max_connections", Now: "100", Wanted: "101"}}
	v.Tags = tags
	v.Report.Pending, v.Report.PendingWhat, v.Observation.Server.PendingRestart = true, wait, true
	v.Restarts = map[string]api.Restart{}
	for _, name := range []string{"n1", "n2", "n3"} {
		v.Restarts[name] = api.Restart{At: at, Role: "replica", PostgresVersion: "15.2", Pending: true, Timeout: time.Minute}
	}
	for i := range v.Observation.Peers {
		r := &v.Observation.Peers[i].Report
		r.Pending, r.PendingWhat = true, wait
	}
	v.Observation.Policy.Paused = true
	v.Observation.Consul.Reachable = ha.No
	v.Scheduled = &api.Schedule{At: at, From: "n1", To: "n2"}
	v.ReplayedAt = at
	v.Senders = []api.Sender{{Name: "n2", User: "replicator", Address: "10.0.0.2", State: "streaming", SyncState: "quorum", SyncPriority: 1}}
	return v
}

// kinds describes a JSON value: the names of an object's fields with what they hold.
func kinds(v any) string {
	switch v := v.(type) {
	case map[string]any:
		var all []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			all = append(all, key+":"+kinds(v[key]))
		}
		return "{" + strings.Join(all, " ") + "}"
	case []any:
		if len(v) == 0 {
			return "[]"
		}
		return "[" + kinds(v[0]) + "]"
	case string:
		return "text"
	case json.Number:
		return "number"
	case bool:
		return "truth"
	}
	return "null"
}

// The fields that Patroni 4.1.4 answers with where each of them is there, and what they hold.
const (
	commonFields = "database_system_identifier:text dcs_last_seen:number failsafe_mode_is_active:truth patroni:{name:text scope:text version:text} pause:truth pending_restart:truth " +
		"pending_restart_reason:{max_connections:{new_value:text old_value:text}} postmaster_start_time:text "
	senderFields   = "replication:[{application_name:text client_addr:text state:text sync_priority:number sync_state:text usename:text}] "
	restartFields  = "scheduled_restart:{postgres_version:text restart_pending:truth role:text schedule:text timeout:number} "
	tagFields      = "tags:{clonefrom:truth failover_priority:number zone:text}"
	primaryFields  = "{cluster_unlocked:truth " + commonFields + senderFields + "role:text " + restartFields + "server_version:number state:text " + tagFields + " timeline:number xlog:{location:number}}"
	replicaFields  = "{cluster_unlocked:truth " + commonFields + "quorum_standby:truth " + senderFields + "replication_state:text role:text " + restartFields + "server_version:number state:text " + tagFields + " timeline:number xlog:{paused:truth received_location:number replayed_location:number replayed_timestamp:text}}"
	memberFields   = "api_url:text host:text %sname:text pending_restart:truth pending_restart_reason:{max_connections:{new_value:text old_value:text}} port:number %srole:text " + restartFields + "state:text " + tagFields + " timeline:number"
	positionFields = "receive_lag:number receive_lsn:text replay_lag:number replay_lsn:text "
)

// TestPatroniFields: /patroni and /cluster have the fields of Patroni 4.1, each of its kind.
func TestPatroniFields(t *testing.T) {
	for self, want := range map[string]string{"n1": primaryFields, "n2": replicaFields} {
		if got := kinds(fields(t, newBench(t, busyView(self), nil), "/patroni")); got != want {
			t.Errorf("/patroni of %s:\ngot  %s\nwant %s", self, got, want)
		}
		cluster := fields(t, newBench(t, busyView(self), nil), "/cluster").(map[string]any)
		for i, member := range cluster["members"].([]any) {
			want := "{" + fmt.Sprintf(memberFields, "lag:number lsn:text ", positionFields) + "}"
			if i == 0 {
				want = "{" + fmt.Sprintf(memberFields, "", "") + "}"
			}
			if got := kinds(member); got != want {
				t.Errorf("/cluster of %s, member %d:\ngot  %s\nwant %s", self, i, got, want)
			}
		}
		delete(cluster, "members")
		if got := kinds(cluster); got != "{pause:truth scheduled_switchover:{at:text from:text to:text} scope:text}" {
			t.Errorf("/cluster of %s: %s", self, got)
		}
	}
	if got := kinds(fields(t, newBench(t, busyView("n1"), nil), "/failsafe")); got != "{n1:text n2:text n3:text}" {
		t.Errorf("/failsafe: %s", got)
	}
}

func fields(t *testing.T, b *bench, path string) any {
	t.Helper()
	d := json.NewDecoder(b.ask(http.MethodGet, path).Body)
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestPatroniValues: what a field holds where it is not what one would guess.
func TestPatroniValues(t *testing.T) {
	for name, c := range map[string]struct {
		self   string
		change func(v *api.View)
		path   string
		want   []string // parts of the answer
		not    []string
	}{
		"a schedule has microseconds": {"n1", func(v *api.View) { *v = *busyView("n1") }, "/patroni", []string{`"schedule":"2031-01-01T12:00:00.123456+00:00"`, `"timeout":60`}, nil},
		"a local socket":              {"n1", nil, "/patroni", []string{`"client_addr":null`, `"client_addr":"10.0.0.2"`}, nil},
		"a replica in the middle": {"n2", func(v *api.View) {
			v.Senders = []api.Sender{{Name: "n3", User: "replicator", State: "streaming", SyncState: "async"}}
		}, "/patroni",
			[]string{`"application_name":"n3"`}, nil},
		"nothing replayed": {"n2", nil, "/patroni", []string{`"replayed_timestamp":null`}, nil},
		"a stopped server has no timeline": {"n2", func(v *api.View) { v.Observation.Server.Process = ha.ProcessStopped }, "/patroni",
			[]string{`"state":"stopped"`, `"role":"replica"`}, []string{`"timeline"`, `"xlog"`}},
		"a killed primary in maintenance": {"n1", func(v *api.View) {
			v.Observation.Policy.Paused = true
			v.Observation.Server.Process, v.Observation.Server.ExitedAt, v.Observation.Server.WasPrimary, v.Observation.Server.InRecovery = ha.ProcessStopped, start, true, ha.Unknown
		}, "/patroni", []string{`"state":"stopped"`, `"role":"primary"`}, nil},
		"Consul is away":  {"n1", func(v *api.View) { v.Observation.Consul.Reachable = ha.No }, "/primary", []string{`"cluster_unlocked":true`, `"failsafe_mode_is_active":true`}, nil},
		"Consul is there": {"n1", nil, "/primary", nil, []string{"cluster_unlocked", "failsafe_mode_is_active"}},
		"lag is of the received log, replay_lag of the replayed": {"n1", func(v *api.View) { v.Observation.Peers[0].Report.Replay = 0x2000000 }, "/cluster",
			[]string{`"receive_lag":0,"replay_lsn":"0/2000000","replay_lag":16777216,"lsn":"0/3000000","lag":0`}, nil},
		"a member that was never heard": {"n1", func(v *api.View) { v.Observation.Peers[1] = ha.Peer{Member: "n3"} }, "/cluster",
			[]string{`"receive_lsn":"unknown","receive_lag":"unknown","replay_lsn":"unknown","replay_lag":"unknown","lsn":"unknown","lag":"unknown"`}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			v := viewOf(c.self)
			if c.change != nil {
				c.change(v)
			}
			got := newBench(t, v, nil).ask(http.MethodGet, c.path).Body.String()
			for _, part := range c.want {
				if !strings.Contains(got, part) {
					t.Errorf("no %s in %s", part, got)
				}
			}
			for _, part := range c.not {
				if strings.Contains(got, part) {
					t.Errorf("%s in %s", part, got)
				}
			}
		})
	}
}

// TestPatroniHistory: a row is a timeline that ended.
func TestPatroniHistory(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 179680000, time.UTC)
	v := viewOf("n1")
	v.History = []failover.Record{{Term: 1, Leader: "n1", Timeline: 1, Announced: at, Reason: "the cluster is founded"}}
	if got := newBench(t, v, nil).ask(http.MethodGet, "/history").Body.String(); got != "[]\n" {
		t.Errorf("at first: %s", got)
	}
	v.History = append(v.History,
		failover.Record{Term: 2, Leader: "n2", From: "n1", Timeline: 2, Forked: 0x2000060, Announced: at, Reason: "as asked"},
		failover.Record{Term: 3, Leader: "n2", From: "n2", Timeline: 2, Announced: at, Reason: "the lock was lost"},
		failover.Record{Term: 4, Leader: "n3", From: "n2", Timeline: 4, Forked: 0x3000000, Announced: at, Reason: "n2 was lost"})
	want := `[[1,33554528,"as asked","2026-01-01T00:00:00.179680+00:00","n2"],[2,50331648,"n2 was lost","2026-01-01T00:00:00.179680+00:00","n3"]]` + "\n"
	if got := newBench(t, v, nil).ask(http.MethodGet, "/history").Body.String(); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	v.History = v.History[3:] // the oldest are not kept
	if got := newBench(t, v, nil).ask(http.MethodGet, "/history").Body.String(); !strings.HasPrefix(got, "[[3,50331648,") {
		t.Errorf("without what was before: %s", got)
	}
}

// TestPatroniPaths: an ending slash, and tags asked of every path but the primary's.
func TestPatroniPaths(t *testing.T) {
	v := busyView("n1")
	b := newBench(t, v, nil)
	for path, want := range map[string]int{
		"/primary/": 200, "/leader/": 200, "/health/": 200, "/patroni/": 200, "/cluster/": 200, "/metrics/": 200, "//": 200, "/config/": 200, "/nothing/": 404, "/nothing": 404,
		"/read-only?tag_zone=a": 200, "/read-only?tag_zone=b": 503, "/read-only-sync?tag_zone=b": 503, "/read-only-quorum?tag_zone=b": 503,
		"/health?tag_zone=a": 200, "/health?tag_zone=b": 503, "/primary?tag_zone=b": 200, "/leader?tag_zone=b": 200, "/read-write?tag_zone=b": 200,
		"/health?tag_clonefrom=true": 200, "/health?tag_failover_priority=10": 200,
	} {
		if w := b.ask(http.MethodGet, path); w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
	v = viewOf("n2")
	v.Lagging = true
	b = newBench(t, v, nil)
	for path, want := range map[string]int{"/replica": 503, "/read-only": 503, "/replica?lag=1TB": 200, "/quorum": 503, "/health": 200, "/readiness": 200} {
		if w := b.ask(http.MethodGet, path); w.Code != want {
			t.Errorf("a lagging replica, %s: %d, want %d", path, w.Code, want)
		}
	}
}

// TestScheduleForms: the times that Patroni's clients send.
func TestScheduleForms(t *testing.T) {
	noon := time.Date(2099, 9, 24, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]int{
		"2099-09-24T12:00+00": 202, "2099-09-24T12:00:00+00:00": 202, "2099-09-24T14:00:00+0200": 202, "2099-09-24 12:00 UTC": 202, "2099-09-24 12:00:00 GMT": 202,
		"20990924T120000Z": 202, "2099-09-24T12:00:00.000000+00:00": 202, "2099-09-24T14:00 +02": 202, "2099-09-24 07:00:00 -05:00": 202,
		"2099-09-24T12:00:00": 400, "20990924T120000": 400, "2099-09-24 12:00": 400, "2001-09-24T12:00Z": 422, "2099-09-24 12:00 CET": 422, "tomorrow": 422, "": 422, "Z": 422, "UTC": 422,
	} {
		c := &control{}
		b := newBench(t, viewOf("n1"), func(o *api.Options) { o.Control = c })
		w := b.send("POST", "/switchover", bearer, `{"leader":"n1","candidate":"n2","scheduled_at":"`+text+`"}`)
		if text == "" {
			w = b.send("POST", "/restart", bearer, `{"schedule":""}`)
		}
		if w.Code != want {
			t.Errorf("%q: %d %s, want %d", text, w.Code, w.Body, want)
		}
		if want == 202 && !strings.HasSuffix(c.last(), noon.Format(time.RFC3339)) {
			t.Errorf("%q: %s", text, c.last())
		}
	}
}

// TestSecondRestart: one that is planned is not replaced unnoticed.
func TestSecondRestart(t *testing.T) {
	v := viewOf("n2")
	v.Restarts = map[string]api.Restart{"n2": {At: time.Now().Add(time.Hour)}}
	c := &control{}
	b := newBench(t, v, func(o *api.Options) { o.Control = c })
	w := b.send("POST", "/restart", bearer, `{"schedule":"2099-01-01T00:00Z"}`)
	if w.Code != http.StatusConflict || w.Body.String() != "Another restart is already scheduled" || c.last() != "" {
		t.Errorf("%d %s, asked %q", w.Code, w.Body, c.last())
	}
	if w := b.send("POST", "/restart", bearer, `{}`); w.Code != http.StatusOK {
		t.Errorf("one now: %d %s", w.Code, w.Body)
	}
}

// TestStandbyLeader: who leads a standby cluster is standby_leader, and neither primary nor
// replica, as with Patroni; the others are replicas.
func TestStandbyLeader(t *testing.T) {
	other := following()
	other.Observation.Consul.Record.Leader = "n2"
	for _, c := range []struct {
		name  string
		view  *api.View
		role  string
		paths map[string]int
	}{
		{"the leader", following(), "standby_leader", map[string]int{"/leader": 200, "/standby-leader": 200, "/standby_leader": 200,
			"/read-only": 200, "/primary": 503, "/replica": 503, "/async": 503, "/health": 200}},
		{"another", other, "replica", map[string]int{"/leader": 503, "/standby-leader": 503, "/standby_leader": 503,
			"/read-only": 200, "/primary": 503, "/replica": 200, "/async": 200, "/health": 200}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.view.Observation.Server.InRecovery, c.view.Report.Writable = ha.Yes, false
			b := newBench(t, c.view, nil)
			for path, want := range c.paths {
				if got := b.ask(http.MethodGet, path).Code; got != want {
					t.Errorf("%s: %d, want %d", path, got, want)
				}
			}
			if role := object(t, b.ask(http.MethodGet, "/patroni"))["role"]; role != c.role {
				t.Errorf("role %v, want %s", role, c.role)
			}
			metric := map[string]int{"standby_leader": 0, "replica": 0}
			metric[c.role] = 1
			text := b.ask(http.MethodGet, "/metrics").Body.String()
			for name, want := range metric {
				if !strings.Contains(text, fmt.Sprintf("patroni_%s{name=\"n1\",scope=\"pg\"} %d\n", name, want)) {
					t.Errorf("patroni_%s is not %d", name, want)
				}
			}
			leads := object(t, b.ask(http.MethodGet, "/cluster"))["members"].([]any)
			for _, m := range leads {
				m := m.(map[string]any)
				if leader := m["name"] == c.view.Observation.Consul.Record.Leader; leader != (m["role"] == "standby_leader") {
					t.Errorf("in /cluster %v is %v", m["name"], m["role"])
				}
			}
		})
	}
}
