package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// assessing is two labs that are assessed: the one that takes the writes has backups, the
// other follows it.
type assessing struct {
	*saved
	east    *operated
	answers map[string]bool // a line and what it was, such as "backup yes"
}

// everyLine are all lines that assess has.
const everyLine = "primary standby other-host backup monitored runbook two-standbys three-hosts archive point-in-time alerts haproxy " +
	"quorum automatic remote pooling objective drill runbook-answers zones two-proxies consul restore site-rehearsed scheduled tracing game-day figures"

// TestAssess: assess says of real clusters what is true of them. Each line is once yes and
// once no, and a cluster with backups and a second site reaches level 4.
func TestAssess(t *testing.T) {
	collector := httptest.NewServer(new(collector))
	t.Cleanup(collector.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	w := &assessing{saved: newSavedOn(t, lab.Options{ConsulServers: 3, PgBouncer: true}), answers: map[string]bool{}}
	w.whole("a cluster", 1)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	w.bare()
	w.second()
	w.change()
	w.improve()
	if level := w.assessed("with all that there is", everyLine, "", "--prometheus", w.outside("PgsidecarNoPrimary")); level != 4 {
		t.Errorf("level %d", level)
	}
	w.less()
	if never := w.neverSaid(); len(never) > 0 {
		t.Errorf("never said: %s", strings.Join(never, ", "))
	}
}

// bare is a cluster as it was made.
func (w *assessing) bare() {
	w.t.Helper()
	w.assessed("as it was made", "primary standby other-host two-standbys three-hosts archive haproxy quorum automatic pooling consul tracing",
		"backup monitored runbook point-in-time alerts remote objective drill runbook-answers zones two-proxies restore site-rehearsed scheduled game-day figures",
		"--prometheus", w.outside("DiskFull"))
}

// second makes the other site, which has little.
func (w *assessing) second() {
	w.t.Helper()
	w.east = newOperatedLab(w.t, lab.Options{Other: w.Plan(), Members: 2})
	w.follows(w.east.Lab)
	w.at(w.east.Lab, "at the site that follows", "standby other-host haproxy", "primary two-standbys three-hosts archive pooling consul tracing")
	w.must(w.east.Kill(w.east.Plan().App().Name, lab.Proxy))
	st := w.east.status()
	i := slices.IndexFunc(st.Members, func(m api.MemberStatus) bool { return m.Member != st.Leader })
	w.must(w.east.KillMember(w.within(time.Minute), st.Members[i].Member))
	w.at(w.east.Lab, "without its replica and its proxy", "", "standby other-host haproxy")
	w.must(w.east.Start(w.within(time.Minute), st.Members[i].Member, lab.Sidecar))
	w.must(w.east.Start(w.within(time.Minute), w.east.Plan().App().Name, lab.Proxy))
	w.follows(w.east.Lab)
}

// at assesses the cluster of a lab.
func (w *assessing) at(l *lab.Lab, when, yes, no string) {
	w.t.Helper()
	w.east.here(w.t)
	w.assessedAt(l, when, yes, no)
	w.here()
}

// follows waits until all members of a lab stream, and its leader from the other site.
func (w *assessing) follows(l *lab.Lab) {
	w.t.Helper()
	w.awaitOf(l, "the site to follow the other", func(st *api.Status) bool {
		return st.Site != nil && st.Site.Follows && st.Site.Lag != nil && st.Role == ha.RoleStandbyLeader && len(st.Recorded) == len(l.Plan().Members()) &&
			!slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool { return !m.Streaming })
	})
}

// change has the sites change places, and back.
func (w *assessing) change() {
	w.t.Helper()
	name := func(other *lab.Lab) {
		var addresses, apis []string
		for _, m := range other.Plan().Members() {
			addresses, apis = append(addresses, strconv.Quote(m.PostgresAddress())), append(apis, strconv.Quote(m.APIAddress()))
		}
		w.command("settings", "set", "standby_of.addresses=["+strings.Join(addresses, ",")+"]", "standby_of.apis=["+strings.Join(apis, ",")+"]", "--yes")
	}
	name(w.east.Lab)
	w.east.here(w.t)
	name(w.Lab)
	w.here()
	w.await("the other site to be known", func(st *api.Status) bool { return st.Site != nil && st.Site.Streams })
	w.command("site", "switch")
	w.follows(w.Lab)
	w.east.here(w.t)
	w.awaitOf(w.east.Lab, "the other site to take the writes", func(st *api.Status) bool { return st.Primary && len(st.Durability.Voters) == 1 })
	w.command("site", "switch")
	w.follows(w.east.Lab)
	w.here()
	w.whole("the first site again", 1)
}

