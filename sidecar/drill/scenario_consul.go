package drill

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

func consulScenarios() []Scenario {
	return []Scenario{
		{
			Name: "agent-restarted", Why: "Consul's agent beside the primary is killed and started again", Expect: Stays, Hold: 5 * time.Second,
			Fault: func(ctx context.Context, c Cast) error { return restartConsul(ctx, c, c.Primary) },
		},
		{
			Name: "agent-left", Why: "Consul's agent beside the primary leaves, as for its upgrade, and is started again: its node and the session end with it",
			Expect: Stays, Hold: 5 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				if err := leaveConsul(ctx, c, c.Primary); err != nil {
					return err
				}
				return startAbsent(ctx, c, c.Primary, lab.Consul)
			},
			Undo: func(ctx context.Context, c Cast) error { return startAbsent(ctx, c, c.Primary, lab.Consul) },
		},
		{
			Name: "agent-lost", Why: "Consul's agent beside the primary is killed and stays away", Expect: Either, Hold: 40 * time.Second,
			Fault: func(ctx context.Context, c Cast) error { return stopConsul(ctx, c, c.Primary) },
			Undo:  func(ctx context.Context, c Cast) error { return startAbsent(ctx, c, c.Primary, lab.Consul) },
		},
		{
			Name: "agent-wiped", Why: "Consul's agent beside the primary loses its data and is started again", Expect: Stays, Hold: 5 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				if err := stopConsul(ctx, c, c.Primary); err != nil {
					return err
				}
				if err := c.Lab.WipeConsul(c.Primary); err != nil {
					return err
				}
				return startAbsent(ctx, c, c.Primary, lab.Consul)
			},
		},
		{
			Name: "consul-restarted", Why: "a Consul server is killed and started again", Expect: Stays, Hold: 5 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				return restartConsul(ctx, c, c.Lab.Plan().Servers()[0].Name)
			},
		},
		{
			Name: "consul-leader-lost", Why: "the server that leads Consul is killed, and comes back later", Servers: 3, Expect: Stays, Hold: 10 * time.Second,
			Fault: func(ctx context.Context, c Cast) error {
				leader, err := c.Lab.ConsulLeader(ctx)
				if err != nil {
					return err
				}
				return stopConsul(ctx, c, leader)
			},
			Undo: startConsulServers,
		},
		{
			Name: "consul-away", Why: "all Consul servers are away for a minute", NoDNS: true, Replays: true, Expect: Stays, Hold: time.Minute,
			Fault: func(ctx context.Context, c Cast) error {
				killed := c.servers(func(server string) error { return c.Lab.Kill(server, lab.Consul) })
				return errors.Join(killed, c.servers(func(server string) error { return gone(ctx, c, server, lab.Consul) }))
			},
			Undo: startConsulServers,
		},
		{
			Name: "consul-frozen", Why: "all Consul servers stand still for a minute, and go on", NoDNS: true, Expect: Stays, Hold: time.Minute,
			Fault: func(_ context.Context, c Cast) error {
				return c.servers(func(server string) error { return c.Lab.Signal(server, lab.Consul, syscall.SIGSTOP) })
			},
			Undo: func(_ context.Context, c Cast) error {
				return c.servers(func(server string) error { return ignoreAbsent(c.Lab.Signal(server, lab.Consul, syscall.SIGCONT)) })
			},
		},
		{
			Name: "token-revoked", Why: "the members' ACL token is deleted, and restored half a minute later", Breakable: true, Expect: Stays,
			Hold:  30 * time.Second,
			Fault: func(ctx context.Context, c Cast) error { return c.Lab.RevokeToken(ctx) },
			Undo:  func(ctx context.Context, c Cast) error { return c.Lab.GrantToken(ctx) },
		},
	}
}

func stopConsul(ctx context.Context, c Cast, host string) error {
	return kill(ctx, c, host, lab.Consul)
}

// leaveConsul tells an agent to leave. One that cannot, because its host stands still
// or is cut off, is killed, as by its supervisor.
func leaveConsul(ctx context.Context, c Cast, host string) error {
	if err := c.Lab.Signal(host, lab.Consul, syscall.SIGTERM); err != nil {
		return err
	}
	if gone(ctx, c, host, lab.Consul) == nil {
		return nil
	}
	return ignoreAbsent(stopConsul(ctx, c, host))
}

func restartConsul(ctx context.Context, c Cast, host string) error {
	if err := stopConsul(ctx, c, host); err != nil {
		return err
	}
	return startAbsent(ctx, c, host, lab.Consul)
}

// servers calls f for every Consul server.
func (c Cast) servers(f func(server string) error) error {
	var errs []error
	for _, server := range c.Lab.Plan().Servers() {
		errs = append(errs, f(server.Name))
	}
	return errors.Join(errs...)
}

// startConsulServers starts those that do not run.
func startConsulServers(ctx context.Context, c Cast) error {
	return c.servers(func(server string) error { return startAbsent(ctx, c, server, lab.Consul) })
}
