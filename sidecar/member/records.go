package member

import (
	"context"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// keepAgain is after how long a record that could not be kept is written again.
const keepAgain = 5 * time.Second

// keepRecords writes down what this member knows of the newest record whenever that is
// news, until ctx ends: its next process sees by it that Consul was put back. What could not be
// written, as the disk is full, is tried again.
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
		if _, news := snap.State.ToKeep(snap.Observation.Server.Seen.RecordSeen); !news {
			kept = now
			continue // an earlier process has written it
		}
		err = m.server.files.NoteSeen(now)
		if err == nil {
			kept, failed = now, false
			continue
		}
		if !failed {
			m.log.Warn("a later start would not know which of the cluster's records was the newest; it is tried again", "error", err)
		}
		failed = true
		if !waited(ctx, keepAgain) {
			return
		}
	}
}
