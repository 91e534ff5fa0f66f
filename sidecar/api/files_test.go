package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/availability"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// TestFilesNameWhatIsExported: each metric, and each value of a label, that the
// alert rules and the dashboard ask for is one that a member exports.
func TestFilesNameWhatIsExported(t *testing.T) {
	// What pgsidecar proxy exports, beside its templates.
	text := allMetrics(t) + "pgsidecar_template_ok{template=\"haproxy\"} 1\npgsidecar_pgbouncer_ok{address=\"127.0.0.1:6432\"} 1\n"
	exported := func(name, selector string) bool {
		for line := range strings.Lines(text) {
			if rest, ok := strings.CutPrefix(line, name); ok && strings.ContainsAny(rest[:1], "{ ") && strings.Contains(line, selector) {
				return true
			}
		}
		return false
	}
	reference := regexp.MustCompile(`(pgsidecar_[a-z_]+)(?:\{(\w+="\w+")\})?`)
	for name, file := range map[string]string{"alerts.yml": api.Alerts(), "grafana.json": strings.ReplaceAll(api.Dashboard(), `\"`, `"`)} {
		found := reference.FindAllStringSubmatch(file, -1)
		if len(found) < 15 {
			t.Errorf("%s: only %d metrics", name, len(found))
		}
		for _, m := range found {
			if !exported(m[1], m[2]) {
				t.Errorf("%s: nothing like %s is exported", name, m[0])
			}
		}
	}
	if exported("pgsidecar_nonsense", "") || exported("pgsidecar_primar", "") || exported("pgsidecar_lag_bytes", `kind="flushed"`) {
		t.Error("a metric that does not exist is found")
	}
}

// allMetrics is what a member exports once everything has happened that it
// counts.
func allMetrics(t *testing.T) string {
	t.Helper()
	r := api.NewRecorder()
	failure := errors.New("x")
	r.ConsulRequest("commit", time.Millisecond, failure)
	r.FailoverPhase("promoted", time.Millisecond)
	r.LeaderChange("failover")
	r.Action("promote", time.Millisecond, failure)
	r.Check("look", failure)
	r.Rule("ballot")
	v := viewOf("n1")
	v.State.Blocks = []ha.Block{{What: "commits wait", Missing: "n2", Since: start - second}}
	v.Archive = &api.Archive{Leads: true, FullIn: new(1.0)}
	v.Backups = []api.BackupStatus{{Name: "main", Verified: &api.Verified{Age: -1}}}
	v.Objective = availability.Objective{Availability: 0.9999}
	v.Outages = []availability.Outage{{From: time.Now().Add(-time.Hour), To: time.Now().Add(-time.Minute), Kind: availability.Failover}}
	v.Observation.Policy.Sites = ha.Sites{StandbyOf: "pg@dc2", Witness: "dc3"}
	b := newBench(t, v, func(o *api.Options) { o.Recorder = r })
	b.ask(http.MethodPost, "/pause") // without a token
	return b.ask(http.MethodGet, "/metrics").Body.String() + newBench(t, following(), nil).ask(http.MethodGet, "/metrics").Body.String()
}

// following is n1 as the leader of a cluster that follows another site's, and lacks 80 bytes.
func following() *api.View {
	v := viewOf("n1")
	o := &v.Observation
	o.Policy.Sites = ha.Sites{StandbyOf: "pg@dc2"}
	o.Consul.Record.StandbyOf, o.Consul.Record.Leader = "pg@dc2", "n1"
	at := v.Report.Position
	at.LSN += 80
	o.Source = ha.Source{HeardAt: start - second, SeenAt: start - second, Address: "10.2.0.1:5432", SystemID: o.Consul.Record.SystemID, Position: at}
	v.ReplayedAt = time.Now().Add(-time.Minute)
	return v
}

// TestSiteMetrics: what is said of the other site, by the one that follows and by the one
// that takes the writes.
func TestSiteMetrics(t *testing.T) {
	text := newBench(t, following(), nil).ask(http.MethodGet, "/metrics").Body.String()
	for _, line := range []string{`pgsidecar_site_follows{site="pg@dc2"} 1`, `pgsidecar_site_lag_bytes{site="pg@dc2"} 80`, `pgsidecar_site_both{site="pg@dc2"} 0`,
		`pgsidecar_site_lag_seconds{site="pg@dc2"} 6`} {
		if !strings.Contains(text, line) {
			t.Errorf("no line %q", line)
		}
	}
	v := viewOf("n1")
	o := &v.Observation
	o.Policy.Sites = ha.Sites{StandbyOf: "pg@dc2", Witness: "dc3"}
	o.Source = ha.Source{HeardAt: start - second, SeenAt: start - second, Address: "10.2.0.1:5432", SystemID: o.Consul.Record.SystemID,
		Position: ha.Position{TLI: 97, LSN: 80}, Witness: ha.Witness{HeldAt: start - 3*second}}
	text = newBench(t, v, nil).ask(http.MethodGet, "/metrics").Body.String()
	for _, line := range []string{`pgsidecar_site_follows{site="pg@dc2"} 0`, `pgsidecar_site_both{site="pg@dc2"} 1`, `pgsidecar_site_epoch{site="pg@dc2"} 1`,
		`pgsidecar_site_may_switch{site="pg@dc2"} 0`, `pgsidecar_site_witness_seconds{site="pg@dc2"} 3`} {
		if !strings.Contains(text, line) {
			t.Errorf("no line %q", line)
		}
	}
	o.Source.SystemID = "another"
	text = newBench(t, v, nil).ask(http.MethodGet, "/metrics").Body.String()
	for _, line := range []string{`pgsidecar_site_both{site="pg@dc2"} 0`, `pgsidecar_site_may_switch{site="pg@dc2"} 0`} {
		if !strings.Contains(text, line) {
			t.Errorf("with other data there: no line %q", line)
		}
	}
}

