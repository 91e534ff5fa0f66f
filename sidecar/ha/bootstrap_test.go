package ha_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

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
