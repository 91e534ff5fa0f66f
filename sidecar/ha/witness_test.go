package ha_test

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestFirstWord: a word that nobody ever had is for the primary, or for the site that is to
// take the writes where the other answers and does not take them: else each would wait for it.
func TestFirstWord(t *testing.T) {
	heard := now.Add(-time.Second)
	for name, c := range map[string]struct {
		change func(*ha.Observation)
		first  bool
	}{
		"a primary": {func(*ha.Observation) {}, true},
		"its server is down, and the other answers as a standby": {func(o *ha.Observation) {
			down(o)
			o.Source.HeardAt = heard
		}, true},
		"its server is down, and the other does not answer": {down, false},
		"its server is down, and the other has a primary": {func(o *ha.Observation) {
			down(o)
			o.Source.HeardAt, o.Source.SeenAt = heard, heard
		}, false},
		"it follows": {func(o *ha.Observation) {
			o.Consul.Record.StandbyOf, o.Server.InRecovery, o.Source.HeardAt = "pg@dc2", ha.Yes, heard
			o.Intent = ha.Intent{PromoteSite: true, Since: heard}
		}, false},
	} {
		o := leading()
		o.Policy.Sites = ha.Sites{StandbyOf: "pg@dc2", Witness: "dc3", ClosedAlone: true}
		c.change(&o)
		if s, _ := longAgo(o); s.Wish.First != c.first || !s.Wish.Hold && name != "it follows" {
			t.Errorf("%s: %+v", name, s.Wish)
		}
	}
}

// down lets the server of a primary be down.
func down(o *ha.Observation) {
	o.Server.Process, o.Server.InRecovery, o.Server.ExitedAt, o.Server.Armed = ha.ProcessStopped, ha.Unknown, now.Add(-time.Second), false
}
