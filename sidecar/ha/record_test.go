package ha_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

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

func validRecord() ha.Record {
	return ha.Record{
		Version: 1, SystemID: "7", Term: 3, Leader: "a", Timeline: 2, Phase: ha.PhaseLeading,
		Durability: ha.Durability{Mode: ha.ModeQuorum, K: 1, Voters: []string{"b", "c"}}, Members: []string{"a", "b", "c"},
	}
}

func TestValidateRecord(t *testing.T) {
	if err := validRecord().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(*ha.Record){
		"newer version":        func(r *ha.Record) { r.Version = ha.RecordVersion + 1 },
		"no version":           func(r *ha.Record) { r.Version = 0 },
		"no term":              func(r *ha.Record) { r.Term = 0 },
		"unknown phase":        func(r *ha.Record) { r.Phase = "ruling" },
		"unknown mode":         func(r *ha.Record) { r.Durability.Mode = "maybe" },
		"more than there are":  func(r *ha.Record) { r.Durability.K = 3 },
		"negative k":           func(r *ha.Record) { r.Durability.K = -1 },
		"unsorted voters":      func(r *ha.Record) { r.Durability.Voters = []string{"c", "b"} },
		"no system identifier": func(r *ha.Record) { r.SystemID = "" },
	} {
		r := validRecord()
		damage(&r)
		if err := r.Validate(); !errors.Is(err, ha.ErrRecord) {
			t.Errorf("%s: got %v, want ErrRecord", name, err)
		}
	}
}

// TestRecordText pins the layout that other versions and people read.
func TestRecordText(t *testing.T) {
	r := validRecord()
	r.Index = 99
	r.Final = &ha.Final{Member: "a", Position: ha.Position{TLI: 2, LSN: 0x16B374D848, History: []ha.Fork{{TLI: 1, End: 255}}}}
	got, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"version":1,"system_identifier":"7","term":3,"leader":"a","timeline":2,"phase":"leading",` +
		`"durability":{"mode":"quorum","k":1,"voters":["b","c"]},"members":["a","b","c"],"origin":{"term":0,"leader":""},` +
		`"final":{"member":"a","position":{"history":[{"tli":1,"end":"0/FF"}],"tli":2,"lsn":"16/B374D848"}}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
