package sessions

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// siteTimeout is how long another datacenter may take to answer.
const siteTimeout = 3 * time.Second

// Site returns the instances of another cluster's service, in another datacenter if one is
// named, those with the tag primary first. Any server there may answer. That a datacenter
// is away says nothing about this one's Consul.
func (c *Client) Site(ctx context.Context, service, datacenter string) ([]Member, error) {
	_, a, _ := c.route.pick()
	var found []Member
	need := fmt.Sprintf("service %q { policy = \"read\" }", service) + ` and node_prefix "" { policy = "read" }`
	if datacenter != "" {
		need += " in datacenter " + datacenter
	}
	err := c.ask(ctx, a, request{need: need, timeout: siteTimeout, run: func(ctx context.Context, consul *api.Client) error {
		q := &api.QueryOptions{Datacenter: datacenter, AllowStale: true}
		entries, _, err := consul.Health().Service(service, "", false, q.WithContext(ctx))
		for _, e := range entries {
			found = append(found, c.member(e))
		}
		return err
	}})
	if err != nil {
		return nil, fmt.Errorf("find the service %s: %w", strings.TrimSuffix(service+" in datacenter "+datacenter, " in datacenter "), err)
	}
	sortMembers(found)
	slices.SortStableFunc(found, func(a, b Member) int { return rank(a) - rank(b) })
	return found, nil
}

// rank orders the members of another cluster by whether they are its primary.
func rank(m Member) int {
	switch {
	case slices.Contains(m.Tags, "primary"):
		return 0
	case m.Status == api.HealthCritical:
		return 2
	}
	return 1
}
