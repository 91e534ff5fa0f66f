package drill

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

func hostScenarios() []Scenario {
	return []Scenario{
		{
			Name: "host-lost", Why: "the primary's host loses power: its processes and its link are gone", Away: true, Expect: Moves,
			Fault: loseHost(func(c Cast) string { return c.Primary }),
			Undo:  bootHost(func(c Cast) string { return c.Primary }),
		},
		{
			Name: "failover-disturbed", Why: "the primary's host loses power, and while the others elect, one of them is killed and comes back", Away: true, Expect: Moves,
			Fault: func(ctx context.Context, c Cast) error {
				if err := loseHost(func(c Cast) string { return c.Primary })(ctx, c); err != nil {
					return err
				}
				// A lost host is noticed after two seconds: this is in the middle.
				sleep(ctx, 2*time.Second)
				if err := c.Lab.KillMember(ctx, c.Replicas[0]); err != nil {
					return err
				}
				sleep(ctx, 2*time.Second)
				return startAbsent(ctx, c, c.Replicas[0], lab.Sidecar)
			},
			Undo: bootHost(func(c Cast) string { return c.Primary }),
		},
		{
			Name: "standby-lost", Why: "a replica's host loses power", Away: true, Expect: Stays, Hold: 5 * time.Second,
			Fault: loseHost(func(c Cast) string { return c.Replicas[0] }),
			Undo:  bootHost(func(c Cast) string { return c.Replicas[0] }),
		},
	}
}

func linkScenarios() []Scenario {
	heal := func(ctx context.Context, c Cast) error { return c.Lab.HealAll(ctx) }
	return []Scenario{
		{
			Name: "cut-off", Why: "the primary's cable is out; its host runs on", Away: true, Isolated: true, Expect: Moves,
			Fault: func(ctx context.Context, c Cast) error { return c.Lab.LinkDown(ctx, c.Primary) },
			Undo:  heal,
		},
		{
			Name: "cut-off-outward", Why: "nothing that the primary's host sends arrives", Away: true, Isolated: true, Expect: Moves,
			Fault: func(ctx context.Context, c Cast) error {
				return c.Lab.Cut(ctx, outward(c.Primary, c.others())...)
			},
			Undo: heal,
		},
		{
			Name: "cut-off-inward", Why: "nothing that is sent to the primary's host arrives", Away: true, Isolated: true, Expect: Moves,
			Fault: func(ctx context.Context, c Cast) error {
				return c.Lab.Cut(ctx, inward(c.Primary, c.others())...)
			},
			Undo: heal,
		},
		{
			Name: "cut-off-from-consul", Why: "the primary reaches the other members, but no Consul server", Isolated: true, Expect: Either,
			Hold: 10 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				return c.Lab.Cut(ctx, both(c.Primary, names(c.Lab.Plan().Servers()))...)
			},
			Undo: heal,
		},
		{
			Name: "cut-off-from-members", Why: "the primary reaches Consul, but no other member", Away: true, Isolated: true, Expect: Either,
			Hold: 10 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				return c.Lab.Cut(ctx, both(c.Primary, c.Replicas)...)
			},
			Undo: heal,
		},
		// In quorum mode the replicas find that the port answers nobody, and the primary gives the
		// lead up (ha/unreached.go). In async mode it stays, and status says so.
		{
			Name: "port-cut", Why: "for ten seconds nobody reaches the primary's PostgreSQL port; its sidecar is reached", Away: true, Isolated: true, Expect: Either,
			Fault: func(ctx context.Context, c Cast) error {
				err := c.Lab.CutPort(ctx, c.Primary)
				sleep(ctx, 10*time.Second)
				return errors.Join(err, heal(context.WithoutCancel(ctx), c))
			},
			Undo: heal,
		},
		{
			Name: "network-lossy", Why: "the primary's host loses one packet in twenty", Isolated: true, Expect: Either, Hold: 10 * time.Second,
			Fault: func(ctx context.Context, c Cast) error { return c.Lab.Lose(ctx, c.Primary, 0.05) },
			Undo:  heal,
		},
		{
			Name: "network-slow", Why: "what the primary's host sends takes 50 ms longer", Isolated: true, Expect: Stays, Hold: 10 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				return c.Lab.Delay(ctx, c.Primary, 50*time.Millisecond)
			},
			Undo: heal,
		},
	}
}

// loseHost takes the link first: a machine without power sends no farewell.
func loseHost(who func(Cast) string) func(context.Context, Cast) error {
	return func(ctx context.Context, c Cast) error {
		if c.Lab.Plan().Isolated {
			if err := c.Lab.LinkDown(ctx, who(c)); err != nil {
				return err
			}
		}
		return c.Lab.KillHost(ctx, who(c))
	}
}

func bootHost(who func(Cast) string) func(context.Context, Cast) error {
	return func(ctx context.Context, c Cast) error {
		if err := c.Lab.HealAll(ctx); err != nil {
			return err
		}
		return c.Lab.StartHost(ctx, who(c))
	}
}

// others are all hosts but the primary's.
func (c Cast) others() []string {
	return slices.DeleteFunc(names(c.Lab.Plan().Hosts), func(name string) bool { return name == c.Primary })
}

func names(hosts []lab.Host) (all []string) {
	for _, h := range hosts {
		all = append(all, h.Name)
	}
	return all
}

// outward are the ways from a host to others, inward those back.
func outward(host string, others []string) (ways []lab.Way) {
	for _, other := range others {
		ways = append(ways, lab.Way{From: host, To: other})
	}
	return ways
}

func inward(host string, others []string) (ways []lab.Way) {
	for _, other := range others {
		ways = append(ways, lab.Way{From: other, To: host})
	}
	return ways
}

func both(host string, others []string) []lab.Way {
	return append(outward(host, others), inward(host, others)...)
}
