package member

import (
	"context"
	"slices"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// registered are the members as Consul's catalog has them.
func registered(members []sessions.Member) []api.Registration {
	all := make([]api.Registration, 0, len(members))
	for _, m := range members {
		all = append(all, api.Registration{Member: m.Name, Address: m.Postgres, Tags: m.Tags, Status: m.Status})
	}
	return all
}

// clusters are those of the same Consul.
func (m *Member) clusters(ctx context.Context) ([]api.ClusterInConsul, error) {
	found, err := m.cluster.Clusters(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]api.ClusterInConsul, 0, len(found))
	for _, c := range found {
		one := api.ClusterInConsul{Cluster: c.Name, Service: c.Service, Members: len(c.Members)}
		for _, member := range c.Members {
			if member.Status == "passing" {
				one.Healthy++
			}
			if leads := slices.Contains(member.Tags, "primary"); leads || one.API == "" {
				one.API = member.API
				if leads {
					one.Primary = member.Name
				}
			}
		}
		all = append(all, one)
	}
	return all, nil
}
