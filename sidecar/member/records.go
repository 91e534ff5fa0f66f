package member

import (
	"context"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// keepRecords writes down what this member knows of the newest record whenever that is
// news, until ctx ends: its next process sees by it that Consul was put back. What could not be
// written is left out until the next news.
func (m *Member) keepRecords(ctx context.Context) {
	var kept ha.RecordSeen
	failed := false
	for {
		snap, err := m.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool {
			_, news := s.State.ToKeep(kept)
			return news && s.Observation.Server.Promise > 0 // else there is no state to be added to: it may not be mounted
		})
		if err != nil {
			return
		}
		now, _ := snap.State.ToKeep(kept)
		kept = now
		if _, news := snap.State.ToKeep(snap.Observation.Server.Seen.RecordSeen); !news {
			continue // an earlier process has written it
		}
		err = m.server.files.NoteSeen(now)
		if err != nil && !failed {
			m.log.Warn("a later start would not know which of the cluster's records was the newest", "error", err)
		}
		failed = err != nil
	}
}
