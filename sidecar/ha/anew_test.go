package ha_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// emptied is n2 while Consul has no record, with a process that remembers none.
func emptied() ha.Observation {
	o := following()
	o.Consul.Record, o.Consul.Lock = ha.Record{}, ha.Lock{}
	for i := range o.Peers {
		o.Peers[i].Report = ha.Report{Member: o.Peers[i].Member}
	}
	return o
}

// noData is a server whose data directory is empty.
func noData(o *ha.Observation) {
	o.Server = ha.Server{Postmaster: ha.Postmaster{Process: ha.ProcessStopped}, Files: ha.Files{DataDir: ha.DataAbsent}}
}

// says reports whether status says this, and names the command.
func says(s ha.State, missing, command string) bool {
	return slices.ContainsFunc(s.Blocks, func(b ha.Block) bool {
		return strings.Contains(b.Missing, missing) && strings.Contains(b.Override, command) && (command == "" || b.Cost != "")
	})
}

// TestEmptyFounder: a member without data founds no cluster where there may be one.
func TestEmptyFounder(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*ha.Observation)
		commits string
		missing string
		command string
	}{
		{"all are empty", func(*ha.Observation) {}, "found", "", ""},
		{"nobody else is known", func(o *ha.Observation) { o.Peers = nil }, "found", "", ""},
		{"it hears nobody", func(o *ha.Observation) { silent(o, 0); silent(o, 1) }, "nothing", "word from another member", "failover --to n2"},
		{"another has data", func(o *ha.Observation) { o.Peers[1].Report.ServerID = "1" }, "nothing", "n3, which knows of a cluster", "failover --to n3"},
		{"another knows of a cluster", func(o *ha.Observation) {
			o.Peers[1].Report.Record = ha.RecordSeen{Term: 1, Leader: "n1", Phase: ha.PhaseLeading}
		}, "nothing", "n3, which knows of a cluster", ""},
		{"another knows of one that it led itself", func(o *ha.Observation) {
			o.Peers[1].Report.Record = ha.RecordSeen{Term: 1, Leader: "n2", Phase: ha.PhaseLeading}
		}, "nothing", "n3, which knows of a cluster", ""},
		{"another knows that it was founding one", func(o *ha.Observation) {
			o.Peers[1].Report.Record = ha.RecordSeen{Term: 1, Leader: "n2", Phase: ha.PhaseBootstrap}
		}, "found", "", ""},
		{"it has lost its data", func(o *ha.Observation) { o.Server.Promise = 3 }, "nothing", "has lost them", "failover --to n2"},
	} {
		o := emptied()
		noData(&o)
		c.change(&o)
		s, actions := settled(ha.State{}, o)
		if got := committed(actions); got != c.commits || c.missing != "" && !says(s, c.missing, c.command) {
			t.Errorf("%s: commits %s, blocked by %+v", c.name, got, s.Blocks)
		}
		o.Intent.Force = true
		if _, actions = settled(ha.State{}, o); committed(actions) != "found" {
			t.Errorf("%s, and a person decides: commits %s", c.name, committed(actions))
		}
	}
}

// TestRefoundUnheard: a former primary founds the cluster anew only if it hears all others,
// one of which may have led since.
func TestRefoundUnheard(t *testing.T) {
	o := emptied()
	o.Server.Process, o.Server.InRecovery, o.Server.WasPrimary = ha.ProcessStopped, ha.Unknown, true
	if _, actions := settled(ha.State{}, o); committed(actions) != "refound" {
		t.Errorf("with the others it commits %s", committed(actions))
	}
	silent(&o, 1)
	s, actions := settled(ha.State{}, o)
	if committed(actions) != "nothing" || !says(s, "word from n3", "failover --to n2 --accept-data-loss") {
		t.Errorf("without n3 it commits %s, blocked by %+v", committed(actions), s.Blocks)
	}
	o.Intent.Force = true
	if _, actions := settled(ha.State{}, o); committed(actions) != "refound" {
		t.Errorf("forced it commits %s", committed(actions))
	}
	// What the others say of it is no later term of another's.
	o = emptied()
	o.Server.Process, o.Server.InRecovery, o.Server.WasPrimary, o.Server.Promise = ha.ProcessStopped, ha.Unknown, true, 0
	for i := range o.Peers {
		r := &o.Peers[i].Report
		r.Term, r.ServerID, r.Record = 1, "1", ha.RecordSeen{Term: 1, Leader: "n2", Phase: ha.PhaseLeading}
	}
	if _, actions := settled(ha.State{}, o); committed(actions) != "refound" {
		t.Errorf("the leader of the newest term commits %s", committed(actions))
	}
}