// TestSiteStatus: the site that takes the writes says whether the other receives its log, and
// what that one lacks; the site that follows, whether its own leader does.
func TestSiteStatus(t *testing.T) {
	site := func(v *api.View) *api.SiteStatus {
		var st api.Status
		if err := json.Unmarshal(newBench(t, v, nil).ask(http.MethodGet, "/status").Body.Bytes(), &st); err != nil {
			t.Fatal(err)
		}
		return st.Site
	}
	v := viewOf("n1")
	o := &v.Observation
	o.Policy.Sites = ha.Sites{StandbyOf: "pg@dc2"}
	o.Source = ha.Source{HeardAt: start - second, Problem: "2 of its servers answer as standbys, and none as a primary"}
	at := o.Server.Position.LSN
	for name, c := range map[string]struct {
		senders []ha.Walsender
		behind  int // -1: it does not stream
	}{
		"nobody":              {nil, -1},
		"members alone":       {[]ha.Walsender{{Member: "n2", Streaming: true, Flush: at}}, -1},
		"a copy":              {[]ha.Walsender{{Member: "pg/n2", Flush: at}}, -1},
		"its leader":          {[]ha.Walsender{{Member: "n2", Streaming: true, Flush: at}, {Member: "pg/n2", Streaming: true, Flush: at - 100}}, 100},
		"more than was known": {[]ha.Walsender{{Member: "pg/n2", Streaming: true, Flush: at + 100}}, 0},
		"the one before too":  {[]ha.Walsender{{Member: "pg/n2", Streaming: true, Flush: at - 900}, {Member: "pg/n1", Streaming: true, Flush: at - 8}}, 8},
	} {
		o.Server.Walsenders = c.senders
		s := site(v)
		if s.Streams != (c.behind >= 0) || s.Streams && (s.Behind == nil || *s.Behind != uint64(c.behind)) || s.Answered != 1.1 || s.Heard != -1 {
			t.Errorf("%s: %+v", name, s)
		}
	}
	v = following()
	if s := site(v); s.Streams || s.Behind != nil {
		t.Errorf("a leader that does not stream: %+v", s)
	}
	v.Report.Streaming = true
	if s := site(v); !s.Streams || s.Behind != nil || s.Answered != 1.1 {
		t.Errorf("a leader that streams: %+v", s)
	}
}

// dashboard is what of a Grafana dashboard is checked.
type dashboard struct {
	Title       string
	Annotations struct{ List []struct{ Expr string } }
	Panels      []struct {
		ID          int
		Title       string
		Description string
		Targets     []struct{ Expr string }
	}
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(api.Dashboard()), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDashboard: it can be read, no two panels are one, and each says what it
// shows.
func TestDashboard(t *testing.T) {
	var ids []int
	for _, p := range readDashboard(t).Panels {
		if slices.Contains(ids, p.ID) {
			t.Errorf("panel %q: another has its id", p.Title)
		}
		ids = append(ids, p.ID)
		if p.Title == "" || p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d %q lacks a title, a description or a query", p.ID, p.Title)
		}
	}
}

// TestAlertsSayWhatToDo: each rule has what a person woken by it needs.
func TestAlertsSayWhatToDo(t *testing.T) {
	for i, rule := range strings.Split(api.Alerts(), "- alert: ")[1:] {
		name, _, _ := strings.Cut(rule, "\n")
		for _, part := range []string{"expr: ", "severity: ", "summary: ", "description: "} {
			if strings.Count(rule, part) != 1 {
				t.Errorf("rule %d, %s: no %q", i, name, part)
			}
		}
		if !strings.Contains(rule, "pgsidecar ") && !strings.Contains(rule, "curl ") && !strings.Contains(rule, "Look ") && !strings.Contains(rule, "log ") {
			t.Errorf("rule %s names nothing to type or to look at", name)
		}
	}
}

// TestPromtool has Prometheus's own tool read the rules and the dashboard's
// queries, and see that the rules fire when they must and only then.
func TestPromtool(t *testing.T) {
	promtool := labtest.Program(t, programs.Promtool)
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	test, err := os.ReadFile("testdata/alerts_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	write("alerts.yml", api.Alerts())
	write("alerts_test.yml", string(test))
	write("queries.yml", queries(t))
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"check", "rules", "queries.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// queries writes the dashboard's queries as recording rules, which promtool
// can check.
func queries(t *testing.T) string {
	d := readDashboard(t)
	var exprs []string
	for _, a := range d.Annotations.List {
		exprs = append(exprs, a.Expr)
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			exprs = append(exprs, target.Expr)
		}
	}
	var b strings.Builder
	b.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for i, e := range exprs {
		quoted, err := json.Marshal(strings.ReplaceAll(e, "$__rate_interval", "1m"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "  - {record: 'panel:%d', expr: %s}\n", i, quoted)
	}
	return b.String()
}
