package gather_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/assess"
	"github.com/pgsidecar/pgsidecar/sidecar/assess/gather"
	"github.com/pgsidecar/pgsidecar/sidecar/availability"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/drill"
)

// world is a cluster of three members, Consul, Prometheus and a runbook, all by HTTP.
type world struct {
	t        *testing.T
	statuses map[string]*api.Status // by member
	answers  map[string]any         // of every member, by path
	consul   map[string]any         // by path
	down     map[string]bool        // members that answer nothing

	prometheus string
	alerts     string
	client     *client.Client
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, statuses: map[string]*api.Status{}, answers: map[string]any{}, consul: map[string]any{}, down: map[string]bool{}, alerts: "PgsidecarNoPrimary"}
	var first string
	apis := map[string]string{}
	for _, name := range []string{"n1", "n2", "n3"} {
		s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.member(rw, r, name) }))
		t.Cleanup(s.Close)
		apis[name] = strings.TrimPrefix(s.URL, "http://")
	}
	first = apis["n1"]
	consul := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { reply(rw, w.consul[r.URL.Path]) }))
	t.Cleanup(consul.Close)
	prometheus := httptest.NewServer(http.HandlerFunc(w.asPrometheus))
	t.Cleanup(prometheus.Close)
	w.prometheus = prometheus.URL
	w.fill(apis)
	w.client = client.New(client.Options{Addresses: []string{first},
		Registry: client.RegistryAt(strings.TrimPrefix(consul.URL, "http://"), "pg", "pg", func(string) string { return "" })})
	return w
}

// fill makes the best cluster of it.
func (w *world) fill(apis map[string]string) {
	now := time.Now()
	var members []api.MemberStatus
	var nodes, proxies []any
	for i, name := range []string{"n1", "n2", "n3"} {
		members = append(members, api.MemberStatus{Member: name, API: apis[name], Postgres: "127.0.0.1:5432", Oddities: api.Oddities{Zone: []string{"east", "east", "west"}[i]},
			Streaming: i > 0, Writable: i == 0, Eligible: true, Recorded: true, Link: []string{"self", "up", "up"}[i]})
		w.statuses[name] = &api.Status{Cluster: "pg", Member: name, Leader: "n1", Term: 3, Traces: true, Scraped: &api.Scraped{Age: 10, Program: "Prometheus/3.1", Host: "10.0.0.9"}}
		nodes = append(nodes, instance("pg-"+name, "host"+name, map[string]string{"member": name, "cluster": "pg", "prefix": "pgsidecar"}))
		proxies = append(proxies, instance("pg-proxy-"+name, "app"+name, map[string]string{"haproxy": "1", "pgbouncer": "1"}))
	}
	for _, st := range w.statuses {
		st.Members = members
	}
	leader := w.statuses["n1"]
	leader.InEffect = &api.InEffect{K: 1, Names: []string{"n2", "n3"}}
	leader.Archive = &api.Archive{Engine: "pgbackrest", Leads: true}
	leader.Backups = []api.BackupStatus{{Name: "main", Engine: "pgbackrest", Good: &backup.Backup{Stop: now.Add(-time.Hour)}, Next: now.Add(time.Hour),
		Verified: &api.Verified{Good: &api.Verification{Label: "b", By: "n2", Ended: now.Add(-24 * time.Hour)}}}}
	leader.Site = &api.SiteStatus{Name: "dc2", Heard: -1, Answered: 1, Epoch: 2, Streams: true, Behind: new(uint64)} // its servers are standbys
	w.answers["/backup"] = []api.BackupList{{Name: "main", Continuity: &backup.Continuity{Windows: []backup.Window{{From: now.Add(-time.Hour), To: now}}}}}
	w.answers["/availability"] = api.Availability{Objective: &availability.Objective{Availability: .9999, RTO: 1}, Budget: &availability.Budget{Left: 200}}
	w.answers["/config"] = map[string]string{"runbook": ""}
	w.answers["/drill"] = drill.Last{Scenario: "primary-killed", At: now.Add(-24 * time.Hour), Passed: true, RTOMs: 640}
	w.consul["/v1/status/peers"] = []string{"a", "b", "c"}
	w.consul["/v1/health/service/pg"] = nodes
	w.consul["/v1/health/service/pg-proxy"] = proxies
}