// anewOf is the record of an election that is to be held, if there is one.
func anewOf(actions []ha.Action) (r ha.Record) {
	for _, a := range actions {
		if a.Kind == ha.Commit && a.Change.What == "ballot" {
			r = a.Change.Record
		}
	}
	return r
}

// TestElectAnew: members that have promised a term, whose record nobody knows any more, hold
// an election in which all must vote; a person may hold it without those that are not heard.
func TestElectAnew(t *testing.T) {
	forgotten := func(o ha.Observation) ha.Observation {
		for i := range o.Peers {
			r := &o.Peers[i].Report
			r.Term, r.Hears, r.Leader, r.Streaming, r.Serving, r.Role = 5, false, "", false, false, ha.RoleReplica
		}
		return o
	}
	down := forgotten(leading())
	stopped(&down)
	down.Server.WasPrimary, down.Server.ExitedAt = true, 0
	standby := forgotten(following())
	standby.Server.Promise, standby.Server.Receiving, standby.Server.Upstream, standby.Server.Settled = 5, ha.No, "", true
	for name, o := range map[string]ha.Observation{"its leader runs": forgotten(leading()), "its leader is down": down, "a standby": standby} {
		_, actions := settled(ha.State{}, o)
		r := anewOf(actions)
		if name != "a standby" && (r.Term <= 6 || r.Leader != o.Self || r.Timeline <= 3 || r.Durability.K != 1 || !slices.Equal(r.Durability.Voters, r.Members) || r.Origin.Leader != "" || r.Claims != nil) {
			t.Errorf("%s: %+v", name, actions)
		}
		silent(&o, 1)
		o.Peers[1].Report.Term = 3
		s, actions := settled(ha.State{}, o)
		if got := anewOf(actions); got.Term != 0 || !says(s, "record of term 5", "failover --to "+o.Self) {
			t.Errorf("%s, without n3: %+v, blocked by %+v", name, actions, s.Blocks)
		}
		o.Intent.Force = true
		if _, forced := settled(ha.State{}, o); anewOf(forced).Term <= 6 {
			t.Errorf("%s, without n3, forced: %+v", name, forced)
		}
		for _, a := range actions {
			if a.Kind == ha.Start && a.Primary {
				t.Errorf("%s, without n3: the primary is started in a term that is over", name)
			}
		}
	}
}

// TestRestateUnsure: who has slept, or was cut off, does not restate its record: another may
// have led since, of which Consul knows no more either.
func TestRestateUnsure(t *testing.T) {
	known, _ := ha.Decide(ha.State{}, leading())
	o := leading()
	o.Consul.Record, o.Consul.Lock = ha.Record{}, ha.Lock{}
	o.Consul.HeldAt, o.Server.LeaseUntil = now.Add(-time.Minute), now.Add(-time.Minute)
	for i := range o.Peers {
		silent(&o, i)
	}
	s, actions := ha.Decide(known, o)
	if committed(actions) != "nothing" || !says(s, "no later term has begun", "failover --to n1 --accept-data-loss") {
		t.Errorf("it commits %s, blocked by %+v", committed(actions), s.Blocks)
	}
	// A lease is by a clock, which may have stood still.
	o.Peers[0].Link, o.Peers[0].ReceivedAt, o.Peers[0].EchoSentAt = ha.LinkUp, now, now.Add(-time.Second)
	if _, actions := ha.Decide(known, o); committed(actions) != "nothing" {
		t.Errorf("a voter has confirmed its term before the loss, and it commits %s", committed(actions))
	}
	o.Peers[0].EchoSentAt = now
	if _, actions := ha.Decide(known, o); committed(actions) != "restate" {
		t.Errorf("a voter has confirmed its term, and it commits %s", committed(actions))
	}
	silent(&o, 0)
	o.Intent.Force = true
	if _, actions := ha.Decide(known, o); anewOf(actions).Term <= 4 {
		t.Errorf("forced: %+v", actions)
	}
}

