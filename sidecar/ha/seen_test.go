package ha_test

import (
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

// TestToKeep: what a process knows of the newest record is written down when it is news, and never
// an earlier one in its place.
func TestToKeep(t *testing.T) {
	term3 := ha.RecordSeen{Term: 3, Leader: "n1", Phase: ha.PhaseLeading, System: "1", Timeline: 3}
	later := func(change func(*ha.RecordSeen)) ha.RecordSeen {
		s := term3
		change(&s)
		return s
	}
	for _, c := range []struct {
		name  string
		heard ha.RecordSeen // of another member
		kept  ha.RecordSeen
		want  ha.RecordSeen // to be written; none: nothing
	}{
		{"the first", ha.RecordSeen{}, ha.RecordSeen{}, term3},
		{"the same", ha.RecordSeen{}, term3, ha.RecordSeen{}},
		{"an earlier one was kept", ha.RecordSeen{}, later(func(s *ha.RecordSeen) { s.Term, s.Leader = 2, "n2" }), term3},
		{"another phase was kept", ha.RecordSeen{}, later(func(s *ha.RecordSeen) { s.Phase = ha.PhasePromoting }), term3},
		{"a later one was kept", ha.RecordSeen{}, later(func(s *ha.RecordSeen) { s.Term = 4 }), ha.RecordSeen{}},
		{"another cluster's was kept", ha.RecordSeen{}, later(func(s *ha.RecordSeen) { s.Term, s.System = 9, "2" }), term3},
		{"a later one is heard of", ha.RecordSeen{Term: 5, Leader: "n3", Phase: ha.PhaseElecting, System: "1", Index: 40}, term3,
			ha.RecordSeen{Term: 5, Leader: "n3", Phase: ha.PhaseElecting, System: "1"}},
	} {
		o := sim.Leading()
		o.Server.Seen.RecordSeen = c.kept
		if c.heard.Term > 0 {
			o.Peers[0].Report.Record = c.heard
		}
		s, _ := ha.Decide(ha.State{}, o)
		got, news := s.ToKeep(c.kept)
		if !news {
			got = ha.RecordSeen{}
		}
		if got != c.want {
			t.Errorf("%s: %+v is to be written, want %+v", c.name, got, c.want)
		}
	}
}

// TestForgotten: a member whose vote alone elects, by the record, and that has not promised the
// record's term, has lost its state.
func TestForgotten(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*ha.Observation)
		want   uint64
	}{
		"its state is lost":         {func(o *ha.Observation) { o.Server.Promise = 0 }, 3},
		"an earlier one is there":   {func(o *ha.Observation) { o.Server.Promise = 2 }, 3},
		"nothing is lost":           {func(*ha.Observation) {}, 0},
		"its data are lost as well": {func(o *ha.Observation) { o.Server.Promise, o.Server.DataDir = 0, ha.DataAbsent }, 0},
		"it is no voter":            {func(o *ha.Observation) { o.Server.Promise, o.Consul.Record.Durability.Voters = 0, []string{"n3"} }, 0},
		"others vote as well":       {func(o *ha.Observation) { o.Server.Promise, o.Consul.Record.Durability.Voters = 0, []string{"n2", "n3"} }, 0},
		"an election is under way":  {func(o *ha.Observation) { o.Server.Promise, o.Consul.Record.Phase = 0, ha.PhaseElecting }, 0},
	} {
		o := sim.Following()
		o.Consul.Record.Durability.Voters = []string{"n2"}
		c.change(&o)
		if s, _ := ha.Decide(ha.State{}, o); s.ForgotTerm != c.want {
			t.Errorf("%s: forgotten is %d, want %d", name, s.ForgotTerm, c.want)
		}
	}

	// What this process has copied itself has no promise yet.
	o := sim.Following()
	o.Consul.Record.Durability.Voters = []string{"n2"}
	o.Server.Promise, o.Server.DataDir = 0, ha.DataAbsent
	s, _ := ha.Decide(ha.State{}, o)
	o.Server.DataDir = ha.DataPresent
	if s, _ = ha.Decide(s, o); s.ForgotTerm != 0 {
		t.Errorf("after a copy: forgotten is %d", s.ForgotTerm)
	}
}
