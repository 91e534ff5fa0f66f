package ha_test

import (
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestHalfFenced: a sidecar that was killed between the promise and the fence finds its
// server promised, and still set to receive. It fences it, or its vote would be waited
// for until another election; where nobody else may stand, for ever.
func TestHalfFenced(t *testing.T) {
	for name, leader := range map[string]string{"the candidate": "n2", "a voter": "n3"} {
		o := electing()
		o.Consul.Record.Leader = leader
		if leader != "n2" {
			o.Consul.Lock = ha.Lock{Holder: leader, Session: "session of " + leader, Index: 8}
			o.Peers[1].Report.Record.Leader = leader
		}
		if got := step(o); got == "fence" {
			t.Errorf("%s: whole, and yet: %s", name, got)
		}
		o.Server.Upstream, o.Server.Settled = "n1", false
		if got := step(o); got != "fence" {
			t.Errorf("%s: %s", name, got)
		}
	}
}
