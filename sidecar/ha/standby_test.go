package ha_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestHalfFenced: a sidecar that was killed between the promise and the fence finds its
// server promised, and still set to receive. It fences it, or its vote would be waited
// for until another election; where nobody else may stand, for ever.
func TestHalfFenced(t *testing.T) {
	for name, leader := range map[string]string{"the candidate": "n2", "a voter": "n3"} {
		o := electing()
		o.Consul.Record.Leader = leader
		if leader != "n2" {
			o.Consul.Lock = ha.Lock{Holder: leader, Session: "session of " + leader, Index: 8}
			o.Peers[1].Report.Record.Leader = leader
		}
		if got := step(o); got == "fence" {
			t.Errorf("%s: whole, and yet: %s", name, got)
		}
		o.Server.Upstream, o.Server.Settled = "n1", false
		if got := step(o); got != "fence" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// replicatefrom is followed while that member streams from the leader.
func TestReplicateFrom(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*ha.Peer)
		from   string
	}{
		{"streams from the leader", func(*ha.Peer) {}, "n3"},
		{"streams from another", func(p *ha.Peer) { p.Report.Leader = "n2" }, ""},
		{"does not stream", func(p *ha.Peer) { p.Report.Streaming = false }, ""},
		{"is of an earlier term", func(p *ha.Peer) { p.Report.Term = 2 }, ""},
		{"is not heard", func(p *ha.Peer) { p.Link = ha.LinkSilent }, ""},
	} {
		o := following()
		o.Policy.ReplicateFrom, o.Server.Settled = "n3", true
		c.change(&o.Peers[1])
		follow, _ := asked(o, ha.Follow)
		from := ""
		if follow != nil {
			from = follow.From
		}
		if from != c.from {
			t.Errorf("n3 %s: follows %q, want %q", c.name, from, c.from)
		}
		if !ha.MakeReport(ha.State{}, o).NoSync {
			t.Error("a cascaded replica may become a voter")
		}
	}
}

// TestStandstill: a standby that comes no further, while it is seen to stream now and
// then, says so and what would help, and is no replica for clients.
func TestStandstill(t *testing.T) {
	o := following()
	o.Server.Position = ha.Position{TLI: 3, LSN: 60}
	s, _ := ha.Decide(ha.State{}, o)
	later := func(by time.Duration) {
		o.Now = o.Now.Add(by)
		o.Consul.SeenAt, o.Server.SeenAt = o.Now, o.Now
		for i := range o.Peers {
			o.Peers[i].ReceivedAt, o.Peers[i].EchoSentAt = o.Now, o.Now
		}
		o.Peers[0].Report.Position.LSN += 10
		s, _ = ha.Decide(s, o)
	}
	for range 11 {
		if len(s.Blocks) != 0 {
			t.Fatalf("after %s: %v", o.Now.Sub(now), s.Blocks)
		}
		o.Server.Position.LSN++
		later(time.Second)
	}
	for range 10 {
		later(time.Second)
	}
	if len(s.Blocks) != 1 || !strings.Contains(s.Blocks[0].What, "comes no further than 0/47") || s.Blocks[0].Override != "pgsidecar reinit n2" {
		t.Errorf("it stands still: %v", s.Blocks)
	}
	if !strings.HasSuffix(s.Blocks[0].Missing, "postgresql.log in postgres.state_dir says why it does not come") {
		t.Errorf("nobody knows why: %v", s.Blocks)
	}
	o.Server.StreamProblem = "could not connect to the primary server: password authentication failed"
	if later(time.Second); len(s.Blocks) != 1 || !strings.HasSuffix(s.Blocks[0].Missing, "; PostgreSQL says: "+o.Server.StreamProblem) {
		t.Errorf("the server says why: %v", s.Blocks)
	}
	_, actions := ha.Decide(s, o)
	if !slices.ContainsFunc(actions, func(a ha.Action) bool { return a.Kind == ha.Announce && a.Tag == "" }) {
		t.Errorf("it is still announced as a replica: %v", actions)
	}
	o.Server.Position = o.Peers[0].Report.Position
	if later(time.Second); len(s.Blocks) != 0 {
		t.Errorf("it has come on: %v", s.Blocks)
	}
}