func instance(id, node string, meta map[string]string) any {
	return map[string]any{"Node": map[string]any{"Node": node, "Address": "127.0.0.1"}, "Service": map[string]any{"ID": id, "Service": "pg", "Port": 5432, "Meta": meta},
		"Checks": []any{map[string]string{"Status": "passing"}}}
}

func reply(rw http.ResponseWriter, v any) {
	if v == nil {
		http.Error(rw, "nothing here", http.StatusNotFound)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(v)
}

func (w *world) member(rw http.ResponseWriter, r *http.Request, name string) {
	if w.down[name] {
		panic(http.ErrAbortHandler)
	}
	if r.URL.Path == "/status" {
		reply(rw, w.statuses[name])
		return
	}
	reply(rw, w.answers[r.URL.Path])
}

func (w *world) asPrometheus(rw http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/api/v1/rules":
		reply(rw, map[string]any{"status": "success", "data": map[string]any{"groups": []any{map[string]any{"rules": []any{map[string]string{"name": w.alerts}}}}}})
	case "/api/v1/alertmanagers":
		reply(rw, map[string]any{"status": "success", "data": map[string]any{"activeAlertmanagers": []any{map[string]string{"url": "http://am:9093"}}}})
	default:
		reply(rw, nil)
	}
}

func (w *world) judge() assess.Report {
	w.t.Helper()
	e, err := gather.Evidence(w.t.Context(), gather.Sources{Client: w.client, Prometheus: w.prometheus})
	if err != nil {
		w.t.Fatal(err)
	}
	return assess.Judge(e)
}

// gap makes one in the archive, whose last window begins at position 5.
func (w *world) gap(g backup.Gap) {
	now := time.Now()
	w.answers["/backup"] = []api.BackupList{{Name: "main", Continuity: &backup.Continuity{Gaps: []backup.Gap{g},
		Windows: []backup.Window{{From: now.Add(-time.Hour), To: now, Start: 5}}}}}
}

func answer(r assess.Report, id string) assess.Line {
	i := slices.IndexFunc(r.Lines, func(l assess.Line) bool { return l.ID == id })
	return r.Lines[i]
}

// TestEverything: of a cluster that has everything each line is yes.
func TestEverything(t *testing.T) {
	w := newWorld(t)
	var asked atomic.Int32
	wiki := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		http.Error(rw, "log in", http.StatusUnauthorized)
	}))
	defer wiki.Close()
	w.answers["/config"] = map[string]string{"runbook": wiki.URL}
	r := w.judge()
	for _, l := range r.Lines {
		if l.Answer != assess.Yes {
			t.Errorf("%+v", l)
		}
	}
	if r.Level != assess.MaxLevel || asked.Load() != 1 {
		t.Errorf("level %d, the runbook was asked %d times", r.Level, asked.Load())
	}
	if got := answer(r, "three-hosts").Evidence; got != "3 hosts: hostn1, hostn2, hostn3" {
		t.Errorf("hosts by Consul's nodes: %q", got)
	}
}

