package member

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strconv"

	"github.com/pgsidecar/pgsidecar/sessions"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/peers"
)

// cluster lets the sidecar speak with Consul: it translates between the
// sidecar's words and those of package sessions, which know nothing of each
// other.
type cluster struct {
	*sessions.Client
	member *Member
}

var _ sidecar.Cluster = (*cluster)(nil)

// Run tells both who wants to know of changes.
func (c *cluster) Run(ctx context.Context, notify func()) error {
	return c.Client.Run(ctx, func() {
		notify()
		c.member.files.wake()
		c.member.keepSettings.wake()
	})
}

// View translates the view.
func (c *cluster) View() sidecar.ClusterView {
	v := c.Client.View()
	view := sidecar.ClusterView{Consul: v.Consul, Settings: c.member.stored(), Err: v.Err}
	for _, m := range v.Believed() {
		view.Members = append(view.Members, sidecar.Instance{Member: m.Name, API: m.API, Postgres: m.Postgres})
	}
	if m := v.Primary(); m.Name == c.member.config.Member {
		view.Named, _ = strconv.ParseUint(m.Meta["term"], 10, 64) //nolint:errcheck // then it is 0
	}
	return view
}

// Commit translates the error.
func (c *cluster) Commit(ctx context.Context, change ha.Change) error {
	err := c.Client.Commit(ctx, change)
	if errors.Is(err, sessions.ErrConflict) {
		return fmt.Errorf("%w: %w", sidecar.ErrConflict, err)
	}
	return err
}

// Register translates the registration.
func (c *cluster) Register(ctx context.Context, r sidecar.Registration) error {
	cfg := c.member.current.Load()
	host, port, err := net.SplitHostPort(cfg.Postgres.Advertise)
	if err != nil {
		return fmt.Errorf("advertised address: %w", err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return fmt.Errorf("advertised port: %w", err)
	}
	tags := c.member.tags()
	meta := maps.Clone(cfg.Service.Meta)
	if meta == nil {
		meta = make(map[string]string)
	}
	meta["member"], meta["api"], meta["version"], meta["cluster"] = cfg.Member, cfg.API.Advertise, c.member.version, cfg.Cluster
	for name, value := range tagsOf(tags) {
		meta[name] = value
	}
	for _, kv := range r.Meta {
		meta[kv[0]] = kv[1]
	}
	tag := r.Tag
	if why := c.member.reads.refused(); tag == "replica" && why != "" {
		tag, r.Replica.Text = "", r.Replica.Text+"; gets no reads: "+why
	}
	if tag == "replica" && tags.NoLoadBalance {
		tag = ""
	}
	return c.Client.Register(ctx, sessions.Registration{
		Tag: tag, ExtraTags: cfg.Service.Tags, Address: host, Port: number, Meta: meta,
		Checks: []sessions.Check{
			{ID: "server", Name: "PostgreSQL", Status: r.Status, Text: r.Text},
			{ID: "replication", Name: "replication", Status: r.Replica.Status, Text: r.Replica.Text},
		},
	})
}

// Leave removes the registration and ends the session.
func (c *cluster) Leave(ctx context.Context) error {
	return errors.Join(c.Deregister(ctx), c.ReleaseSession(ctx))
}

// mesh lets the sidecar speak with the other members.
type mesh struct{ *peers.Mesh }

var _ sidecar.Peers = mesh{}

// SetMembers translates the addresses.
func (m mesh) SetMembers(members []sidecar.Instance) {
	addresses := make([]peers.Address, 0, len(members))
	for _, i := range members {
		addresses = append(addresses, peers.Address{Member: i.Member, API: i.API})
	}
	m.SetAddresses(addresses)
}

// guardOf lets the sidecar speak with its guard.
type guardOf struct{ *guard.Client }

var _ sidecar.Guard = guardOf{}

// Status translates the status.
func (g guardOf) Status() sidecar.GuardStatus {
	s := g.Client.Status()
	status := sidecar.GuardStatus{
		Postmaster: ha.Postmaster{StartedAt: s.StartedAt, ExitedAt: s.ExitedAt, Armed: s.Armed, LeaseUntil: s.LeaseUntil, Stray: s.Stranger},
		Exit:       s.ExitStatus,
	}
	switch {
	case !s.Known:
		status.Process = ha.ProcessUnknown
	case s.Running:
		status.Process = ha.ProcessRunning
	default:
		status.Process = ha.ProcessStopped
	}
	return status
}
