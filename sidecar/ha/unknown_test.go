package ha_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestUnknownIsSaid: a member that decides nothing, for want of what it must know first,
// says so (S11).
func TestUnknownIsSaid(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*ha.Observation)
		later  time.Duration
		want   string
	}{
		{"the guard", func(o *ha.Observation) { o.Server.Process = ha.ProcessUnknown }, 0, "the guard's report on the server"},
		{"the files", func(o *ha.Observation) { o.Server.DataDir = ha.DataUnknown }, 0, "a look at the data directory"},
		{"the files, with an error", func(o *ha.Observation) {
			o.Server.DataDir, o.Server.Problem = ha.DataUnknown, "read promise: damaged"
		}, 0, "read promise: damaged"},
		{"a newer record, for a moment", func(o *ha.Observation) { o.Peers[1].Report.Record.Term = 4 }, 0, ""},
		{"a newer record, which Consul has no more", func(o *ha.Observation) { o.Peers[1].Report.Record.Term = 4 }, 3 * time.Second, "the record of term 4"},
	} {
		o := following()
		o.Server.Settled = true
		c.change(&o)
		s, _ := ha.Decide(ha.State{}, o)
		if c.later > 0 {
			o.Now, o.Consul.SeenAt = now.Add(c.later), now.Add(c.later)
			s, _ = ha.Decide(s, o)
		}
		said := ""
		if len(s.Blocks) > 0 {
			said = s.Blocks[0].Missing
		}
		if said != c.want && (c.want == "" || !strings.HasPrefix(said, c.want)) {
			t.Errorf("%s: %q", c.name, said)
		}
	}
}
