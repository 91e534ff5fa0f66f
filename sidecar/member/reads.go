package member

import (
	"context"
	"sync"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// reads is whether this member, as a replica, serves reads.
type reads struct {
	mu  sync.Mutex
	why string // guarded by mu; empty: it does
}

// refused says why it does not; empty: it does.
func (r *reads) refused() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.why
}

// note takes over why it does not, and reports whether that has begun or ended. The words of
// the beginning stay until the end: numbers change all the time.
func (r *reads) note(why string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := (r.why == "") != (why == "")
	if changed {
		r.why = why
	}
	return changed
}

// keepReads takes this member from those that serve reads while it is too far behind, until
// ctx ends.
func (m *Member) keepReads(ctx context.Context) {
	for {
		last := m.sidecar.Snapshot()
		if is, known := lateness(last); known {
			is.Apply = m.server.lastFacts().ApplyDelay
			limits := m.stored().ReadLimits(m.current.Load().Service.Reads)
			why := limits.TooLate(is, m.reads.refused() != "")
			if m.reads.note(why) {
				m.sidecar.Reannounce()
				if why != "" {
					m.log.Warn("this replica is not announced for reads", "why", why)
				} else {
					m.log.Info("this replica is announced for reads again")
				}
			}
		} else if last != nil && last.State.Role != ha.RoleReplica && m.reads.note("") {
			m.sidecar.Reannounce()
		}
		if _, err := m.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool { return s != last }); err != nil {
			return
		}
	}
}

// lateness is how far this member is behind, where it is a replica and hears its leader.
func lateness(s *sidecar.Snapshot) (is settings.Lateness, known bool) {
	if s == nil || s.State.Role != ha.RoleReplica {
		return is, false
	}
	o, own := &s.Observation, &s.Report
	for i := range o.Peers {
		p := &o.Peers[i]
		if p.Member != o.Consul.Record.Leader || p.Link != ha.LinkUp || p.Report.Position.TLI != own.Position.TLI {
			continue
		}
		at := own.Replay
		if at == 0 {
			at = own.Position.LSN
		}
		if at == 0 {
			return is, false
		}
		if head := max(p.Report.Position.LSN, own.Position.LSN); head > at {
			is.Lag = settings.Size(head - at)
		}
		if since, behind := s.Behind[o.Self]; behind {
			is.Delay = o.Now.Sub(since)
		}
		return is, true
	}
	return is, false
}
