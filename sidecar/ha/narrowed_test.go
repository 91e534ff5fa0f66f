package ha_test

import (
	"slices"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestClaimNarrows: a claim takes a candidate off the recorded voters when as many
// others as the setting asks for have voted with all that it has, so that the cluster
// outlives the loss of the new primary before anybody follows it; else it does not (S4).
func TestClaimNarrows(t *testing.T) {
	both, other := []string{"n2", "n3"}, []string{"n3"}
	for name, c := range map[string]struct {
		but  func(o *ha.Observation)
		want []string // voters; nil: no claim yet
	}{
		"the other vote has as much": {func(*ha.Observation) {}, other},
		"it has less":                {func(o *ha.Observation) { vote(o, 1, ha.Position{TLI: 3, LSN: 99}) }, both},
		"its log diverged":           {func(o *ha.Observation) { vote(o, 1, ha.Position{TLI: 2, LSN: 500}) }, both},
		"K is lower for want of members": {func(o *ha.Observation) {
			o.Consul.Record.Durability.K = 2
			o.Server.Sync = ha.SyncSetting{K: 1, Names: other}
		}, both},
		"handed all there is, and a vote is near": {func(o *ha.Observation) {
			o.Consul.Record.Final = &ha.Final{Member: "n1", Position: ha.Position{TLI: 3, LSN: 100}}
			o.Peers[1].Report.Voted = false
		}, nil},
		"handed all there is, and nobody else lives": {func(o *ha.Observation) {
			o.Consul.Record.Final = &ha.Final{Member: "n1", Position: ha.Position{TLI: 3, LSN: 100}}
			o.Peers[1].Report.Voted, o.Peers[1].Link = false, ha.LinkSilent
		}, both},
	} {
		o := electing()
		c.but(&o)
		claim, s := asked(o, ha.Commit)
		if claim == nil {
			if c.want != nil {
				t.Errorf("%s: no claim", name)
				continue
			}
			o.Now = now.Add(50 * time.Millisecond) // a vote that does not come is not waited for
			_, actions := ha.Decide(s, o)
			if len(actions) == 0 || actions[0].Change.What != "claim" || !slices.Equal(actions[0].Change.Record.Durability.Voters, both) {
				t.Errorf("%s: later: %+v", name, actions)
			}
			continue
		}
		if d := claim.Change.Record.Durability; claim.Change.What != "claim" || !slices.Equal(d.Voters, c.want) || d.K != o.Consul.Record.Durability.K {
			t.Errorf("%s: %s with %d of %v, want %v", name, claim.Change.What, d.K, d.Voters, c.want)
		}
	}
}

// TestLeadNarrows: what the claim could not, the transaction by which the new primary
// leads does, if votes have come since, and if the server was not restarted: one that
// was may have recovered commits that nobody else has (S9).
func TestLeadNarrows(t *testing.T) {
	for name, c := range map[string]struct {
		started ha.Instant
		voted   bool
		want    []string
	}{
		"the vote has come":        {now - 1, true, []string{"n3"}},
		"it has not":               {now - 1, false, []string{"n2", "n3"}},
		"the server was restarted": {now.Add(2 * time.Millisecond), true, []string{"n2", "n3"}},
	} {
		o := promoting()
		s, _ := ha.Decide(ha.State{}, electing()) // its own vote stands
		v := &o.Server
		v.InRecovery, v.Writable, v.WasPrimary, v.StartedAt = ha.No, ha.Yes, true, c.started
		v.Position = ha.Position{TLI: 4, LSN: 120, History: []ha.Fork{{TLI: 3, End: 100}}}
		o.Peers[1].Report.Voted = c.voted
		o.Now = now.Add(10 * time.Millisecond)
		_, actions := ha.Decide(s, o)
		i := slices.IndexFunc(actions, func(a ha.Action) bool { return a.Kind == ha.Commit && a.Change.What == "lead" })
		if i < 0 {
			t.Errorf("%s: %+v", name, actions)
			continue
		}
		if d := actions[i].Change.Record.Durability; !slices.Equal(d.Voters, c.want) {
			t.Errorf("%s: %d of %v, want %v", name, d.K, d.Voters, c.want)
		}
	}
}

// TestClaimByOthersVotes: where the recorded voters have not voted with all that the
// candidate has, and another member has, such as the old primary, the claim names that one:
// the new primary may be lost at once.
func TestClaimByOthersVotes(t *testing.T) {
	o := electing()
	silent(&o, 1)
	o.Peers[1].Report.Voted = false
	p := &o.Peers[0]
	p.Link, p.ReceivedAt = ha.LinkUp, now
	p.Report = ha.Report{Member: "n1", Term: 4, Role: ha.RoleReplica, Voted: true, Position: o.Server.Position, Eligible: true, Session: "s",
		Record: ha.RecordSeen{Term: 4, Leader: "n2", Phase: ha.PhaseElecting, Index: 8}, ServerID: "1"}
	set, _ := asked(o, ha.SetSync)
	if set == nil || set.Sync.K != 1 || len(set.Sync.Names) != 1 || set.Sync.Names[0] != "n1" {
		t.Fatalf("its setting: %+v", set)
	}
	o.Server.Sync = set.Sync
	claim, _ := asked(o, ha.Commit)
	if claim == nil || claim.Change.What != "claim" || !claim.Change.Record.Durability.Equal(ha.Durability{Mode: ha.ModeQuorum, K: 1, Voters: []string{"n1"}}) {
		t.Errorf("it commits %+v", claim)
	}
	// One that lacks something holds nothing of it.
	p.Report.Position = at(3, 99)
	if set, _ := asked(o, ha.SetSync); set == nil || set.Sync.Names[0] != "n3" {
		t.Errorf("without a vote with all, its setting: %+v", set)
	}
	// The claim that was applied is another than the setting was made for.
	o = promoting()
	o.Consul.Record.Durability.Voters, o.Server.Sync = []string{"n3"}, ha.SyncSetting{K: 1, Names: []string{"n1"}}
	if got := step(o); got != "set-sync" {
		t.Errorf("it promotes with a setting that the record does not cover: %s", got)
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
	o.Peers[0].Report.Position = at(2, 99)
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
