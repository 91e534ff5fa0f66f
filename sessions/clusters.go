package sessions

import (
	"context"
	"fmt"
	"slices"

	"github.com/hashicorp/consul/api"
)

// Cluster is one that Consul's catalog shows.
type Cluster struct {
	Name    string
	Service string
	Members []Member // sorted by name
}

// clustersAtMost bounds how many services Clusters reads.
const clustersAtMost = 100

// Clusters reads the clusters that have members in Consul's catalog, as far as the token
// may see them; by the names of their services, a hundred services at most. It needs no
// Run, and returns ErrUnreachable and ErrPermission.
func (c *Client) Clusters(ctx context.Context) ([]Cluster, error) {
	services, err := c.tagged(ctx)
	if err != nil {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	var all []Cluster
	for _, service := range services[:min(len(services), clustersAtMost)] {
		entries, err := c.visible(ctx, service)
		if err != nil {
			return nil, fmt.Errorf("list the members of service %s: %w", service, err)
		}
		all = append(all, c.clustersOf(service, entries)...)
	}
	return all, nil
}

// tagged are the names of services that have an instance with one of our tags, sorted.
func (c *Client) tagged(ctx context.Context) ([]string, error) {
	var names []string
	err := c.do(ctx, request{need: c.needService("read"), run: func(ctx context.Context, consul *api.Client) error {
		found, _, err := consul.Catalog().Services((&api.QueryOptions{}).WithContext(ctx))
		names = nil
		for name, tags := range found {
			if slices.Contains(tags, primaryTag) || slices.Contains(tags, replicaTag) {
				names = append(names, name)
			}
		}
		return err
	}})
	slices.Sort(names)
	return names, err
}

// visible are the instances of a service, as far as the token may see them.
func (c *Client) visible(ctx context.Context, service string) ([]*api.ServiceEntry, error) {
	var entries []*api.ServiceEntry
	err := c.do(ctx, request{need: c.needService("read"), run: func(ctx context.Context, consul *api.Client) (err error) {
		entries, _, err = consul.Health().Service(service, "", false, (&api.QueryOptions{}).WithContext(ctx))
		return err
	}})
	return entries, err
}

// clustersOf divides the instances of a service by the cluster that each names.
func (c *Client) clustersOf(service string, entries []*api.ServiceEntry) []Cluster {
	var all []Cluster
	places := map[[2]string]int{}
	for _, e := range entries {
		meta := e.Service.Meta
		if meta[metaCluster] == "" || meta["member"] == "" {
			continue // somebody else's, whose tag only looks like ours
		}
		whose := [2]string{meta[metaCluster], meta[metaPrefix]}
		place, known := places[whose]
		if !known {
			place = len(all)
			places[whose] = place
			all = append(all, Cluster{Name: meta[metaCluster], Service: service})
		}
		all[place].Members = append(all[place].Members, c.member(e))
	}
	for i := range all {
		sortMembers(all[i].Members)
	}
	return all
}