// TestUnseen: what does not answer is unknown, and never yes.
func TestUnseen(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *world)
		want   map[string]assess.Answer
	}{
		"a silent member":            {func(w *world) { w.down["n3"] = true }, map[string]assess.Answer{"monitored": assess.NotKnown, "tracing": assess.NotKnown, "two-standbys": assess.Yes}},
		"a member that nobody reads": {func(w *world) { w.statuses["n3"].Scraped = nil }, map[string]assess.Answer{"monitored": assess.No}},
		"a member without traces":    {func(w *world) { w.statuses["n2"].Traces = false }, map[string]assess.Answer{"tracing": assess.No}},
		"Consul is away": {func(w *world) { clear(w.consul) }, map[string]assess.Answer{"consul": assess.NotKnown, "haproxy": assess.NotKnown,
			"three-hosts": assess.No}}, // all are 127.0.0.1 then
		"no proxy": {func(w *world) { w.consul["/v1/health/service/pg-proxy"] = []any{} }, map[string]assess.Answer{"haproxy": assess.No, "pooling": assess.No}},
		"a member's HAProxy": {func(w *world) {
			w.consul["/v1/health/service/pg-proxy"] = []any{}
			w.statuses["n2"].Templates = json.RawMessage(`{"haproxy":[{"connected":true}],"pgbouncer":[]}`)
			w.statuses["n3"].Templates = json.RawMessage(`{"haproxy":[{"connected":false}],"pgbouncer":[]}`)
		}, map[string]assess.Answer{"haproxy": assess.Yes, "two-proxies": assess.No, "pooling": assess.No}},
		"other rules":        {func(w *world) { w.alerts = "DiskFull" }, map[string]assess.Answer{"alerts": assess.No}},
		"no Prometheus":      {func(w *world) { w.prometheus = "" }, map[string]assess.Answer{"alerts": assess.NotKnown}},
		"another's web page": {func(w *world) { w.prometheus += "/nothing" }, map[string]assess.Answer{"alerts": assess.NotKnown}},
		"no drill, no backup": {func(w *world) {
			delete(w.answers, "/drill")
			w.statuses["n1"].Backups, w.statuses["n1"].Archive = nil, nil
		}, map[string]assess.Answer{"drill": assess.No, "backup": assess.No, "archive": assess.No, "point-in-time": assess.No}},
		"the engine does not answer":               {func(w *world) { delete(w.answers, "/backup") }, map[string]assess.Answer{"point-in-time": assess.NotKnown, "archive": assess.Yes}},
		"a runbook that is gone":                   {func(w *world) { w.answers["/config"] = map[string]string{"runbook": w.prometheus + "/gone"} }, map[string]assess.Answer{"runbook": assess.Yes, "runbook-answers": assess.No}},
		"a gap behind the last window's beginning": {func(w *world) { w.gap(backup.Gap{Start: 10}) }, map[string]assess.Answer{"point-in-time": assess.No}},
		"a gap before it":                          {func(w *world) { w.gap(backup.Gap{Start: 2}) }, map[string]assess.Answer{"point-in-time": assess.Yes}},
		"no restore was proved":                    {func(w *world) { w.statuses["n1"].Backups[0].Verified = nil }, map[string]assess.Answer{"restore": assess.No, "drill": assess.Yes}},
		"the last proof failed": {func(w *world) {
			w.statuses["n1"].Backups[0].Verified.Failed = &api.Verification{By: "n3", Ended: time.Now(), Error: "no room"}
		}, map[string]assess.Answer{"restore": assess.No}},
		"a site that follows": {func(w *world) {
			leader := &w.statuses["n1"].Members[0] // all statuses have the same list
			leader.Writable, leader.Streaming = false, true
			w.statuses["n1"].Members[2].Streaming = false
		}, map[string]assess.Answer{"primary": assess.No, "standby": assess.Yes, "two-standbys": assess.No, "other-host": assess.Yes}},
		"a site that takes nothing":     {func(w *world) { w.statuses["n1"].Site.Streams = false }, map[string]assess.Answer{"remote": assess.No}},
		"settings that nobody can read": {func(w *world) { delete(w.answers, "/config") }, map[string]assess.Answer{"runbook": assess.NotKnown}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.change(w)
			r := w.judge()
			for id, want := range c.want {
				if got := answer(r, id); got.Answer != want {
					t.Errorf("want %s: %+v", want, got)
				}
			}
		})
	}
}

// TestNobody: that no member answers is an error.
func TestNobody(t *testing.T) {
	if _, err := gather.Evidence(t.Context(), gather.Sources{Client: client.New(client.Options{Addresses: []string{"127.0.0.1:1"}})}); err == nil {
		t.Error("no error")
	}
}