// TestVotersLost: a leader whose process has not read the record that Consul has lost writes
// what is true for any set of voters; nobody is elected by the old ones meanwhile.
func TestVotersLost(t *testing.T) {
	o := leading()
	o.Consul.Record.Changes = 4
	o.Consul.Record.Durability.Voters = []string{"n3"}
	o.Peers[0].Report.Record.Changes = 9
	known, _ := ha.Decide(ha.State{}, o)
	o.Now, o.Consul.SeenAt, o.Consul.HeldAt = now.Add(100*time.Millisecond), now.Add(50*time.Millisecond), now
	_, actions := ha.Decide(known, o)
	first := slices.IndexFunc(actions, func(a ha.Action) bool { return a.Kind == ha.Commit })
	if first < 0 || actions[first].Change.What != "voters" {
		t.Fatalf("asked for %+v", actions)
	}
	if r := actions[first].Change.Record; r.Changes != 10 || r.Durability.K != 1 || len(r.Durability.Voters) != 3 {
		t.Errorf("writes %+v", r)
	}
	// n3 has read the newer record, and then reads one that was made out of the older.
	f := lonely()
	f.Self, f.Consul.Session, f.Consul.Record.Changes = "n3", "session of n3", 9
	f.Peers[1].Member, f.Peers[1].Report.Member = "n2", "n2"
	before, _ := ha.Decide(ha.State{}, f)
	f.Consul.Record.Changes, f.Consul.Record.Index, f.Consul.Record.Durability.Voters = 5, 99, []string{"n3"}
	f.Peers[1].Report.Streaming, f.Peers[1].Link = false, ha.LinkSilent
	if _, actions := settled(before, f); committed(actions) != "nothing" {
		t.Errorf("a voter of the older record commits %s", committed(actions))
	}
}

// TestPromotedElsewhere: a leader whose server a person has promoted onto a timeline that its
// term has not claimed stops it, and gives the lead away.
func TestPromotedElsewhere(t *testing.T) {
	for name, o := range map[string]ha.Observation{"promoting": promoting(), "leading": leading()} {
		o.Server.InRecovery, o.Server.Writable, o.Server.Position = ha.No, ha.Yes, at(9, 120, ha.Fork{TLI: 3, End: 100})
		known, actions := ha.Decide(ha.State{}, o)
		stop := slices.IndexFunc(actions, func(a ha.Action) bool { return a.Kind == ha.Stop && a.Immediate })
		if stop < 0 || committed(actions) != "nothing" {
			t.Errorf("%s: asked for %+v", name, actions)
		}
		stopped(&o)
		o.Server.WasPrimary, o.Server.ExitedAt, o.Server.Position = true, now, ha.Position{}
		for i := range o.Peers {
			o.Peers[i].Report.Eligible, o.Peers[i].Report.Hears = i == 1, false
		}
		if _, actions := ha.Decide(known, o); committed(actions) != "pass" {
			t.Errorf("%s: beside n3 it commits %s", name, committed(actions))
		}
		o.Peers[1].Report.Eligible = false
		s, actions := ha.Decide(known, o)
		if committed(actions) != "nothing" || !says(s, "another member that can lead", "failover --to "+o.Self) {
			t.Errorf("%s: alone it commits %s, blocked by %+v", name, committed(actions), s.Blocks)
		}
		o.Intent.Force = true
		if _, actions := ha.Decide(known, o); committed(actions) != "ballot" {
			t.Errorf("%s: forced it commits %s", name, committed(actions))
		}
	}
}

