package ha_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

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

// A voter's word that it hears nobody counts only for the phase that it spoke of
// (S8; found by the simulation, seed 9057530 of three members): before the leader
// led there was nobody to hear.
func TestPreVoteOfAnEarlierPhase(t *testing.T) {
	o := following()
	o.Consul.Record.Durability.Mode, o.Consul.Record.Durability.K, o.Consul.Record.Durability.Voters = ha.ModeAsync, 0, nil
	o.Policy.Mode = ha.ModeAsync
	o.Server.Receiving = ha.No
	o.Peers[0].Link, o.Peers[0].ReceivedAt = ha.LinkSilent, now.Add(-3*time.Second)
	n3 := &o.Peers[1].Report
	n3.Hears, n3.Record.Phase = false, ha.PhasePromoting
	s := ha.State{PhaseTerm: 3, Phase: ha.PhaseLeading, PhaseAt: now.Add(-time.Minute), LostAt: now.Add(-time.Minute), LostTerm: 3}
	ballot := func() bool {
		_, actions := ha.Decide(s, o)
		for _, a := range actions {
			if a.Kind == ha.Commit && a.Change.What == "ballot" {
				return true
			}
		}
		return false
	}
	if ballot() {
		t.Error("an election was begun by the word of an earlier phase")
	}
	n3.Record.Phase = ha.PhaseLeading
	if !ballot() {
		t.Error("no election was begun although both have lost the leader")
	}
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

// TestUnrecordedHeir: the lock is not passed to a member that is not on record,
// and one that leads all the same needs the word of all who are (S5): it would
// else count on nobody, and go on alone while they elect another.
func TestUnrecordedHeir(t *testing.T) {
	o := leading()
	o.Policy.Mode, o.Consul.Record.Durability = ha.ModeAsync, ha.Durability{Mode: ha.ModeAsync}
	o.Consul.Record.Members = []string{"n1"}
	o.Server.Process, o.Server.InRecovery, o.Server.ExitedAt = ha.ProcessStopped, ha.Unknown, now-1
	if pass, _ := asked(o, ha.Commit); pass != nil {
		t.Errorf("the lock is passed: %+v", pass.Change)
	}
	o = leading()
	o.Policy.Mode, o.Consul.Record.Durability = ha.ModeAsync, ha.Durability{Mode: ha.ModeAsync}
	o.Consul.Record.Members = []string{"n2"}
	o.Consul.HeldAt, o.Consul.HeldTerm = 0, 0
	for i := range o.Peers {
		o.Peers[i].EchoSentAt = 0
	}
	if _, s := asked(o, ha.Lease); s.LeaseUntil != 0 {
		t.Errorf("a lease until %d without anybody's word", s.LeaseUntil)
	}
}

// TestForceOnce: a person's decision is good for one term. Of two members that were both to
// lead, and that replay for a minute, each would else end the other's election.
func TestForceOnce(t *testing.T) {
	o := lonely()
	o.Intent.Force, o.Intent.Since = true, now
	s, actions := ha.Decide(ha.State{}, o)
	if got := committed(actions); got != "ballot" {
		t.Fatalf("it asks for %s", got)
	}
	r := &o.Consul.Record
	elect := func(term uint64, leader string) {
		r.Term, r.Leader, r.Phase, r.Index = term, leader, ha.PhaseElecting, r.Index+1
		o.Server.Promise, o.Server.Fenced, o.Server.Settled, o.Server.Upstream = term, true, true, ""
		o.Now = o.Now.Add(time.Minute)
		s, actions = ha.Decide(s, o)
	}
	elect(4, "n2")
	if s.Forced.Spent {
		t.Error("it has not led yet")
	}
	elect(5, "n3")
	if got := committed(actions); got != "nothing" || !s.Forced.Spent {
		t.Errorf("another's turn: it asks for %s", got)
	}
	if r := ha.MakeReport(s, func() ha.Observation { o := o; o.Server.Strayed = "by hand"; return o }()); r.Eligible {
		t.Error("it says that it may lead, be its log none of the cluster's")
	}
	o.Intent.Since = o.Now // and again
	if s, actions = ha.Decide(s, o); committed(actions) != "ballot" {
		t.Errorf("a new decision: it asks for %s", committed(actions))
	}
}
