package ha_test

import (
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestWhyStrayed: a member's word counts most, then the record's; what no term has claimed
// counts only by the newest record.
func TestWhyStrayed(t *testing.T) {
	rec := ha.Record{Term: 3, Timeline: 3, Histories: ha.Histories{Claims: []ha.Claim{{TLI: 3, Term: 3}}, Diverged: []ha.Diverged{{Member: "n3", Copy: "c3"}}}}
	for _, c := range []struct {
		member, copy, word string
		tli                ha.TLI
		older              bool
		want               string
	}{
		{member: "n2", tli: 3},
		{member: "n2", tli: 9, want: "no term of this cluster began"},
		{member: "n2", tli: 9, older: true},
		{member: "n3", copy: "c3", tli: 3, older: true, want: "more log of the primary's timeline"},
		{member: "n3", copy: "c4", tli: 3},
		{member: "n3", copy: "c3", word: "run by hand", tli: 9, want: "run by hand"},
	} {
		got := rec.Strayed(ha.Diverged{Member: c.member, Copy: c.copy}, c.word, at(c.tli, 100), func() bool { return !c.older })
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
