package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/consul/api"
)

// evictAttempts bounds a race with the agents of the evicted.
const evictAttempts = 5

// Evict takes the tag primary in the catalog from the instances of these
// members, whatever their state, and from any other instance of this cluster that DNS
// would answer with. It returns nil when a consistent read shows no instance but
// this member's, of this cluster, that has the tag and is not critical (DNS leaves only critical
// ones out, and its own reads may trail that one by a few milliseconds on
// servers that follow). It returns ErrConflict if agents keep putting the tag
// back, ErrUnreachable, and ErrPermission.
func (c *Client) Evict(ctx context.Context, members []string) error {
	for range evictAttempts {
		rivals, err := c.rivals(ctx, members)
		if err != nil {
			return fmt.Errorf("evict: %w", err)
		}
		if len(rivals) == 0 {
			return nil
		}
		if err := c.untag(ctx, rivals, primaryTag); err != nil {
			return fmt.Errorf("evict: %w", err)
		}
	}
	return fmt.Errorf("evict: %w: another instance takes the tag %s again and again", ErrConflict, primaryTag)
}

// rivals reads the instances of this cluster whose tag must go. Another cluster's are
// never touched.
func (c *Client) rivals(ctx context.Context, members []string) ([]*api.ServiceEntry, error) {
	entries, err := c.instances(ctx, c.opts.Service, primaryTag)
	return slices.DeleteFunc(entries, func(e *api.ServiceEntry) bool {
		m := c.member(e)
		return c.others(m.Meta) || c.isOwn(m) || m.Status == api.HealthCritical && !slices.Contains(members, m.Name)
	}), err
}

// isOwn reports whether an instance is this member's at its own agent. One
// that it left at another node is not.
func (c *Client) isOwn(m Member) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.ServiceID == c.service && (c.homeNode == "" || m.Node == c.homeNode)
}

// untag writes the instances back without the tag, in one transaction and each
// only if it has not changed since it was read.
func (c *Client) untag(ctx context.Context, rivals []*api.ServiceEntry, from string) error {
	var ops api.TxnOps
	for _, e := range rivals {
		s := *e.Service
		s.Tags = slices.DeleteFunc(slices.Clone(s.Tags), func(tag string) bool { return tag == from })
		ops = append(ops, &api.TxnOp{Service: &api.ServiceTxnOp{Verb: api.ServiceCAS, Node: e.Node.Node, Service: s}})
		c.log.Info("tag "+from+" taken from another instance", "node", e.Node.Node, "service_id", s.ID)
	}
	need := c.needService("write")
	return c.do(ctx, request{need: need, timeout: commitTimeout, run: func(ctx context.Context, consul *api.Client) error {
		ok, resp, _, err := consul.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
		if err != nil || ok {
			return err
		}
		if err := refused(resp.Errors, need); !errors.Is(err, ErrConflict) {
			return err
		}
		return nil // it has changed: the caller reads again
	}})
}

// evictRivals does the same by itself while this member is announced as
// primary and holds the lock: an agent may have put an old tag back.
func (c *Client) evictRivals(ctx context.Context) error {
	if c.wanted == nil || c.wanted.Tag != primaryTag {
		return nil
	}
	for _, m := range c.View().Members {
		if c.isOwn(m) || m.Status == api.HealthCritical || !slices.Contains(m.Tags, primaryTag) {
			continue
		}
		if err := c.mustHold(ctx); err != nil {
			return fmt.Errorf("evict %s: %w", m.Name, err)
		}
		return c.Evict(ctx, nil)
	}
	return c.evictGone(ctx)
}

// evictGone takes the tag replica from members that are gone while the catalog has them as
// well. Their agents make them critical within a check's TTL; but one whose token was deleted
// can tell the catalog nothing, and DNS would name a dead server for days. A member that
// comes back is announced anew, and has its tag again. Nothing is written while nobody is so.
func (c *Client) evictGone(ctx context.Context) error {
	if c.opts.Gone == nil || !slices.ContainsFunc(c.View().Members, c.goneReplica) {
		return nil
	}
	if err := c.mustHold(ctx); err != nil {
		return fmt.Errorf("evict members that are gone: %w", err)
	}
	entries, err := c.instances(ctx, c.opts.Service, replicaTag)
	if err != nil {
		return fmt.Errorf("evict members that are gone: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e *api.ServiceEntry) bool {
		m := c.member(e)
		return c.others(m.Meta) || !c.goneReplica(m)
	})
	if len(entries) == 0 {
		return nil
	}
	c.log.Warn("removing the tag replica from members that are not heard, but that Consul still shows as passing; was their agents' token deleted?", "instances", len(entries))
	if err := c.untag(ctx, entries, replicaTag); err != nil {
		return fmt.Errorf("evict members that are gone: %w", err)
	}
	return nil
}

// goneReplica reports whether DNS answers reads with a member that is gone.
func (c *Client) goneReplica(m Member) bool {
	return !c.isOwn(m) && m.Status != api.HealthCritical && slices.Contains(m.Tags, replicaTag) && c.opts.Gone(m.Name)
}
