package ha_test

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestLeaseIsDatedFromTheRequest: LiteFS dates its lease after the call that
// renews it, and so believes in it for a round trip too long.
func TestLeaseIsDatedFromTheRequest(t *testing.T) {
	o := leading()
	o.Consul.HeldAt, o.Consul.SeenAt = now.Add(-3*time.Second), now
	for i := range o.Peers {
		o.Peers[i].EchoSentAt = now.Add(-4 * time.Second)
	}
	if s, _ := ha.Decide(ha.State{}, o); s.LeaseUntil != now.Add(2*time.Second) {
		t.Errorf("the lease ends in %v", s.LeaseUntil.Sub(now))
	}
	o.Consul.HeldTerm-- // held in an earlier term only: what the members confirmed counts
	if s, _ := ha.Decide(ha.State{}, o); s.LeaseUntil != now.Add(time.Second) || s.VouchedUntil != s.LeaseUntil {
		t.Errorf("by the members' word the lease ends in %v", s.LeaseUntil.Sub(now))
	}
}

// TestLeaseInTheRecord: what a successor waits for is the longest lease that the primary may
// hold, whatever its own setting is.
func TestLeaseInTheRecord(t *testing.T) {
	for _, c := range []struct {
		name           string
		record, own    time.Duration
		guard          time.Duration // until the guard's lease ends
		want           string
		until, record2 time.Duration
	}{
		{"equal", 5 * time.Second, 5 * time.Second, 5 * time.Second, "nothing", 5 * time.Second, 0},
		{"raised: recorded before it is used", 5 * time.Second, 10 * time.Second, 5 * time.Second, "lease", 5 * time.Second, 10 * time.Second},
		{"lowered: used at once, recorded when the longer one has ended", 10 * time.Second, 5 * time.Second, 9 * time.Second, "nothing", 5 * time.Second, 0},
		{"and then", 10 * time.Second, 5 * time.Second, 5 * time.Second, "lease", 5 * time.Second, 5 * time.Second},
	} {
		o := leading()
		o.Consul.Record.Lease, o.Policy.Lease, o.Server.LeaseUntil = c.record, c.own, now.Add(c.guard)
		s, actions := ha.Decide(ha.State{}, o)
		if got := committed(actions); got != c.want || s.LeaseUntil != now.Add(c.until) {
			t.Errorf("%s: commits %s, want %s; lease for %s", c.name, got, c.want, time.Duration(s.LeaseUntil-now))
		}
		for _, a := range actions {
			if a.Kind == ha.Commit && a.Change.Record.Lease != c.record2 {
				t.Errorf("%s: records %s", c.name, a.Change.Record.Lease)
			}
		}
	}
}

// TestLeaseInDoubt: a leader that is alone on record, and does not know whether a
// transaction of its own has admitted others, needs their word for its lease (S5): they
// may elect another (found by the simulation, seed 50104157 of five members). So may those
// that it has heard, if a person says so, unless they were taken off the record.
func TestLeaseInDoubt(t *testing.T) {
	for name, c := range map[string]struct {
		but func(o *ha.Observation)
		has bool
	}{
		"nothing is in doubt":        {func(*ha.Observation) {}, true},
		"the outcome is not known":   {func(o *ha.Observation) { o.Busy.Doubt = o.Consul.Record.Index }, false},
		"it is under way":            {func(o *ha.Observation) { o.Busy.Commit = true }, false},
		"the record has moved since": {func(o *ha.Observation) { o.Busy.Doubt = o.Consul.Record.Index - 1 }, true},
		"another is heard":           {func(o *ha.Observation) { o.Peers[0].ReceivedAt = now }, false},
		"another cluster's is heard": {func(o *ha.Observation) { o.Peers[0].ReceivedAt, o.Peers[0].Report.ServerID = now, "2" }, true},
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
			o.Peers[i].EchoSentAt, o.Peers[i].ReceivedAt = 0, 0
		}
		c.but(&o)
		if _, s := asked(o, ha.Lease); (s.LeaseUntil != 0) != c.has {
			t.Errorf("%s: a lease until %d", name, s.LeaseUntil)
		}
	}
}
