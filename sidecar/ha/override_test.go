package ha_test

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// longAgo decides for a member to which all that it observes has been so for a minute.
func longAgo(o ha.Observation) (ha.State, []ha.Action) {
	then := now.Add(-time.Minute)
	return ha.Decide(ha.State{LostAt: then, LostTerm: o.Consul.Record.Term, PhaseAt: then, PhaseTerm: o.Consul.Record.Term, Phase: o.Consul.Record.Phase,
		AdvancedAt: then, AdvancedTLI: 3, AdvancedLSN: 100}, o)
}

// What a member has that is gone, and that was ahead, does not outvote an operator who
// accepts its loss.
func TestForceWithoutTheAhead(t *testing.T) {
	o := electing()
	o.Consul.Record.Final = &ha.Final{Member: "n1", Position: at(3, 200)}
	o.Intent.Force = true
	if got := step(o); got != "claim timeline 4" {
		t.Errorf("final: %s", got)
	}
	o = electing()
	vote(&o, 1, at(3, 200))
	silent(&o, 1)
	o.Intent.Force = true
	if got := step(o); got != "claim timeline 4" {
		t.Errorf("vote: %s", got)
	}
}

// Who accepts a loss deposes nobody that is well; and is heard in a pause.
func TestForceWithAPrimary(t *testing.T) {
	o := following()
	o.Intent.Force = true
	if got := step(o); got != "nothing" {
		t.Errorf("a healthy primary is deposed: %s", got)
	}
	o = lonely()
	o.Intent.Force, o.Policy.Paused = true, true
	if got := step(o); got != "ballot to n2" {
		t.Errorf("in a pause: %s", got)
	}
}

// A pause keeps down what was stopped by hand, and nothing that a restart or a
// switchover has stopped.
func TestPausedStopOfOurs(t *testing.T) {
	o := following()
	stopped(&o)
	o.Policy.Paused, o.Intent.Restart, o.Server.Asked = true, true, true
	if got := step(o); got != "start" {
		t.Errorf("replica: %s", got)
	}
	// The target is gone between the stop and the passing on.
	o = leading()
	stopped(&o)
	o.Policy.Paused, o.Intent.Switchover, o.Intent.Target = true, true, "n2"
	o.Server.CleanStop, o.Server.Asked = true, true
	o.Peers[0].Report.Eligible, o.Peers[1].Report.Eligible = false, false
	if got := step(o); got != "start as primary" {
		t.Errorf("primary: %s", got)
	}
	// The switchover is done: the old primary starts as a standby.
	o = following()
	stopped(&o)
	o.Policy.Paused, o.Server.WasPrimary, o.Server.CleanStop, o.Server.Asked = true, true, true, true
	if got := step(o); got != "start" {
		t.Errorf("old primary: %s", got)
	}
}

// A clone that was asked for and must wait takes nobody out of the cluster.
func TestReinitThatWaits(t *testing.T) {
	o := lonely()
	o.Consul.Record.Members = []string{"n1", "n2"}
	o.Consul.Record.Durability.Voters = []string{"n2"}
	o.Peers = o.Peers[:1]
	if got := step(o); got != "ballot to n2" {
		t.Fatalf("without: %s", got)
	}
	o.Intent.Reinit = true
	if got := step(o); got == "ballot to n2" {
		t.Errorf("it may not lead by itself: %s", got)
	}
	o.Intent.Force = true
	if got := step(o); got != "ballot to n2" {
		t.Errorf("two members, forced: %s", got)
	}
	// n3 leads a new term, and n2 is its only voter.
	o = following()
	r := &o.Consul.Record
	r.Leader, r.Term, r.Timeline = "n3", 4, 4
	r.Durability.Voters = []string{"n2"}
	o.Server.Promise, o.Server.Fenced, o.Server.Settled, o.Server.Upstream, o.Server.Receiving = 4, true, true, "", ha.No
	o.Peers[0].Link, o.Peers[0].ReceivedAt = ha.LinkSilent, now.Add(-time.Minute)
	p := &o.Peers[1].Report
	p.Term, p.Role, p.Serving, p.Position, p.Record = 4, ha.RolePrimary, true, at(4, 120, ha.Fork{TLI: 3, End: 100}), ha.RecordSeen{Term: 4, Leader: "n3", Phase: ha.PhaseLeading, Index: 7}
	if got := step(o); got != "follow n3" {
		t.Fatalf("without: %s", got)
	}
	o.Intent.Reinit = true
	if got := step(o); got != "follow n3" {
		t.Errorf("new leader: %s", got)
	}
}

