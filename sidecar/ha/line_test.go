package ha

import "testing"

// TestLineOf: who follows a candidate knows the timeline that it is promoted onto.
func TestLineOf(t *testing.T) {
	claim := Claim{TLI: 97, Term: 4, Parent: 3}
	for name, c := range map[string]struct {
		claims []Claim
		term   uint64
		at     TLI
		want   TLI
	}{
		"it has claimed":                 {[]Claim{{TLI: 3, Term: 2}, claim}, 4, 3, 97},
		"it is promoted":                 {[]Claim{claim}, 4, 97, 97},
		"nothing is claimed":             {nil, 4, 3, 3},
		"the claim is of an older term":  {[]Claim{claim}, 5, 3, 3},
		"its log is of another timeline": {[]Claim{claim}, 4, 2, 2},
		"its log is not known":           {[]Claim{claim}, 4, 0, 0},
	} {
		v := view{rec: Record{Term: c.term, Leader: "n2", Timeline: 97, Histories: Histories{Claims: c.claims}}, seen: RecordSeen{Term: c.term}}
		leader := Peer{Member: "n2", Report: Report{Position: Position{History: []Fork{{TLI: 1, End: 10}}, TLI: c.at, LSN: 20}}}
		got := v.lineOf(&leader)
		if got.TLI != c.want || got.TLI == 97 && c.at == 3 && (!got.Passed(3) || !got.Passed(1)) || len(leader.Report.Position.History) != 1 {
			t.Errorf("%s: %v (%v)", name, got, got.History)
		}
	}
}
