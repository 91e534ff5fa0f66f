package ha

import "testing"

// TestLineOf: who follows a candidate knows the timeline that it is promoted onto.
func TestLineOf(t *testing.T) {
	claimed := RecordSeen{Term: 4, Leader: "n2", Phase: PhasePromoting, Timeline: 97}
	electing, later, others := claimed, claimed, claimed
	electing.Phase, later.Term, others.Leader = PhaseElecting, 5, "n3"
	for name, c := range map[string]struct {
		seen  RecordSeen
		at    TLI
		leads bool
		want  TLI
	}{
		"it has claimed":                    {claimed, 3, false, 97},
		"it is promoted":                    {claimed, 97, true, 97},
		"nothing is claimed yet":            {electing, 3, false, 3},
		"what it says is of an older term":  {later, 3, false, 3},
		"another has claimed":               {others, 3, false, 3},
		"its log is not known":              {claimed, 0, false, 0},
		"it serves, and says what it is at": {claimed, 3, true, 3},
	} {
		v := view{seen: c.seen}
		leader := Peer{Member: "n2", Report: Report{Term: 4, Serving: c.leads, Position: Position{History: []Fork{{TLI: 1, End: 10}}, TLI: c.at, LSN: 20}}}
		got := v.lineOf(&leader)
		if got.TLI != c.want || c.want == 97 && c.at == 3 && (!got.Passed(3) || !got.Passed(1)) || len(leader.Report.Position.History) != 1 {
			t.Errorf("%s: %v (%v)", name, got, got.History)
		}
	}
}
