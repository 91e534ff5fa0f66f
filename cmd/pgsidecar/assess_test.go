package main

import (
	"encoding/json"
	"flag"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

var assessLab = flag.Bool("figures.assess", false, "run TestAssess, which takes a minute")

// assessing is a lab that is assessed.
type assessing struct {
	*saved
	answers map[string]bool // a line and what it was, such as "backup yes"
}

// TestAssess: assess says of a real lab what is true of it.
func TestAssess(t *testing.T) {
	if !*assessLab {
		t.Skip("it takes a minute: -figures.assess")
	}
	s := &assessing{newSaved(t), map[string]bool{}}
	s.whole("a cluster", 1)
	s.assessed("without a backup", "primary standby archive", "backup monitored runbook point-in-time objective drill zones restore")
	s.command("backup", "run")
	s.command("drill", "restore")
	s.assessAll()
}

// assessed compares what assess says of a lab with what is true of it: yes and no name the
// lines that must say so. A wrong answer is asked for again, as its evidence may be on its
// way.
func (s *assessing) assessed(when, yes, no string, flags ...string) {
	s.t.Helper()
	want := map[string]string{}
	for _, id := range strings.Fields(yes) {
		want[id] = "yes"
	}
	for _, id := range strings.Fields(no) {
		want[id] = "no"
	}
	var report struct {
		Lines []struct{ ID, Answer, Evidence string }
	}
	for end := time.Now().Add(time.Minute); ; {
		report.Lines = nil
		if err := json.Unmarshal([]byte(s.command(append([]string{"assess", "--output", "json", "--consul", s.Plan().App().HTTPAddress()}, flags...)...)), &report); err != nil {
			s.t.Fatal(err)
		}
		var wrong []string
		for _, l := range report.Lines {
			if w := want[l.ID]; w != "" && w != l.Answer {
				wrong = append(wrong, l.ID+" is "+l.Answer+", not "+w+": "+l.Evidence)
			}
			s.answers[l.ID+" "+l.Answer] = true
		}
		switch {
		case len(wrong) == 0:
			return
		case time.Now().After(end):
			s.t.Errorf("assess, %s: %s", when, strings.Join(wrong, "; "))
			return
		}
		select {
		case <-s.t.Context().Done():
		case <-time.After(time.Second):
		}
	}
}

// neverSaid lists the answers that no assessment gave.
func (s *assessing) neverSaid() []string {
	var never []string
	for said := range s.answers {
		id, _, _ := strings.Cut(said, " ")
		for _, answer := range []string{" yes", " no"} {
			if !s.answers[id+answer] && !slices.Contains(never, id+answer) {
				never = append(never, id+answer)
			}
		}
	}
	slices.Sort(never)
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

// assessAll assesses a cluster with a backup that was proved: with all that a lab can have,
// and then with less. The lab's proxy is in no catalog, so none leads to the primary.
func (s *assessing) assessAll() {
	s.t.Helper()
	members := s.Plan().Members()
	settings := []string{"settings", "set", "objective.availability=90", "objective.rto=30s", "--yes"}
	outside := s.outside("PgsidecarNoPrimary")
	s.command(append(settings, "runbook="+outside+"/runbook")...)
	for i, h := range members {
		s.command("settings", "set", "tags."+h.Name+".zone="+[]string{"east", "west"}[i%2], "--yes")
	}
	s.scrape()
	s.command("drill", "live", "switchover", "--yes")
	s.whole("after a switchover", 2)
	s.assessed("with all that a lab has", "primary standby other-host backup monitored runbook two-standbys three-hosts archive point-in-time alerts "+
		"quorum automatic objective drill runbook-answers zones restore game-day", "remote tracing consul two-proxies scheduled haproxy", "--prometheus", outside)

	s.command("pause", "--for", "5m")
	s.command("settings", "set", "runbook="+outside+"/gone", "durability.mode=async", "--yes")
	st := s.status()
	s.must(s.KillMember(s.within(time.Minute), st.Durability.Voters[0]))
	s.assessed("with less", "primary standby", "two-standbys quorum automatic runbook-answers alerts", "--prometheus", s.outside("DiskFull"))
	s.command("resume")
	s.command("settings", "set", "durability.mode=quorum", "--yes")
	s.must(s.Start(s.within(time.Minute), st.Durability.Voters[0], lab.Sidecar))
	s.await("a whole cluster", func(st *api.Status) bool { return len(st.Durability.Voters) == 2 })
	s.t.Logf("never said: %s", strings.Join(s.neverSaid(), ", "))
}
