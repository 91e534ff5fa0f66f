package member

import (
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// seenBy is what a member sees of a cluster that n1 leads in term 3.
func seenBy(self string) *sidecar.Snapshot {
	s := &sidecar.Snapshot{}
	r := ha.Record{Term: 3, Leader: "n1", Phase: ha.PhaseLeading, Index: 9}
	s.Observation.Self, s.Observation.Consul.Record, s.State.Last, s.State.Hears = self, r, r, true
	return s
}

// TestWayOfFailover: a loss that was accepted is never turned into a switchover that
// cannot be, nor refused: with a record that is gone, old or broken, and with a primary
// whose stop hangs.
func TestWayOfFailover(t *testing.T) {
	lost := func(s *sidecar.Snapshot) { s.State.Hears = false }
	gone := func(s *sidecar.Snapshot) { s.Observation.Consul.Record = ha.Record{} }
	broken := func(s *sidecar.Snapshot) { gone(s); s.Observation.Consul.Broken = "it is not a record" }
	older := func(s *sidecar.Snapshot) {
		s.Observation.Consul.Record = ha.Record{Term: 2, Leader: "n2", Phase: ha.PhaseLeading, Index: 5}
	}
	earlier := func(s *sidecar.Snapshot) {
		s.Observation.Consul.Record = ha.Record{Term: 2, Leader: "n3", Phase: ha.PhaseLeading, Index: 5}
	}
	restarted := func(s *sidecar.Snapshot) { lost(s); broken(s); s.State.Last = ha.Record{} }
	blocked := func(s *sidecar.Snapshot) { lost(s); s.State.Blocks = []ha.Block{{What: "no election is begun"}} }
	for _, c := range []struct {
		name        string
		self        string
		change      []func(*sidecar.Snapshot)
		plain, loss way // without and with --accept-data-loss, to n2
	}{
		{"a primary that is well, asked", "n1", nil, handOver, handOver},
		{"a primary that is well, heard by the candidate", "n2", nil, handOver, handOver},
		{"no primary, at the candidate", "n2", []func(*sidecar.Snapshot){lost}, wait, force},
		{"no primary, and a rule says what is missing", "n2", []func(*sidecar.Snapshot){blocked}, explain, force},
		{"no primary, at another member", "n3", []func(*sidecar.Snapshot){lost}, askThere, askThere},

		{"no record, and no primary", "n2", []func(*sidecar.Snapshot){lost, gone}, wait, force},
		{"a broken record, and no primary", "n2", []func(*sidecar.Snapshot){lost, broken}, wait, force},
		{"an older record of the candidate, and no primary", "n2", []func(*sidecar.Snapshot){lost, older}, wait, force},
		{"a broken record that was never read well", "n2", []func(*sidecar.Snapshot){restarted}, wait, force},
		{"no record, and a primary that is heard", "n2", []func(*sidecar.Snapshot){gone}, handOver, force},
		{"an older record, and a primary that is heard", "n2", []func(*sidecar.Snapshot){older}, handOver, force},
		{"an older record of a third, and a primary that is heard", "n2", []func(*sidecar.Snapshot){earlier}, handOver, force},
		{"a broken record, and a primary that is heard by a third", "n3", []func(*sidecar.Snapshot){broken}, handOver, askThere},
		{"a primary whose record is gone, asked itself", "n1", []func(*sidecar.Snapshot){gone}, handOver, askThere},

		{"a primary whose stop hangs, asked itself", "n1", []func(*sidecar.Snapshot){func(s *sidecar.Snapshot) { s.Report.Stopping = true }}, handOver, askThere},
		{"a primary whose stop hangs, at the candidate, which hears it no more", "n2", []func(*sidecar.Snapshot){lost}, wait, force},
	} {
		s := seenBy(c.self)
		for _, change := range c.change {
			change(s)
		}
		if got := wayOf(s, api.Failover{Candidate: "n2"}); got != c.plain {
			t.Errorf("%s: got %d, want %d", c.name, got, c.plain)
		}
		if got := wayOf(s, api.Failover{Candidate: "n2", AcceptDataLoss: true}); got != c.loss {
			t.Errorf("%s, the loss accepted: got %d, want %d", c.name, got, c.loss)
		}
	}
	// A primary that hides what it recovered, and is told to show it.
	if got := wayOf(seenBy("n1"), api.Failover{Candidate: "n1", AcceptDataLoss: true}); got != force {
		t.Errorf("the primary itself: got %d", got)
	}
}

// TestLeadsNow: a record of an earlier term of this member's is not success.
func TestLeadsNow(t *testing.T) {
	s := seenBy("n1")
	s.Observation.Server.InRecovery = ha.No
	if !leadsNow(s) {
		t.Error("a primary is not taken for one")
	}
	s = seenBy("n2")
	s.Observation.Consul.Record = ha.Record{Term: 2, Leader: "n2", Phase: ha.PhaseLeading, Index: 5}
	s.Observation.Server.InRecovery = ha.Yes
	if leadsNow(s) {
		t.Error("n2 follows n1, and Consul was put back to a term of n2")
	}
}

// TestNotYet: who waited in vain is told why.
func TestNotYet(t *testing.T) {
	hears, blocked, unfit := seenBy("n2"), seenBy("n2"), seenBy("n2")
	blocked.State.Hears, blocked.State.Blocks = false, []ha.Block{{What: "this member is not promoted", Missing: "the position of n3"}}
	unfit.State.Hears = false
	for want, s := range map[string]*sidecar.Snapshot{"does not depose": hears, "the position of n3": blocked, "nofailover": unfit} {
		if err := notYet(s); !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
}
