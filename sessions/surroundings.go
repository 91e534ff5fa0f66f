package sessions

import (
	"context"
	"fmt"

	"github.com/hashicorp/consul/api"
)

// ProxyService is the service by which the proxies of a service are found: the one who runs
// one registers it at the agent of its host (pgsidecar help proxy).
func ProxyService(service string) string { return service + "-proxy" }

// Proxies reads the proxies that are registered, sorted by name; Meta tells what they
// switch. It needs no Run.
func (c *Client) Proxies(ctx context.Context) ([]Member, error) {
	service := ProxyService(c.opts.Service)
	var found []Member
	need := fmt.Sprintf("service %q { policy = \"read\" }", service) + ` and node_prefix "" { policy = "read" }`
	err := c.do(ctx, request{need: need, run: func(ctx context.Context, consul *api.Client) error {
		entries, meta, err := consul.Health().Service(service, "", false, (&api.QueryOptions{}).WithContext(ctx))
		found = nil
		if err == nil && meta.ResultsFilteredByACLs {
			return denied(need, "instances were left out of the answer")
		}
		for _, e := range entries {
			found = append(found, c.member(e))
		}
		return err
	}})
	if err != nil {
		return nil, fmt.Errorf("find the service %s: %w", service, err)
	}
	sortMembers(found)
	return found, nil
}

// Servers counts the servers of this datacenter's Consul that are Raft peers. It needs
// no Run, and no right.
func (c *Client) Servers(ctx context.Context) (n int, err error) {
	err = c.do(ctx, request{run: func(ctx context.Context, consul *api.Client) error {
		peers, err := consul.Status().PeersWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
		n = len(peers)
		return err
	}})
	if err != nil {
		return 0, fmt.Errorf("count Consul's servers: %w", err)
	}
	return n, nil
}
