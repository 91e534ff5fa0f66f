package member

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

func TestLateness(t *testing.T) {
	const now = ha.Instant(100 * time.Second)
	replica := func(change func(*sidecar.Snapshot)) *sidecar.Snapshot {
		s := &sidecar.Snapshot{Behind: map[string]ha.Instant{}}
		s.State.Role = ha.RoleReplica
		s.Observation.Self, s.Observation.Now, s.Observation.Consul.Record.Leader = "n2", now, "n1"
		s.Report.Position, s.Report.Replay = ha.Position{TLI: 3, LSN: 900}, 800
		leader := ha.Peer{Member: "n1", Link: ha.LinkUp}
		leader.Report.Position = ha.Position{TLI: 3, LSN: 1000}
		s.Observation.Peers = []ha.Peer{leader}
		change(s)
		return s
	}
	for name, c := range map[string]struct {
		change func(*sidecar.Snapshot)
		is     settings.Lateness
		known  bool
	}{
		"behind":                      {func(s *sidecar.Snapshot) { s.Behind["n2"] = now - ha.Instant(7*time.Second) }, settings.Lateness{Lag: 200, Delay: 7 * time.Second}, true},
		"received more than reported": {func(s *sidecar.Snapshot) { s.Report.Position.LSN = 1100 }, settings.Lateness{Lag: 300}, true},
		"has all":                     {func(s *sidecar.Snapshot) { s.Report.Position.LSN, s.Report.Replay = 1000, 1000 }, settings.Lateness{}, true},
		"replayed as received":        {func(s *sidecar.Snapshot) { s.Report.Replay = 0 }, settings.Lateness{Lag: 100}, true},
		"the primary":                 {func(s *sidecar.Snapshot) { s.State.Role = ha.RolePrimary }, settings.Lateness{}, false},
		"the leader is not heard":     {func(s *sidecar.Snapshot) { s.Observation.Peers[0].Link = ha.LinkSilent }, settings.Lateness{}, false},
		"another timeline":            {func(s *sidecar.Snapshot) { s.Report.Position.TLI = 2 }, settings.Lateness{}, false},
		"nothing known of its own":    {func(s *sidecar.Snapshot) { s.Report.Replay, s.Report.Position.LSN = 0, 0 }, settings.Lateness{}, false},
	} {
		if is, known := lateness(replica(c.change)); is != c.is || known != c.known {
			t.Errorf("%s: %+v, %v", name, is, known)
		}
	}
}

// The registration is made again at the beginning and the end, not for each new number.
func TestReadsNote(t *testing.T) {
	var r reads
	for _, step := range []struct {
		why     string
		changed bool
		shown   string
	}{{"", false, ""}, {"70 s behind", true, "70 s behind"}, {"71 s behind", false, "70 s behind"}, {"", true, ""}, {"", false, ""}} {
		if changed := r.note(step.why); changed != step.changed || r.refused() != step.shown {
			t.Errorf("%q: changed %v, then %q", step.why, changed, r.refused())
		}
	}
}
