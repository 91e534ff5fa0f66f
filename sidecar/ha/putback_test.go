package ha_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

// settled decides for a member to which all that it observes has been so for a minute, and
// which remembers what it knew before.
func settled(before ha.State, o ha.Observation) (ha.State, []ha.Action) {
	then := o
	then.Now = now.Add(-time.Minute)
	s, _ := ha.Decide(before, then)
	s.LostAt = now.Add(-time.Minute)
	return ha.Decide(s, o)
}

// putBack is the record of an earlier term, of n2's, with the lock as it was then.
func putBack(o *ha.Observation) {
	r := &o.Consul.Record
	r.Term, r.Leader, r.Timeline, r.Claims, r.Index = 2, "n2", 2, []ha.Claim{{TLI: 2, Term: 2}}, 5
	o.Consul.Lock = ha.Lock{Holder: "n2", Session: "old", Index: 5}
	o.Consul.HeldAt, o.Consul.HeldTerm = 0, 0
}

// TestConsulPutBack: a primary whose record Consul has lost, or has an earlier one of, goes
// on by its members' echoes and writes its record again; nobody else changes it.
func TestConsulPutBack(t *testing.T) {
	for _, c := range []struct {
		name string
		lose func(*ha.Observation)
		lock ha.LockChange
	}{
		{"a snapshot from before the failover", putBack, ha.LockTake},
		{"a snapshot from before a change of voters", func(o *ha.Observation) {
			o.Consul.Record.Index, o.Consul.Record.Durability.Voters = 5, []string{"n2"}
		}, ha.LockKeep},
		{"all keys deleted", func(o *ha.Observation) { o.Consul.Record, o.Consul.Lock = ha.Record{}, ha.Lock{} }, ha.LockTake},
		{"only the state key deleted", func(o *ha.Observation) { o.Consul.Record = ha.Record{} }, ha.LockKeep},
		{"a bad write to the state key", func(o *ha.Observation) {
			o.Consul.Record, o.Consul.Broken, o.Consul.BrokenIndex = ha.Record{}, "it is not a record in JSON", 9
		}, ha.LockKeep},
	} {
		t.Run(c.name, func(t *testing.T) {
			known, _ := ha.Decide(ha.State{}, leading())
			o := leading()
			c.lose(&o)
			s, actions := ha.Decide(known, o)
			var restated bool
			for _, a := range actions {
				switch a.Kind {
				case ha.Stop, ha.Exit:
					t.Errorf("asked for %s: %s", a.Kind, a.Why)
				case ha.Commit:
					r := a.Change.Record
					restated = restated || a.Change.What == "restate" && r.Term == 3 && r.Leader == "n1" && len(r.Durability.Voters) == 2 &&
						a.Change.Lock == c.lock && r.Index == max(o.Consul.Record.Index, o.Consul.BrokenIndex)
				}
			}
			if !restated || s.LeaseUntil <= now {
				t.Errorf("asked for %+v, lease until %d", actions, s.LeaseUntil)
			}

			// Who follows it goes on, and says how to go on without it.
			known, _ = ha.Decide(ha.State{}, following())
			f := following()
			c.lose(&f)
			f.Consul.Session = "session of n2"
			s, actions = settled(known, f)
			if len(actions) > 0 || !s.Hears {
				t.Errorf("n2 hears: %v, and asks for %+v", s.Hears, actions)
			}
		})
	}
}

// TestConsulPutBackWithoutLeader: where the leader is gone too, status names a command, and
// that makes a leader of a term above all that are known.
func TestConsulPutBackWithoutLeader(t *testing.T) {
	for _, c := range []struct {
		name   string
		lose   func(*ha.Observation)
		forget bool // the sidecar was restarted since
	}{
		{"put back", putBack, false},
		{"put back, all sidecars restarted", putBack, true},
		{"all keys deleted", func(o *ha.Observation) { o.Consul.Record, o.Consul.Lock = ha.Record{}, ha.Lock{} }, false},
		{"all keys deleted, all sidecars restarted", func(o *ha.Observation) { o.Consul.Record, o.Consul.Lock = ha.Record{}, ha.Lock{} }, true},
		{"a bad write, all sidecars restarted", func(o *ha.Observation) {
			o.Consul.Record, o.Consul.Lock, o.Consul.Broken, o.Consul.BrokenIndex = ha.Record{}, ha.Lock{}, "it is not a record in JSON", 9
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			known := ha.State{}
			if !c.forget {
				long := following()
				long.Now = now.Add(-time.Hour)
				known, _ = ha.Decide(known, long)
			}
			o := following()
			silent(&o, 0)
			o.Peers = o.Peers[1:] // n3, which has promised term 3 too
			o.Peers[0].Report.Hears, o.Peers[0].Report.Streaming = false, false
			o.Server.Receiving, o.Server.Upstream, o.Server.Settled = ha.No, "", true
			c.lose(&o)
			s, actions := settled(known, o)
			if got := committed(actions); got != "nothing" {
				t.Errorf("without a command it commits %s", got)
			}
			if len(s.Blocks) == 0 || !strings.Contains(s.Blocks[0].Override, "failover --to n2 --accept-data-loss") || s.Blocks[0].Cost == "" {
				t.Errorf("status names no command: %+v", s.Blocks)
			}
			o.Intent.Force = true
			_, actions = settled(known, o)
			for _, a := range actions {
				if a.Kind == ha.Commit && a.Change.Record.Term > 3 && a.Change.Record.Leader == "n2" && a.Change.Record.Timeline >= 3 {
					return
				}
			}
			t.Errorf("the command makes no leader: %+v", actions)
		})
	}
}

