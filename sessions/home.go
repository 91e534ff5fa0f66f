package sessions

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// homeMemory is how long a node counts whose agent has answered at the first address.
const homeMemory = 10 * time.Minute

// noteHome keeps which node's agent answers at the first address. A node may get another
// name; that one which was left answers again is the work of a balancer between several.
// The caller holds c.mu.
func (c *Client) noteHome(node string) {
	now := c.opts.Now()
	if at, seen := c.homes[node]; seen && node != c.homeNode && c.homeNode != "" && at.Within(homeMemory, now) {
		c.alternatedAt = now
	}
	if node != "" {
		c.homes[node] = now
	}
	c.homeNode = node
}

// balanced says that the agent's address leads to several agents; nil: it does not, as far
// as is known.
func (c *Client) balanced() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.alternatedAt == 0 || !c.alternatedAt.Within(homeMemory, c.opts.Now()) {
		return nil
	}
	nodes := slices.Sorted(maps.Keys(c.homes))
	return fmt.Errorf("the address %s leads to several agents in turn (of the nodes %s), as a load balancer does: what this member registers at one of them, the others do not know. "+
		"The first address of consul.address must be the agent of this host alone", c.route.addresses[0].name, strings.Join(nodes, ", "))
}