// improve gives the cluster what it lacks still.
func (w *assessing) improve() {
	w.t.Helper()
	outside := w.outside("PgsidecarNoPrimary")
	settings := []string{"settings", "set", "objective.availability=90", "objective.rto=30s", "runbook=" + outside + "/runbook"}
	for i, h := range w.Plan().Members() {
		settings = append(settings, "tags."+h.Name+".zone="+[]string{"east", "west"}[i%2])
	}
	w.command(append(settings, "--yes")...)
	w.schedule()
	w.secondProxy(w.Plan().Members()[0])
	w.backUp()
	w.command("drill", "restore")
	term := w.status().Term
	w.command("drill", "live", "switchover", "--yes")
	w.whole("after a switchover", term+1)
	w.scrape()
}

// backUp makes a backup, after the one that the schedule may have begun by itself.
func (w *assessing) backUp() {
	w.t.Helper()
	labtest.Until(w.t, 2*time.Minute, "the end of another backup", func() bool {
		code, _, stderr := w.run("backup", "run")
		if code != 0 && !strings.Contains(stderr, "another backup is under way") {
			w.t.Fatalf("backup run: exit status %d: %s", code, stderr)
		}
		return code == 0
	})
}

// schedule gives each member's pg.hcl a schedule, and restarts the sidecars alone.
func (w *assessing) schedule() {
	w.t.Helper()
	const block = "backup \"main\" {\n"
	w.rewrite(func(pg string) string {
		return strings.Replace(pg, block, block+"  schedule {\n    full = \"0 0 1 1 *\"\n  }\n\n", 1)
	})
	w.whole("the members with a schedule", 1)
}

// secondProxy runs another HAProxy with `pgsidecar proxy` beside it, as one of the lab's
// application host, and registers it at a host's agent.
func (w *assessing) secondProxy(at lab.Host) {
	w.t.Helper()
	app, dir := w.Plan().App(), filepath.Join(w.Plan().Dir, "proxy2")
	w.must(os.Mkdir(dir, 0o755))
	change := []string{app.Dir, dir}
	ports := map[int]int{}
	for _, port := range []int{app.Ports.Primary, app.Ports.Replicas, app.Ports.Status, app.Ports.Pool} {
		free, err := programs.FreePort()
		w.must(err)
		ports[port] = free
		change = append(change, strconv.Itoa(port), strconv.Itoa(free))
	}
	text, err := os.ReadFile(filepath.Join(app.Dir, "proxy.hcl"))
	w.must(err)
	before, rest, _ := strings.Cut(string(text), "# Clients wait in it") // without PgBouncer
	_, rest, _ = strings.Cut(rest, "# The state first")
	w.must(os.WriteFile(filepath.Join(dir, "proxy.hcl"), []byte(strings.NewReplacer(change...).Replace(before+"# The state first"+rest)), 0o644))
	// pgsidecar proxy writes what comes after this one.
	w.must(os.WriteFile(filepath.Join(dir, "haproxy.cfg"), fmt.Appendf(nil, "global\n  stats socket %s/haproxy.sock mode 600 level admin expose-fd listeners\n"+
		"defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\nlisten first\n  bind %s:%d\n", dir, app.Address, ports[app.Ports.Primary]), 0o644))
	w.beside(w.Plan().HAProxy, "-W", "-db", "-f", filepath.Join(dir, "haproxy.cfg"), "-p", filepath.Join(dir, "haproxy.pid"))
	w.beside(w.Plan().Binary, "proxy", "-config", filepath.Join(dir, "proxy.hcl"))
	status := "127.0.0.1:" + strconv.Itoa(ports[app.Ports.Status])
	body, err := json.Marshal(map[string]any{"Name": w.Plan().Cluster + "-proxy", "Port": ports[app.Ports.Primary], "Meta": map[string]string{"haproxy": "1", "api": status},
		"Check": map[string]string{"HTTP": "http://" + status + "/readiness", "Interval": "1s"}})
	w.must(err)
	req, err := http.NewRequestWithContext(w.within(10*time.Second), http.MethodPut, "http://"+at.HTTPAddress()+"/v1/agent/service/register", strings.NewReader(string(body)))
	w.must(err)
	res, err := http.DefaultClient.Do(req)
	w.must(err)
	w.must(res.Body.Close())
}

