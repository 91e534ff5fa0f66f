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

// How Consul answers who asks for another datacenter than the agent's: one that the agent
// does not know (structs.ErrNoDCPath), or one that it knows, where the agent's node is none
// that a session could be of (state.ErrMissingNode).
const (
	noPath      = "No path to datacenter"
	missingNode = "Missing node registration"
)

// misplaced says of an error that comes of it that consul.datacenter is not the agent's own.
// (An agent that has just started is not registered in its own either, for a moment.)
func (c *Client) misplaced(err error) error {
	dc, agent := c.opts.Datacenter, c.route.addresses[0].name
	switch {
	case err == nil || dc == "":
		return err
	case strings.Contains(err.Error(), noPath):
		return fmt.Errorf("consul.datacenter is %q, and the agent at %s knows no such datacenter: leave it out, or name the agent's own: %w", dc, agent, err)
	case strings.Contains(err.Error(), missingNode):
		return fmt.Errorf("consul.datacenter is %q, and the node of the agent at %s is not registered there: leave it out, or name the agent's own: %w", dc, agent, err)
	}
	return err
}