// TestEarlierPhase: Consul was put back to an earlier phase of the term, and its leader has
// changed that record since as often as the lost one was: who has read the lost one takes it
// for the newer all the same, and elects nobody.
func TestEarlierPhase(t *testing.T) {
	f := following()
	f.Consul.Record.Changes, f.Now = 9, now.Add(-time.Hour)
	known, _ := ha.Decide(ha.State{}, f)
	f.Now = now
	f.Consul.Record.Phase, f.Consul.Record.Timeline, f.Consul.Record.Index = ha.PhaseElecting, 2, 20
	silent(&f, 0)
	f.Server.Receiving, f.Peers[1].Report.Hears = ha.No, false
	s, actions := settled(known, f)
	if s.Last.Phase != ha.PhaseLeading || committed(actions) != "nothing" || len(s.Blocks) == 0 || s.Blocks[0].Override == "" {
		t.Errorf("it knows of phase %s, commits %s, blocked by %+v", s.Last.Phase, committed(actions), s.Blocks)
	}
}

// TestClaimRestored: a leader whose claim Consul has lost has all that was acknowledged, so it
// says that anybody may hold it, starts its server as it was, and records where that is.
func TestClaimRestored(t *testing.T) {
	o := sim.Electing()
	stopped(&o)
	o.Server.WasPrimary, o.Server.Position = true, ha.Position{}
	o.Consul.Record.Final = &ha.Final{Member: "n1", Position: at(3, 100)}
	claimed, _ := asked(o, ha.Commit)
	if claimed == nil || claimed.Change.What != "claimed" {
		t.Fatalf("asked for %+v", claimed)
	}
	o.Consul.Record = claimed.Change.Record
	o.Consul.Record.Index = 9
	if d := o.Consul.Record.Durability; o.Consul.Record.Final != nil || d.K != 1 || len(d.Voters) != 3 {
		t.Errorf("it records %+v", o.Consul.Record)
	}
	o.Server.Armed, o.Server.LeaseUntil = true, now.Add(5*time.Second)
	if start, s := asked(o, ha.Start); start == nil || !start.Primary || !start.Hidden {
		t.Errorf("asked for %+v, blocked by %+v", start, s.Blocks)
	}
	o.Server.Process, o.Server.InRecovery, o.Server.Writable, o.Server.Position = ha.ProcessRunning, ha.No, ha.Yes, at(5, 120, ha.Fork{TLI: 3, End: 100})
	lead, s := asked(o, ha.Commit)
	if lead == nil || lead.Change.What != "lead" || lead.Change.Record.Timeline != 5 || !lead.Change.Record.Claimed(o.Server.Position) {
		t.Errorf("asked for %+v, blocked by %+v", lead, s.Blocks)
	}
}

// TestStaleFounder: a former primary founds nothing while a member is heard that knows of a
// later term, or is a primary.
func TestStaleFounder(t *testing.T) {
	o := leading()
	o.Server.Process, o.Server.InRecovery, o.Server.Armed = ha.ProcessStopped, ha.Unknown, false
	o.Consul.Record, o.Consul.Lock, o.Consul.HeldAt = ha.Record{}, ha.Lock{}, 0
	for i := range o.Peers {
		p := &o.Peers[i].Report
		p.Term, p.Record = 5, ha.RecordSeen{Term: 5, Leader: "n2", Phase: ha.PhaseLeading, Index: 99}
		p.Position = at(5, 900, ha.Fork{TLI: 3, End: 95})
	}
	s, actions := ha.Decide(ha.State{EmptySince: now.Add(-time.Hour)}, o)
	if got := committed(actions); got != "nothing" || len(s.Blocks) == 0 {
		t.Errorf("it commits %s, blocked by %+v", got, s.Blocks)
	}
	o.Peers = nil
	if _, actions = ha.Decide(ha.State{EmptySince: now.Add(-time.Second)}, o); committed(actions) != "nothing" {
		t.Error("it founds before the others could be heard")
	}
	if _, actions = ha.Decide(ha.State{EmptySince: now.Add(-time.Hour)}, o); committed(actions) != "refound" {
		t.Errorf("alone it commits %s, and is to stand in an election with its log as it is", committed(actions))
	}
}