// beside runs a program until the test ends, and shows what it said if that failed.
func (w *assessing) beside(argv ...string) {
	w.t.Helper()
	cmd, said := exec.Command(argv[0], argv[1:]...), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = said, said
	w.must(cmd.Start())
	w.t.Cleanup(func() {
		if w.t.Failed() {
			defer func() { w.t.Logf("%s:\n%s", strings.Join(argv, " "), said) }() // when it has ended
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			w.t.Error(err)
		}
		_ = cmd.Wait() // it was told to end
	})
}

// less takes away what can be taken away, and looks again.
func (w *assessing) less() {
	w.t.Helper()
	w.command("pause", "--for", "5m")
	w.command("settings", "set", "runbook="+w.outside("DiskFull")+"/gone", "durability.mode=async", "--yes")
	w.assessed("with less", "primary", "quorum automatic runbook-answers alerts", "--prometheus", w.outside("DiskFull"))
	w.command("settings", "set", "durability.mode=quorum", "--yes")
	w.command("resume")
	w.whole("a whole cluster", 1)
}

// assessed compares what assess says of this lab with what is true of it: yes and no name
// the lines that must say so. If an answer is wrong, it asks again: the evidence may take a
// moment to arrive. It returns the level that is reached.
func (w *assessing) assessed(when, yes, no string, flags ...string) (level int) {
	w.t.Helper()
	return w.assessedAt(w.Lab, when, yes, no, flags...)
}

func (w *assessing) assessedAt(l *lab.Lab, when, yes, no string, flags ...string) (level int) {
	w.t.Helper()
	want := map[string]string{}
	for _, id := range strings.Fields(yes) {
		want[id] = "yes"
	}
	for _, id := range strings.Fields(no) {
		want[id] = "no"
	}
	for end := time.Now().Add(time.Minute); ; {
		var report struct {
			Level int
			Lines []struct{ ID, Answer, Evidence string }
		}
		w.must(json.Unmarshal([]byte(w.command(append([]string{"assess", "--output", "json", "--consul", l.Plan().App().HTTPAddress()}, flags...)...)), &report))
		var wrong []string
		for _, line := range report.Lines {
			if answer := want[line.ID]; answer != "" && answer != line.Answer {
				wrong = append(wrong, line.ID+" is "+line.Answer+", not "+answer+": "+line.Evidence)
			}
			w.answers[line.ID+" "+line.Answer] = true
		}
		switch {
		case len(wrong) == 0:
			w.t.Logf("%s: level %d", when, report.Level)
			return report.Level
		case time.Now().After(end):
			w.t.Errorf("assess, %s: %s", when, strings.Join(wrong, "; "))
			return report.Level
		}
		select {
		case <-w.t.Context().Done():
		case <-time.After(time.Second):
		}
	}
}

// neverSaid lists the answers that no assessment gave.
func (w *assessing) neverSaid() (never []string) {
	for _, id := range strings.Fields(everyLine) {
		for _, answer := range []string{" yes", " no"} {
			if !w.answers[id+answer] {
				never = append(never, id+answer)
			}
		}
	}
	return never
}

// scrape reads each member's metrics as Prometheus does.
func (s *saved) scrape() {
	s.t.Helper()
	for _, h := range s.Plan().Members() {
		req, err := http.NewRequestWithContext(s.within(10*time.Second), http.MethodGet, "http://"+h.APIAddress()+"/metrics", nil)
		s.must(err)
		req.Header.Set("User-Agent", "Prometheus/3.1.0")
		res, err := http.DefaultClient.Do(req)
		s.must(err)
		s.must(res.Body.Close())
	}
}

// outside is a runbook and a Prometheus with the rules and a receiver.
func (s *saved) outside(rule string) (address string) {
	s.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answers := map[string]string{"/runbook": "what to do", "/api/v1/rules": `{"status":"success","data":{"groups":[{"rules":[{"name":"` + rule + `"}]}]}}`,
			"/api/v1/alertmanagers": `{"status":"success","data":{"activeAlertmanagers":[{"url":"http://am:9093"}]}}`}
		if _, known := answers[r.URL.Path]; !known {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(answers[r.URL.Path]))
	}))
	s.t.Cleanup(server.Close)
	return server.URL
}
