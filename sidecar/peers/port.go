package peers

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// portPause is the time between two looks at the port of a server from which this
// member's own receives nothing. The second look in a row tries it.
const portPause = 500 * time.Millisecond

// heirPause is the time between two looks at the ports of the replicas, each of which may be
// the next primary. A server begins a process for each attempt.
const heirPause = 5 * time.Second

// watchPort finds out whether the ports of servers whose sidecars are heard answer at all:
// that of the one which this member's is to follow and receives nothing from, or those of the
// primary's replicas. A refusal is an answer. It ends with ctx.
func (m *Mesh) watchPort(ctx context.Context) {
	look, heirs := time.NewTicker(portPause), time.NewTicker(heirPause)
	defer look.Stop()
	defer heirs.Stop()
	var tried *peer
	for {
		var silent []*peer
		select {
		case <-ctx.Done():
			return
		case <-heirs.C:
			if !m.leads() {
				continue
			}
			silent = m.silentHeirs(ctx)
		case <-look.C:
			if m.leads() {
				continue
			}
			p, server := m.unreceived()
			if p != nil && p == tried && m.noneAnswers(ctx, server, p) {
				silent = append(silent, p)
			}
			tried = p
		}
		if ctx.Err() != nil {
			return
		}
		m.notePorts(silent)
	}
}

// leads reports whether this member's server is the primary.
func (m *Mesh) leads() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.own.report.Role == ha.RolePrimary
}

// silentHeirs tries the ports of the replicas that are heard, all at once, and returns those of
// which none answers.
func (m *Mesh) silentHeirs(ctx context.Context) (silent []*peer) {
	type port struct {
		of     *peer
		server string
		silent bool
	}
	var ports []port
	m.mu.Lock()
	for _, p := range m.peers {
		if r := &p.facts.Report; p.facts.Link == ha.LinkUp && r.Role == ha.RoleReplica && r.Postgres != "" {
			ports = append(ports, port{of: p, server: r.Postgres})
		}
	}
	m.mu.Unlock()
	var attempts sync.WaitGroup
	for i := range ports {
		attempts.Go(func() { ports[i].silent = m.noneAnswers(ctx, ports[i].server, ports[i].of) })
	}
	attempts.Wait()
	for _, p := range ports {
		if p.silent {
			silent = append(silent, p.of)
		}
	}
	return silent
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

// notePorts sets which peers' servers have a silent port: these, and no other.
func (m *Mesh) notePorts(silent []*peer) {
	m.mu.Lock()
	changed := false
	for _, p := range m.peers {
		is := slices.Contains(silent, p)
		if p.facts.PortSilent == is {
			continue
		}
		p.facts.PortSilent, changed = is, true
		if is {
			m.logger.Warn("the port of a server does not answer, while its sidecar does: a firewall may be in front of it",
				"peer", p.facts.Member, "server", p.facts.Report.Postgres)
		} else {
			m.logger.Info("the port of a server answers again, or is not tried any more", "peer", p.facts.Member)
		}
	}
	m.mu.Unlock()
	if changed {
		m.tell()
	}
}
