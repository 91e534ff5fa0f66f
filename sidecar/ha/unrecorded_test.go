package ha_test

import (
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestUnrecordedHeir: the lock is not passed to a member that is not on record,
// and one that leads all the same needs the word of all who are (S5): it would
// else count on nobody, and go on alone while they elect another.
func TestUnrecordedHeir(t *testing.T) {
	o := leading()
	o.Policy.Mode, o.Consul.Record.Durability = ha.ModeAsync, ha.Durability{Mode: ha.ModeAsync}
	o.Consul.Record.Members = []string{"n1"}
	o.Server.Process, o.Server.InRecovery, o.Server.ExitedAt = ha.ProcessStopped, ha.Unknown, now-1
	if pass, _ := asked(o, ha.Commit); pass != nil {
		t.Errorf("the lock is passed: %+v", pass.Change)
	}
	o = leading()
	o.Policy.Mode, o.Consul.Record.Durability = ha.ModeAsync, ha.Durability{Mode: ha.ModeAsync}
	o.Consul.Record.Members = []string{"n2"}
	o.Consul.HeldAt, o.Consul.HeldTerm = 0, 0
	for i := range o.Peers {
		o.Peers[i].EchoSentAt = 0
	}
	if _, s := asked(o, ha.Lease); s.LeaseUntil != 0 {
		t.Errorf("a lease until %d without anybody's word", s.LeaseUntil)
	}
}

// TestLeaseInDoubt: a leader that is alone on record, and does not know whether a
// transaction of its own has admitted others, needs their word for its lease (S5): they
// may elect another (found by the simulation, seed 50104157 of five members).
func TestLeaseInDoubt(t *testing.T) {
	for name, c := range map[string]struct {
		but func(o *ha.Observation)
		has bool
	}{
		"nothing is in doubt":        {func(*ha.Observation) {}, true},
		"the outcome is not known":   {func(o *ha.Observation) { o.Busy.Doubt = o.Consul.Record.Index }, false},
		"it is under way":            {func(o *ha.Observation) { o.Busy.Commit = true }, false},
		"the record has moved since": {func(o *ha.Observation) { o.Busy.Doubt = o.Consul.Record.Index - 1 }, true},
		"it is not known, and all confirm": {func(o *ha.Observation) {
			o.Busy.Doubt = o.Consul.Record.Index
			for i := range o.Peers {
				o.Peers[i].EchoSentAt = now
			}
		}, true},
	} {
		o := leading()
		o.Policy.Mode, o.Consul.Record.Durability = ha.ModeAsync, ha.Durability{Mode: ha.ModeAsync}
		o.Consul.Record.Members, o.Consul.HeldAt, o.Consul.HeldTerm = []string{"n1"}, 0, 0
		for i := range o.Peers {
			o.Peers[i].EchoSentAt = 0
		}
		c.but(&o)
		if _, s := asked(o, ha.Lease); (s.LeaseUntil != 0) != c.has {
			t.Errorf("%s: a lease until %d", name, s.LeaseUntil)
		}
	}
}
