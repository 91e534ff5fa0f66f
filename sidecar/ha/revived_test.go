package ha_test

import (
	"slices"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestProofBeforeTheLock: n1's ports refused, then its host was back, cut off from the
// members, and its sidecar took the lock again and led. That it refused is no proof of
// death any more (S6; found by the simulation, seed 60387647 of three members); it is
// again after its address has answered otherwise.
func TestProofBeforeTheLock(t *testing.T) {
	elected := electing()
	elected.Policy.Mode, elected.Consul.Record.Durability = ha.ModeAsync, ha.Durability{Mode: ha.ModeAsync}
	elected.Server.Sync = ha.SyncSetting{}
	refuses := func(o ha.Observation) ha.Observation {
		o.Peers = slices.Clone(o.Peers)
		o.Peers[0].Link, o.Peers[0].PostgresRefused = ha.LinkRefused, ha.Yes
		return o
	}
	claims := func(seen ...ha.Observation) bool {
		state := ha.State{LostAt: now.Add(-time.Minute), LostTerm: 4, PhaseAt: now, PhaseTerm: 4, Phase: ha.PhaseElecting}
		for _, o := range seen {
			state, _ = ha.Decide(state, o)
		}
		state.VotedAt, state.VotedTerm = now, 4
		_, actions := ha.Decide(state, refuses(elected))
		return slices.ContainsFunc(actions, func(a ha.Action) bool { return a.Kind == ha.Commit && a.Change.What == "claim" })
	}
	up, back := following(), following()
	back.Consul.Lock.Session = "session of n1 after it was back"
	for _, c := range []struct {
		name string
		seen []ha.Observation
		want bool
	}{
		{"it refuses after it had the lock", []ha.Observation{up}, true},
		{"it takes the lock after it refused", []ha.Observation{up, refuses(up), refuses(back)}, false},
		{"it is seen, and refuses again", []ha.Observation{up, refuses(up), refuses(back), back}, true},
	} {
		if got := claims(c.seen...); got != c.want {
			t.Errorf("%s: claims %v, want %v", c.name, got, c.want)
		}
	}
}
