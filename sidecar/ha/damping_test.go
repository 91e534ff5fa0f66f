package ha_test

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestCrashLoop: a primary that crashes soon after its start, as those before it have, is
// restarted in its place, with a longer rest each time; the others know and elect nobody. In
// the end another tries again.
func TestCrashLoop(t *testing.T) {
	o := leading()
	o.Consul.Record.Crashes, o.Server.Walsenders = 3, o.Server.Walsenders[:1]
	s, _ := ha.Decide(ha.State{}, o)
	for n, rest := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		o.Now = o.Now.Add(time.Second)
		stopped(&o)
		o.Server.ExitedAt, o.Server.LeaseUntil, o.Consul.HeldAt = o.Now, o.Now.Add(5*time.Second), o.Now
		var actions []ha.Action
		if s, actions = ha.Decide(s, o); committed(actions) != "nothing" || len(s.Blocks) == 0 {
			t.Fatalf("crash %d: commits %s, blocked by %+v", n, committed(actions), s.Blocks)
		}
		r := ha.MakeReport(s, o)
		if !r.Restarting || r.Serving {
			t.Errorf("crash %d: it reports %+v", n, r)
		}
		f := following()
		f.Server.Receiving, f.Peers[0].Report = ha.No, r
		if known, _ := ha.Decide(ha.State{}, f); !known.Hears {
			t.Errorf("crash %d: n2 takes it for lost", n)
		}
		for _, c := range []struct {
			after time.Duration
			want  bool
		}{{rest - 1, false}, {rest, true}} {
			later := o
			later.Now = o.Now.Add(c.after)
			later.Server.LeaseUntil, later.Consul.HeldAt = later.Now.Add(5*time.Second), later.Now
			_, actions := ha.Decide(s, later)
			starts := false
			for _, a := range actions {
				starts = starts || a.Kind == ha.Start
			}
			if starts != c.want {
				t.Errorf("crash %d, after %s: starts %v", n, c.after, starts)
			}
		}
		o.Now = o.Now.Add(rest)
		o.Server.Process, o.Server.InRecovery, o.Server.StartedAt = ha.ProcessRunning, ha.No, o.Now
		s, _ = ha.Decide(s, o)
	}
	stopped(&o)
	o.Now = o.Now.Add(time.Second)
	o.Server.ExitedAt, o.Server.LeaseUntil, o.Consul.HeldAt = o.Now, o.Now.Add(5*time.Second), o.Now
	for i := range o.Peers {
		o.Peers[i].ReceivedAt = o.Now
	}
	_, actions := ha.Decide(s, o)
	for _, a := range actions {
		if a.Kind == ha.Commit && a.Change.What == "pass" && a.Change.Record.Crashes == 4 {
			return
		}
	}
	t.Errorf("the fourth crash: asked for %+v", actions)
}

// TestCrashesCount: only crashes count that come soon after a start, before the cluster was
// whole again, and a planned handover says nothing.
func TestCrashesCount(t *testing.T) {
	for name, c := range map[string]struct {
		but   func(*ha.Observation)
		after time.Duration
		want  int
	}{
		"soon":          {func(*ha.Observation) {}, time.Second, 3},
		"late":          {func(*ha.Observation) {}, time.Minute, 0},
		"it was whole":  {func(o *ha.Observation) { o.Consul.Record.Members = []string{"n1", "n2"} }, time.Second, 0},
		"handed over":   {func(o *ha.Observation) { o.Intent.Switchover = true }, time.Second, 2},
		"stopped by us": {func(o *ha.Observation) { o.Server.CleanStop = true }, time.Second, 2},
	} {
		o := leading()
		o.Consul.Record.Crashes, o.Server.Walsenders = 2, o.Server.Walsenders[:1]
		c.but(&o)
		s, _ := ha.Decide(ha.State{}, o)
		stopped(&o)
		o.Now = now.Add(c.after)
		o.Server.ExitedAt = o.Now
		for i := range o.Peers {
			o.Peers[i].ReceivedAt = o.Now
		}
		_, actions := ha.Decide(s, o)
		got := -1
		for _, a := range actions {
			if a.Kind == ha.Commit && a.Change.What == "pass" {
				got = a.Change.Record.Crashes
			}
		}
		if got != c.want {
			t.Errorf("%s: %d, want %d: %+v", name, got, c.want, actions)
		}
	}
}
