package sessions

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/consul/api"
)

// ErrInUse is returned by RemoveCluster while a member is registered or holds
// the leader lock; the text says which, and how to end it.
var ErrInUse = errors.New("the cluster is in use")

// Remains is what Consul has of the cluster.
type Remains struct {
	Keys    []string // whole names, sorted
	Members []Member // the registered instances of the service that are this cluster's, dead ones too
	Holder  string   // who holds the leader lock; empty: nobody

	leader, state uint64 // ModifyIndex of the two keys; zero: the key does not exist
}

// Remains reads, consistently, what Consul has of the cluster. It needs no Run.
func (c *Client) Remains(ctx context.Context) (Remains, error) {
	var r Remains
	need := c.needKeys("read")
	err := c.do(ctx, request{need: need, run: func(ctx context.Context, consul *api.Client) error {
		r = Remains{}
		pairs, meta, err := consul.KV().List(c.keys, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
		if err != nil {
			return err
		}
		if meta.ResultsFilteredByACLs {
			return denied(need, "keys were left out of the answer")
		}
		for _, pair := range pairs {
			r.Keys = append(r.Keys, pair.Key)
			switch pair.Key {
			case c.keys + "leader":
				r.leader = pair.ModifyIndex
				if pair.Session != "" {
					r.Holder = string(pair.Value)
				}
			case c.keys + "state":
				r.state = pair.ModifyIndex
			}
		}
		return nil
	}})
	if err == nil {
		r.Members, err = c.registered(ctx)
	}
	if err != nil {
		return Remains{}, fmt.Errorf("read what is left of the cluster: %w", err)
	}
	return r, nil
}

// Members reads the cluster's members from Consul's catalog, once, by name. It
// needs no Run.
func (c *Client) Members(ctx context.Context) ([]Member, error) { return c.registered(ctx) }

// registered reads the instances of the service that are this cluster's. Those
// that do not name their cluster are taken for its own.
func (c *Client) registered(ctx context.Context) ([]Member, error) {
	entries, err := c.instances(ctx, c.opts.Service, "")
	if err != nil {
		return nil, err
	}
	members, _ := c.divide(entries)
	return members, nil
}

// RemoveCluster deletes the cluster's keys in one transaction. It returns
// ErrInUse if a member is registered or holds the lock, ErrConflict if record
// or lock have changed since Remains read them, ErrUnknownOutcome,
// ErrUnreachable and ErrPermission.
func (c *Client) RemoveCluster(ctx context.Context, r Remains) error {
	if err := r.InUse(); err != nil {
		return err
	}
	ops := api.TxnOps{unchanged(c.keys+"leader", r.leader), unchanged(c.keys+"state", r.state),
		{KV: &api.KVTxnOp{Verb: api.KVDeleteTree, Key: c.keys}}}
	need := c.needKeys("write")
	err := c.do(ctx, request{need: need, timeout: commitTimeout, once: true, run: func(ctx context.Context, consul *api.Client) error {
		ok, resp, _, err := consul.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
		if err != nil || ok {
			return err
		}
		return refused(resp.Errors, need)
	}})
	if err != nil {
		return fmt.Errorf("remove the cluster's keys: %w", err)
	}
	return nil
}

// unchanged is the condition that a key is as it was read.
func unchanged(key string, index uint64) *api.TxnOp {
	if index == 0 {
		return &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: key}}
	}
	return &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: key, Index: index}}
}

// InUse returns ErrInUse if somebody may still need the keys.
func (r Remains) InUse() error {
	var who []string
	for _, m := range r.Members {
		who = append(who, fmt.Sprintf("member %s is registered on node %s as %s (%s)", m.Name, m.Node, m.ServiceID, m.Status))
	}
	if r.Holder != "" {
		who = append(who, fmt.Sprintf("%s holds the leader lock (a dead member's session ends within 20 s)", r.Holder))
	}
	if len(who) == 0 {
		return nil
	}
	return fmt.Errorf("%w:\n  %s", ErrInUse, strings.Join(who, "\n  "))
}

// Forget takes a member's dead instances out of the catalog, each only if it
// has not changed since it was read. An agent that is alive puts its own back:
// there the service must be deregistered instead. It returns ErrInUse if an
// instance is not critical, ErrConflict, ErrUnreachable and ErrPermission.
func (c *Client) Forget(ctx context.Context, member string) error {
	members, err := c.registered(ctx)
	if err != nil {
		return fmt.Errorf("forget %s: %w", member, err)
	}
	var ops api.TxnOps
	for _, m := range members {
		switch {
		case m.Name != member:
		case m.Status != api.HealthCritical:
			return fmt.Errorf("forget %s: %w: its checks on node %s are %s", member, ErrInUse, m.Node, m.Status)
		default:
			ops = append(ops, &api.TxnOp{Service: &api.ServiceTxnOp{Verb: api.ServiceDeleteCAS, Node: m.Node,
				Service: api.AgentService{ID: m.ServiceID, Service: c.opts.Service, ModifyIndex: m.index}}})
		}
	}
	if len(ops) == 0 {
		return nil
	}
	need := c.needService("write")
	err = c.do(ctx, request{need: need, timeout: commitTimeout, once: true, run: func(ctx context.Context, consul *api.Client) error {
		ok, resp, _, err := consul.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
		if err != nil || ok {
			return err
		}
		return refused(resp.Errors, need)
	}})
	if err != nil {
		return fmt.Errorf("forget %s: %w", member, err)
	}
	return nil
}
