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
