package peers

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// portPause is the time between two looks at the port of a server from which this
// member's own receives nothing. The second look in a row tries it.
const portPause = 500 * time.Millisecond

// watchPort finds out why this member's server receives nothing from the one that it is to
// follow, whose sidecar is heard: does its port answer at all? A refusal is an answer. It
// ends with ctx.
func (m *Mesh) watchPort(ctx context.Context) {
	look := time.NewTicker(portPause)
	defer look.Stop()
	var tried *peer
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		p, server := m.unreceived()
		silent := p != nil && p == tried && m.noneAnswers(ctx, server, p)
		if ctx.Err() != nil {
			return
		}
		tried = p
		m.notePort(p, silent)
	}
}

// unreceived returns the peer that this member's server is to follow and receives nothing
// from, if that peer is heard, and where its server is; else nil.
func (m *Mesh) unreceived() (p *peer, server string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	own := &m.own.report
	if own.Role != ha.RoleReplica || own.Streaming {
		return nil, ""
	}
	p = m.peers[own.Leader]
	if p == nil || p.facts.Link != ha.LinkUp || p.facts.Report.Postgres == "" {
		return nil, ""
	}
	return p, p.facts.Report.Postgres
}

// noneAnswers tries a server's port several times, as a packet may be lost.
func (m *Mesh) noneAnswers(ctx context.Context, server string, p *peer) bool {
	if host, _, err := net.SplitHostPort(server); err != nil {
		return false
	} else if _, err := netip.ParseAddr(host); err != nil {
		return false // a name that nobody resolves in time would look like a port that is silent
	}
	_, within := m.patience(p)
	return m.anyAnswers(ctx, []string{server}, within) == ha.No
}

// notePort sets which peer's server has a silent port: p's, if silent, and no other.
func (m *Mesh) notePort(p *peer, silent bool) {
	m.mu.Lock()
	changed := false
	for _, other := range m.peers {
		is := silent && other == p
		if other.facts.PortSilent == is {
			continue
		}
		other.facts.PortSilent, changed = is, true
		if is {
			m.logger.Warn("the port of the leader's server does not answer, while its sidecar does: a firewall may be in front of it",
				"peer", other.facts.Member, "server", other.facts.Report.Postgres)
		} else {
			m.logger.Info("the port of the leader's server answers again, or another server is followed", "peer", other.facts.Member)
		}
	}
	m.mu.Unlock()
	if changed {
		m.tell()
	}
}