// TestJoinPartial: a standby whose log ends inside a record follows a leader whose timeline
// begins before those bytes; it is not rewound for them.
func TestJoinPartial(t *testing.T) {
	o := diverged()
	o.Server.Position, o.Server.Replayed, o.Server.ReadAll = at(2, 99), 90, true
	known, actions := ha.Decide(ha.State{}, o)
	if len(actions) == 0 || actions[0].Kind != ha.Follow {
		t.Fatalf("asked for %+v", actions)
	}
	// It does, and waits for its walreceiver.
	o.Server.Promise, o.Server.Upstream, o.Server.ReadAll, o.Server.Settled = 3, "n1", false, false
	if _, actions := ha.Decide(known, o); len(actions) > 0 && actions[0].Kind.OnServer() {
		t.Errorf("while it connects: %+v", actions)
	}
	// Nor for a leader whose own log ended inside the same record, before it was promoted.
	o = diverged()
	o.Server.Position, o.Server.Replayed, o.Server.ReadAll = at(2, 99), 90, true
	promoted := o.Peers[0].Report
	o.Peers[0].Report.Position, o.Peers[0].Report.Role, o.Peers[0].Report.Serving = at(2, 99), ha.RoleCandidate, false
	if known, actions = ha.Decide(ha.State{}, o); len(actions) == 0 || actions[0].Kind != ha.Follow {
		t.Fatalf("beside a candidate: asked for %+v", actions)
	}
	o.Server.Promise, o.Server.Upstream, o.Server.ReadAll, o.Server.Settled, o.Peers[0].Report = 3, "n1", false, false, promoted
	if _, actions := ha.Decide(known, o); len(actions) > 0 && actions[0].Kind.OnServer() {
		t.Errorf("when it is promoted: %+v", actions)
	}
	for name, change := range map[string]func(*ha.Observation){
		"it may have whole records beyond": func(o *ha.Observation) { o.Server.ReadAll = false },
		"it has replayed what lies beyond": func(o *ha.Observation) { o.Server.Replayed = 95 },
	} {
		o := diverged()
		o.Server.Position, o.Server.Replayed, o.Server.ReadAll = at(2, 99), 90, true
		change(&o)
		if got := step(o); got != "rewind n1" {
			t.Errorf("%s: %s", name, got)
		}
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

// TestMaxLag: in async mode a member leads only if it lacks no more than failover.max_lag of
// what the primary was last heard to have, or by a person's decision.
func TestMaxLag(t *testing.T) {
	for _, c := range []struct {
		limit int64
		force bool
		want  string
	}{{0, false, "ballot"}, {50, false, "nothing"}, {100, false, "ballot"}, {50, true, "ballot"}} {
		o := lonely()
		o.Consul.Record.Durability = ha.Durability{Mode: ha.ModeAsync, Voters: []string{}}
		o.Policy.Mode, o.Policy.MaxLag, o.Server.Sync, o.Intent.Force = ha.ModeAsync, c.limit, ha.SyncSetting{}, c.force
		o.Peers[1].Report.Hears, o.Peers[1].Report.Streaming = false, false
		o.Peers[0].Report.Position = at(3, o.Server.Position.LSN+100)
		s, actions := settled(ha.State{}, o)
		if got := committed(actions); got != c.want || got == "nothing" && (len(s.Blocks) == 0 || !strings.Contains(s.Blocks[0].Cost, "100")) {
			t.Errorf("limit %d, force %v: commits %s, want %s; blocked by %+v", c.limit, c.force, got, c.want, s.Blocks)
		}
	}
}

// TestRecordReadLate: that a member has seen a newer record than the one read from Consul
// a moment ago is no loss yet; for longer it is one, and is said.
func TestRecordReadLate(t *testing.T) {
	o := following()
	o.Consul.Record.Changes = 5
	s, _ := ha.Decide(ha.State{}, o)
	later := func(by time.Duration) {
		o.Now = o.Now.Add(by)
		o.Consul.SeenAt, o.Server.SeenAt = o.Now, o.Now
		for i := range o.Peers {
			o.Peers[i].ReceivedAt, o.Peers[i].EchoSentAt = o.Now, o.Now
		}
		s, _ = ha.Decide(s, o)
	}
	for range 20 {
		later(time.Second)
	}
	seen := o.Consul.Record
	o.Peers[0].Report.Record = ha.RecordSeen{Term: seen.Term, Leader: seen.Leader, Phase: seen.Phase, Index: seen.Index + 1, Changes: seen.Changes + 1}
	for range 5 {
		later(10 * time.Millisecond)
		if len(s.Blocks) != 0 {
			t.Fatalf("at once: %v", s.Blocks)
		}
	}
	later(o.Policy.FailureTimeout + time.Second)
	if later(time.Second); len(s.Blocks) != 1 || !strings.Contains(s.Blocks[0].Missing, "Consul has lost") {
		t.Errorf("for long: %v", s.Blocks)
	}
}