// A restart whose start fails does not keep the others from leading.
func TestRestartThatFails(t *testing.T) {
	o := leading()
	stopped(&o)
	o.Server.ExitedAt = now.Add(-10 * time.Minute)
	o.Server.CleanStop, o.Server.WasPrimary = true, true
	o.Intent.Restart, o.Intent.Since = true, now.Add(-11*time.Minute)
	o.Busy.FailedKind, o.Busy.FailedAt, o.Busy.Failures = ha.Start, now.Add(-2*time.Second), 300
	s, _ := longAgo(o)
	if got := step(o); got != "pass to n2" {
		t.Errorf("primary: %s", got)
	}
	rep := ha.MakeReport(s, o)
	o = following()
	o.Server.Receiving = ha.No
	o.Peers[0].Report.Serving, o.Peers[0].Report.Down, o.Peers[0].Report.Restarting, o.Peers[0].Report.Role = false, true, rep.Restarting, ha.RoleStopped
	o.Peers[1].Report.Hears = false
	if got := step(o); got != "ballot to n2" {
		t.Errorf("standby: %s", got)
	}
}

// A candidate that still replays what it has received is not deposed for that.
func TestPromotionThatReplays(t *testing.T) {
	// n3 leads term 4, promotes for 11 s by now, and has n2's vote.
	o := promoting()
	o.Consul.Record.Leader = "n3"
	o.Consul.Record.Durability.Voters = []string{"n2"}
	o.Consul.Lock = ha.Lock{Holder: "n3", Session: "session of n3", Index: 8}
	o.Server.Armed = false
	p := &o.Peers[1].Report
	p.Role, p.Replay, p.Position = ha.RoleCandidate, 50, at(3, 100)
	p.Record = ha.RecordSeen{Term: 4, Leader: "n3", Phase: ha.PhasePromoting, Index: 9}
	o.Policy.HandoverTimeout = 10 * time.Second
	_, a := ha.Decide(ha.State{LostAt: now.Add(-11 * time.Second), LostTerm: 4, PhaseAt: now.Add(-11 * time.Second), PhaseTerm: 4, Phase: ha.PhasePromoting}, o)
	for i := range a {
		if a[i].Kind == ha.Commit {
			t.Errorf("it is deposed in the middle of its promotion: %s", a[i].Why)
		}
	}
}

// kill -9 in the middle of a fence or of a follow leaves nobody without a stream.
func TestHalfFollowed(t *testing.T) {
	o := following()
	o.Server.Receiving, o.Server.Fenced = ha.No, true // promised, gate shut, killed before primary_conninfo was cleared
	if got := step(o); got != "fence" {
		t.Errorf("half fenced: %s", got)
	}
	o = following()
	o.Peers[0].Report.Position.LSN = 101
	o.Server.Receiving, o.Server.Upstream, o.Server.Settled = ha.No, "", false // gate open, killed before primary_conninfo was set
	s, a := longAgo(o)
	if len(a) == 0 || a[0].Kind != ha.Fence {
		t.Errorf("half followed: %v, blocks %v", a, s.Blocks)
	}
}

// Commits do not wait where the only standby has the tag nosync, and streams.
func TestNoSyncStreams(t *testing.T) {
	o := leading()
	o.Consul.Record.Members = []string{"n1", "n2"}
	o.Consul.Record.Durability.Voters = []string{"n2"}
	o.Server.Sync.Names = []string{"n2"}
	o.Server.Walsenders, o.Peers = o.Server.Walsenders[:1], o.Peers[:1]
	o.Peers[0].Report.NoSync = true
	if s, _ := longAgo(o); len(s.Blocks) > 0 {
		t.Errorf("commits do not wait: %v", s.Blocks)
	}
}

// A final position is that of a member which lives without its data: who waits for it says
// so, and for no longer than it takes to see that it will not vote, as the voters' votes
// stand for all that was acknowledged.
func TestFinalWithoutData(t *testing.T) {
	o := electing()
	o.Consul.Record.Final = &ha.Final{Member: "n1", Position: at(3, 200)}
	o.Peers[0].Link, o.Peers[0].ReceivedAt = ha.LinkUp, now
	p := &o.Peers[0].Report
	p.Role, p.Serving, p.Writable, p.Position, p.Down, p.Term = ha.RoleStopped, false, false, ha.Position{}, true, 0
	p.Record = ha.RecordSeen{Term: 4, Leader: "n2", Phase: ha.PhaseElecting, Index: 8}
	for _, c := range []struct {
		since time.Duration
		want  string
	}{{3 * time.Second, "nothing"}, {5 * time.Second, "claim"}} {
		s, actions := ha.Decide(ha.State{PhaseAt: now.Add(-c.since), PhaseTerm: 4, Phase: ha.PhaseElecting}, o)
		if got := committed(actions); got != c.want || c.want == "nothing" && len(s.Blocks) == 0 {
			t.Errorf("after %s: commits %s, want %s; blocked by %v", c.since, got, c.want, s.Blocks)
		}
	}
}

// committed is what transaction is asked for.
func committed(actions []ha.Action) string {
	for _, a := range actions {
		if a.Kind == ha.Commit {
			return a.Change.What
		}
	}
	return "nothing"
}
