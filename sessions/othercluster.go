package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// ErrOtherCluster is returned where this cluster's service, or this member's id in it,
// is another cluster's; the text says whose, where, and what to change.
var ErrOtherCluster = errors.New("the service in Consul belongs to another cluster")

// The service's meta that say whose an instance is: the cluster's name, and where its
// keys are, for two clusters of one name. Register sets them.
const (
	metaCluster = "cluster"
	metaPrefix  = "prefix"
)

// formerService is the service's default name in programs from before it was the
// cluster's.
const formerService = "pg"

// identify returns the meta with those by which others know whose an instance is.
func (c *Client) identify(meta map[string]string) map[string]string {
	own := map[string]string{metaCluster: c.opts.Cluster, metaPrefix: c.opts.Prefix}
	for key, value := range meta {
		if own[key] == "" {
			own[key] = value
		}
	}
	return own
}

// others reports whether meta names another cluster. An instance that names none is
// taken for this cluster's: somebody registered it by hand.
func (c *Client) others(meta map[string]string) bool {
	differs := func(key, own string) bool { return meta[key] != "" && meta[key] != own }
	return differs(metaCluster, c.opts.Cluster) || differs(metaPrefix, c.opts.Prefix)
}

// divide reads the instances of the service: this cluster's members, and those of
// others, which are only ever named. Both are sorted by name.
func (c *Client) divide(entries []*api.ServiceEntry) (own, others []Member) {
	own = make([]Member, 0, len(entries))
	for _, e := range entries {
		if c.others(e.Service.Meta) {
			others = append(others, c.member(e))
		} else {
			own = append(own, c.member(e))
		}
	}
	sortMembers(own)
	sortMembers(others)
	return own, others
}

// whose names an instance's cluster.
func (c *Client) whose(meta map[string]string) string {
	if name := meta[metaCluster]; name != c.opts.Cluster {
		return fmt.Sprintf("cluster %q", name)
	}
	return fmt.Sprintf("another cluster %q, whose keys are below %s/", meta[metaCluster], meta[metaPrefix])
}

// namedAtMost is how many instances a message names.
const namedAtMost = 3

// shared is the error that says that others use this cluster's service name; nil:
// nobody does.
func (c *Client) shared(others []Member) error {
	if len(others) == 0 {
		return nil
	}
	var named []string
	for _, m := range others[:min(len(others), namedAtMost)] {
		named = append(named, fmt.Sprintf("%s on node %s (%s at %s, %s)", m.ServiceID, m.Node, c.whose(m.Meta), m.Postgres, m.Status))
	}
	if more := len(others) - len(named); more > 0 {
		named = append(named, fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("%w: the service %q has instances that are not of cluster %q: %s. DNS would answer with both databases. "+
		"Give this cluster a service of its own on all its members: service { name = %q }; if the other cluster is gone, on its node: consul services deregister -id=%s",
		ErrOtherCluster, c.opts.Service, c.opts.Cluster, strings.Join(named, ", "), c.freeName(others), others[0].ServiceID)
}

// freeName suggests a name for the service that is not the others'.
func (c *Client) freeName(others []Member) string {
	taken := func(name string) bool {
		return name == c.opts.Service || slices.ContainsFunc(others, func(m Member) bool { return m.Meta[metaCluster] == name })
	}
	if !taken(c.opts.Cluster) {
		return c.opts.Cluster
	}
	return strings.ToLower(c.opts.Cluster + "-" + strings.Trim(strings.ReplaceAll(c.opts.Prefix, "/", "-"), "-"))
}

// setMembers takes over what the catalog says of the service.
func (c *Client) setMembers(entries []*api.ServiceEntry) {
	own, others := c.divide(entries)
	err, hidden, now := c.shared(others), c.hiddenBy(entries), c.opts.Now()
	registered := ""
	if i := slices.IndexFunc(own, func(m Member) bool { return m.Name != c.opts.Member && slices.Contains(m.Tags, primaryTag) }); i >= 0 {
		registered = own[i].Name
	}
	c.update(func() {
		c.noteHidden(hidden, now)
		c.view.away = leftBehind(c.view.Believed(), c.view.away, own)
		c.view.Members = own
		c.view.Consul.OtherCluster, c.view.Consul.Registered = "", registered
		if err != nil {
			c.view.Consul.OtherCluster = err.Error()
		}
	})
	c.fault(areaOtherCluster, err)
}

// CheckService returns ErrOtherCluster if this member must not start under its
// service name: another cluster has instances there, and this member is not recorded
// in a cluster that was there before them; or this cluster's members are registered
// under the name that was the default of former versions. It needs no Run, and also
// returns ErrUnreachable and ErrPermission.
func (c *Client) CheckService(ctx context.Context) error {
	entries, err := c.instances(ctx, c.opts.Service, "")
	if err != nil {
		return fmt.Errorf("look for other clusters in Consul: %w", err)
	}
	_, others := c.divide(entries)
	if shared := c.shared(others); shared != nil {
		r, err := c.confirm(ctx)
		if err != nil {
			return fmt.Errorf("look for other clusters in Consul: %w", err)
		}
		if record, _ := parse(r); !slices.Contains(record.Members, c.opts.Member) {
			return shared
		}
	}
	return c.renamed(ctx)
}

// renamed returns ErrOtherCluster if members of this cluster live under the default
// name of former versions, while this one is to have the cluster's: they would not
// find each other. A token that may not read that service says that it is not used.
func (c *Client) renamed(ctx context.Context) error {
	if c.opts.Service == formerService || c.opts.Service != c.opts.Cluster {
		return nil
	}
	entries, err := c.instances(ctx, formerService, "")
	if err != nil {
		return nil //nolint:nilerr // it is asked for the sake of an upgrade only
	}
	for _, e := range entries {
		if e.Service.Meta[metaCluster] != c.opts.Cluster || c.others(e.Service.Meta) || e.Checks.AggregatedStatus() == api.HealthCritical {
			continue
		}
		return fmt.Errorf("%w: the members of cluster %q are registered as service %q (%s on node %s), which was the default of former versions; "+
			"it is now the cluster's name. To keep it, write into the configuration of all members and proxies: service { name = %q }; "+
			"to change it, stop all members first", ErrOtherCluster, c.opts.Cluster, formerService, e.Service.ID, e.Node.Node, formerService)
	}
	return nil
}

// mayFound refuses to found a cluster under a service name that another one uses.
func (c *Client) mayFound(ctx context.Context, change ha.Change) error {
	if change.Record.Phase != ha.PhaseBootstrap {
		return nil
	}
	entries, err := c.instances(ctx, c.opts.Service, "")
	if err != nil {
		return err
	}
	_, others := c.divide(entries)
	if len(others) == 0 {
		return nil
	}
	c.setMembers(entries)
	return c.shared(others)
}

// instances reads the instances of a service, with a tag if one is given,
// consistently.
func (c *Client) instances(ctx context.Context, service, tag string) ([]*api.ServiceEntry, error) {
	var entries []*api.ServiceEntry
	need := fmt.Sprintf("service %q { policy = \"read\" }", service) + ` and node_prefix "" { policy = "read" }`
	err := c.do(ctx, request{need: need, run: func(ctx context.Context, consul *api.Client) error {
		found, meta, err := consul.Health().Service(service, tag, false, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
		if err != nil {
			return err
		}
		if meta.ResultsFilteredByACLs {
			return denied(need, errFiltered.Error())
		}
		entries = found
		return nil
	}})
	return entries, err
}
