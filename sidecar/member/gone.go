package member

import (
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// goneAfter is how long the leader has not heard a member that it has taken out of DNS. A
// member that ends is critical by its agent long before (its checks live for 10 s).
const goneAfter = 30 * time.Second

// gone reports whether this member leads, and has not heard another for so long that clients
// are not to be sent there.
func (m *Member) gone(member string) bool {
	snap := m.sidecar.Snapshot()
	return snap != nil && unheardFor(snap, member, goneAfter)
}

// unheardFor reports whether a leader has no link to a member, and had none for the time.
func unheardFor(s *sidecar.Snapshot, member string, since time.Duration) bool {
	if s.State.Role != ha.RolePrimary {
		return false
	}
	for i := range s.Observation.Peers {
		p := &s.Observation.Peers[i]
		if p.Member == member {
			// One that this process has never heard is given the time from the beginning of its lead.
			return p.Link != ha.LinkUp && !max(p.ReceivedAt, s.State.PhaseAt).Within(since, s.Observation.Now)
		}
	}
	return false
}