// TestForcedWithStrayedLog: a log that a person takes for the cluster's begins its claims anew,
// or everybody who follows it would be cloned again and again.
func TestForcedWithStrayedLog(t *testing.T) {
	o := electing()
	o.Server.Position = at(9, 120, ha.Fork{TLI: 3, End: 100})
	o.Intent.Force = true
	_, actions := settled(ha.State{}, o)
	for _, a := range actions {
		if a.Kind == ha.Commit && a.Change.What == "claim" {
			r := a.Change.Record
			if after := at(r.Timeline, 130, ha.Fork{TLI: 3, End: 100}, ha.Fork{TLI: 9, End: 120}); !r.Claimed(after) || len(r.Claims) != 1 {
				t.Errorf("%+v does not hold for %v", r.Claims, after)
			}
			return
		}
	}
	t.Errorf("it claims nothing: %+v", actions)
}

// TestUnrecordedStands: a member that is not on record yet stands in no election by itself,
// and says so.
func TestUnrecordedStands(t *testing.T) {
	o := lonely()
	o.Consul.Record.Members = []string{"n1", "n3"}
	s, actions := settled(ha.State{}, o)
	if committed(actions) != "nothing" || !says(s, "not yet among them", "failover --to n2 --accept-data-loss") {
		t.Errorf("it commits %s, blocked by %+v", committed(actions), s.Blocks)
	}
	o.Intent.Force = true
	if _, actions := settled(ha.State{}, o); !slices.Contains(anewOf(actions).Members, "n2") {
		t.Errorf("forced: %+v", actions)
	}
}

// TestForceWaitsForLease: who accepts a loss does not accept two primaries: the lease of one
// that is silent ends soon.
func TestForceWaitsForLease(t *testing.T) {
	o := electing()
	o.Consul.Record.Durability, o.Policy.Mode, o.Server.Sync = ha.Durability{Mode: ha.ModeAsync, Voters: []string{}}, ha.ModeAsync, ha.SyncSetting{}
	o.Intent.Force = true
	s, actions := ha.Decide(ha.State{}, o)
	if committed(actions) != "nothing" || !says(s, "the end of the lease of n1", "") {
		t.Errorf("at once it commits %s, blocked by %+v", committed(actions), s.Blocks)
	}
	if got := step(o); !strings.HasPrefix(got, "blocked") {
		s, _ := ha.Decide(ha.State{}, o)
		o.Now = now.Add(6 * time.Second)
		if _, actions := ha.Decide(s, o); committed(actions) != "claim" {
			t.Errorf("when it is over it commits %s", committed(actions))
		}
	}
}

// TestForcedBesideForced: a forced candidate that waits out a lease is not deposed by another
// that is forced too; and one with a log of its own goes on to its promotion.
func TestForcedBesideForced(t *testing.T) {
	o := lonely()
	r := &o.Consul.Record
	r.Term, r.Leader, r.Phase, r.Durability = 4, "n3", ha.PhaseElecting, ha.Durability{Mode: ha.ModeAsync, Voters: []string{}}
	o.Policy.Mode, o.Server.Promise, o.Server.Fenced, o.Server.Settled, o.Server.Upstream = ha.ModeAsync, 4, true, true, ""
	o.Peers[1].Report.Term, o.Peers[1].Report.Role = 4, ha.RoleCandidate
	o.Peers[1].Report.Record = ha.RecordSeen{Term: 4, Leader: "n3", Phase: ha.PhaseElecting, Index: 7}
	o.Intent.Force = true
	for after, want := range map[time.Duration]string{3 * time.Second: "nothing", 9 * time.Second: "ballot"} {
		s := ha.State{PhaseAt: now.Add(-after), PhaseTerm: 4, Phase: ha.PhaseElecting, LostAt: now.Add(-after), LostTerm: 4}
		if _, actions := ha.Decide(s, o); committed(actions) != want {
			t.Errorf("after %s it commits %s", after, committed(actions))
		}
	}
	o = promoting()
	o.Server.Strayed, o.Server.Promise = "it was promoted by hand", 4
	if got := step(o); got == "promote" {
		t.Error("a log of its own is promoted without a person's word")
	}
	o.Intent.Force = true
	if got := step(o); got != "promote" {
		t.Errorf("forced: %s", got)
	}
}
