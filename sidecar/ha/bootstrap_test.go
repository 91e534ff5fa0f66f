package ha_test

import (
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

// TestFoundedBesideAnother: no cluster is founded under a service name that another
// cluster uses; it is said whose it is.
func TestFoundedBesideAnother(t *testing.T) {
	o := leading()
	o.Consul.Record, o.Consul.Lock = ha.Record{}, ha.Lock{}
	o.Server.Process, o.Server.WasPrimary, o.Server.InRecovery = ha.ProcessStopped, true, ha.Unknown
	o.Server.Promise, o.Peers = 0, nil // its data is brought in from elsewhere
	if _, actions := settled(ha.State{}, o); committed(actions) != "found" {
		t.Fatalf("alone it commits %s", committed(actions))
	}
	o.Consul.OtherCluster = "pg-n1 is cluster orders'"
	s, found := settled(ha.State{}, o)
	if committed(found) != "nothing" || len(s.Blocks) == 0 || !strings.Contains(s.Blocks[0].Missing, o.Consul.OtherCluster) {
		t.Errorf("beside another it commits %+v, and is blocked: %+v", found, s.Blocks)
	}
}

// TestRestoredByHand: data that PostgreSQL was told to recover founds a cluster where
// there is none, whatever this member was before, and joins none that exists.
func TestRestoredByHand(t *testing.T) {
	o := leading()
	record := o.Consul.Record
	o.Consul.Record, o.Consul.Lock, o.Peers = ha.Record{}, ha.Lock{}, nil
	o.Server = ha.Server{Postmaster: ha.Postmaster{Process: ha.ProcessStopped, Armed: true, LeaseUntil: now.Add(5 * time.Second)},
		Files: ha.Files{DataDir: ha.DataPresent, SystemID: "1", WasPrimary: true, Promise: 2, Copy: "earlier", Instructed: "recovery to a point"}}
	if _, actions := settled(ha.State{}, o); committed(actions) != "found" {
		t.Fatalf("alone it commits %s", committed(actions))
	}
	o.Consul.Record = ha.Record{Version: ha.RecordVersion, Index: 9, SystemID: "1", Term: 3, Leader: "n1", Phase: ha.PhaseBootstrap, Members: []string{"n1"}, Lease: o.Policy.Lease}
	o.Consul.Lock = ha.Lock{Session: "s1", Holder: "n1"}
	o.Consul.HeldTerm = 3
	if start, s := asked(o, ha.Start); start == nil || !start.Primary {
		t.Errorf("the founder does not start it: %+v, %+v", start, s)
	}
	o.Server.Process, o.Server.InRecovery = ha.ProcessRunning, ha.Yes
	if _, s := asked(o, ha.Start); len(s.Blocks) == 0 || !strings.Contains(s.Blocks[0].Missing, "recovery to a point") {
		t.Errorf("while it recovers: %+v", s.Blocks)
	}
	o.Consul.Record.Leader, o.Consul.Lock = "n2", ha.Lock{Session: "s2", Holder: "n2"}
	o.Server.Process, o.Server.InRecovery = ha.ProcessStopped, ha.Unknown
	if start, _ := asked(o, ha.Start); start != nil {
		t.Errorf("while another founds the cluster it is started: %+v", start)
	}
	o.Consul.Record = record
	if exit, _ := asked(o, ha.Exit); exit == nil || !strings.Contains(exit.Why, "recovery.signal") {
		t.Errorf("in a cluster that exists: %+v", exit)
	}
}

// TestHeardOneOfTwo: a member without data that was cut off, and hears one of the others
// again, founds nothing before the other had the time to say what it has.
func TestHeardOneOfTwo(t *testing.T) {
	o := following()
	o.Consul.Record, o.Consul.Lock, o.Server = ha.Record{}, ha.Lock{}, ha.Server{}
	o.Server.Process, o.Server.DataDir = ha.ProcessStopped, ha.DataAbsent
	o.Peers = []ha.Peer{{Member: "n1"}, {Member: "n3"}}
	cut, actions := settled(ha.State{}, o)
	if committed(actions) != "nothing" {
		t.Fatalf("cut off it commits %s", committed(actions))
	}
	o.Peers[1] = ha.Peer{Member: "n3", Link: ha.LinkUp, ReceivedAt: o.Now, Report: ha.Report{Member: "n3"}}
	heard, actions := ha.Decide(cut, o)
	if committed(actions) != "nothing" {
		t.Errorf("as soon as one is heard it commits %s", committed(actions))
	}
	o.Now = heard.WakeAt
	o.Peers[1].ReceivedAt = o.Now
	if _, actions = ha.Decide(heard, o); committed(actions) != "found" {
		t.Errorf("when the other is not heard either it commits %s", committed(actions))
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
