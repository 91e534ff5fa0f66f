package api_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

func TestStatusSaysWhyItIsStuck(t *testing.T) {
	v := viewOf("n2")
	v.State.Blocks = []ha.Block{{What: "promote", Missing: "the vote of n3", Override: "pgsidecar failover --to n2 --accept-data-loss", Cost: "commits since 12:00", Rule: "stand-pre-votes", Since: start - 30*second}}
	v.State.Rules = []string{"follow", "stand-pre-votes"}
	b := newBench(t, v, nil)
	var st api.Status
	if err := json.Unmarshal(b.ask(http.MethodGet, "/status").Body.Bytes(), &st); err != nil {
		t.Fatal(err)
	}
	if len(st.Blocks) != 1 || st.Blocks[0].Missing != "the vote of n3" || st.Blocks[0].Age < 30 || st.Blocks[0].Override == "" || st.Blocks[0].Rule != "stand-pre-votes" {
		t.Errorf("blocks: %+v", st.Blocks)
	}
	if !slices.Equal(st.Rules, v.State.Rules) {
		t.Errorf("rules: %q", st.Rules)
	}
	if len(st.Members) != 3 || st.Members[0].Link != "up" || st.Members[1].Link != "self" || st.Term != 7 || st.VotesNeeded != 2 {
		t.Errorf("%+v", st)
	}
}

// TestStatusOfOddities: what the server has in effect is told beside what the record asks
// for, and of each member what is wrong although it works.
func TestStatusOfOddities(t *testing.T) {
	read := func(v *api.View) (st api.Status) {
		t.Helper()
		if err := json.Unmarshal(newBench(t, v, nil).ask(http.MethodGet, "/status").Body.Bytes(), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	v := viewOf("n1")
	o := &v.Observation
	o.Server.Sync, o.Server.Relaxed = ha.SyncSetting{K: 1, Names: []string{"n2"}}, "synchronous_commit = local, from postgresql.auto.conf"
	o.Server.SyncCommit, o.Server.Weak, o.Server.CancelledWaits = "local", []string{"role app: off"}, 2
	o.Server.ConfigProblem = "pg_hba.conf line 3: invalid authentication method"
	o.Consul.HiddenAt, o.Consul.HiddenBy = start-second, "maintenance mode of the node"
	o.Consul.Record.Timeline, o.Consul.Record.Claims = 3, []ha.Claim{{TLI: 3, Term: 7}}
	o.Consul.Record.Diverged = []ha.Diverged{{Member: "n3", Copy: "c3"}}
	v.Report.Lease, v.Report.Apart = 5*time.Second, "state_dir is elsewhere"
	o.Peers[0].Report.Lease, o.Peers[0].Report.Agentless, o.Peers[0].Report.Position = 10*time.Second, true, ha.Position{TLI: 9, LSN: 0x3000000}
	o.Peers[1].Report.Copy = "c3"
	o.Peers[1].Report.Hidden, o.Peers[1].Report.Agentless, o.Peers[1].Report.ConfigProblem = "a check of n3", true, "postgresql.conf line 9"
	o.Peers[1].Report.Leader, o.Peers[1].Report.Tags = "n2", []ha.Tag{{Name: "nofailover", Value: "true"}}
	st := read(v)
	if st.InEffect == nil || st.InEffect.K != 1 || !slices.Equal(st.InEffect.Names, []string{"n2"}) || st.InEffect.Relaxed != o.Server.Relaxed || st.InEffect.SyncCommit != "local" || len(st.InEffect.Weak) != 1 || st.InEffect.CancelledWaits != 2 || st.ConfigProblem != o.Server.ConfigProblem {
		t.Errorf("in effect: %+v, %q", st.InEffect, st.ConfigProblem)
	}
	n1, n2, n3 := st.Members[0], st.Members[1], st.Members[2]
	if n1.Hidden != o.Consul.HiddenBy || n1.Strayed != "" || n1.Lease != 5 || n1.Apart != "state_dir is elsewhere" {
		t.Errorf("n1: %+v", n1.Oddities)
	}
	if n2.Hidden != "its Consul agent does not answer" || n2.Lease != 10 || !strings.Contains(n2.Strayed, "no term of this cluster began") {
		t.Errorf("n2: %+v", n2.Oddities)
	}
	if n3.Hidden != "a check of n3" || n3.ConfigProblem != "postgresql.conf line 9" || n3.Upstream != "n2" || len(n3.Tags) != 1 || !strings.Contains(n3.Strayed, "than the primary had written") {
		t.Errorf("n3: %+v", n3.Oddities)
	}
	// A record that is not the newest says nothing of a later timeline.
	o.Consul.Record.Term = 6
	if st = read(v); st.Members[1].Strayed != "" {
		t.Errorf("by an earlier record: %+v", st.Members[1].Oddities)
	}

	v = viewOf("n2")
	v.Observation.Consul.AgentLostAt, v.Report.Strayed = start-second, "its server ran as a primary in term 7, which n2 did not lead"
	if st = read(v); st.InEffect != nil || st.Members[1].Hidden == "" || st.Members[1].Strayed != v.Report.Strayed {
		t.Errorf("a replica: %+v, %+v", st.InEffect, st.Members[1].Oddities)
	}
}

// TestStatusOfWork: a clone's progress, templates, and how far behind a replica is.
func TestStatusOfWork(t *testing.T) {
	v := viewOf("n2")
	v.Behind = map[string]ha.Instant{"n3": start - 9*second}
	v.Progress = &api.Progress{What: "cloning", From: "n1", Done: 5, Total: 10}
	v.Templates = func() json.RawMessage { return json.RawMessage(`{"term":7}`) }
	v.Observation.Intent.Reinit = true
	var st api.Status
	if err := json.Unmarshal(newBench(t, v, nil).ask(http.MethodGet, "/status").Body.Bytes(), &st); err != nil {
		t.Fatal(err)
	}
	if st.Progress == nil || *st.Progress != *v.Progress || !st.Reinit || string(st.Templates) != `{"term":7}` {
		t.Errorf("%+v", st)
	}
	if lag := st.Members[2].LagTime; lag == nil || *lag != 9.1 {
		t.Errorf("n3: %+v", st.Members[2])
	}
}
