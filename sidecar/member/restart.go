package member

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// Restart restarts the local server, if the conditions hold, or notes when to look
// whether they do.
func (c control) Restart(ctx context.Context, req api.Restart) error {
	if !req.At.IsZero() {
		return c.planRestart(ctx, &settings.PlannedRestart{At: req.At, Role: req.Role, Pending: req.Pending,
			PostgresVersion: req.PostgresVersion, Timeout: durationText(req.Timeout)})
	}
	if req.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, req.Timeout)
		defer cancel()
	}
	snap := c.sidecar.Snapshot()
	if why := c.unmet(snap, req); why != "" {
		return api.Refuse(http.StatusServiceUnavailable, "restart conditions are not satisfied: %s", why)
	}
	if !c.mayRestart(snap) {
		return api.Refuse(http.StatusServiceUnavailable, "the server does not run")
	}
	if why := c.raises(snap); why != "" {
		return api.Refuse(http.StatusPreconditionFailed, "%s", why)
	}
	before, asked := snap.Observation.Server.StartedAt, snap.Observation.Now
	fails := func(s *sidecar.Snapshot) bool {
		return s.Observation.Busy.FailedKind == ha.Start && s.Observation.Busy.FailedAt > asked
	}
	c.sidecar.Restart()
	after, err := c.sidecar.Await(ctx, func(s *sidecar.Snapshot) bool {
		v := &s.Observation.Server
		return v.StartedAt > before && v.InRecovery != ha.Unknown && !s.Observation.Intent.Restart || fails(s)
	})
	switch {
	case err != nil:
		return api.Refuse(http.StatusServiceUnavailable, "the restart is not done yet; see pgsidecar status")
	case fails(after):
		return api.Refuse(http.StatusServiceUnavailable, "the server was stopped, and does not start again; it is tried again and again: %s", after.Report.Blocked)
	}
	return nil
}

// unmet says which condition of a restart does not hold; empty: all do.
func (c control) unmet(snap *sidecar.Snapshot, req api.Restart) string {
	switch version := c.server.lastFacts().Version; {
	case snap == nil:
		return ""
	case req.Role != "" && req.Role != string(snap.State.Role):
		return fmt.Sprintf("%s is a %s, not a %s", c.config.Member, snap.State.Role, req.Role)
	case req.Pending && !snap.Observation.Server.PendingRestart:
		return "no restart is pending"
	case req.PostgresVersion != "" && !older(version, req.PostgresVersion):
		return "the server is not older than " + req.PostgresVersion
	}
	return ""
}

// mayRestart reports whether there is a server to restart: in maintenance also one that
// has ended by itself, and waits for somebody to start it.
func (c control) mayRestart(snap *sidecar.Snapshot) bool {
	if snap == nil {
		return false
	}
	v := &snap.Observation.Server
	return v.InRecovery != ha.Unknown || snap.Observation.Policy.Paused && v.Process == ha.ProcessStopped && v.DataDir == ha.DataPresent
}

// restartStuck restarts a standby that replays nothing as its primary has more of a limit:
// its next start has as much. One does so after the other, by their names.
func (m *Member) restartStuck(why string) {
	snap := m.sidecar.Snapshot()
	if snap == nil || snap.Observation.Policy.Paused || snap.Observation.Intent.Restart {
		return
	}
	for i := range snap.Observation.Peers {
		if p := &snap.Observation.Peers[i]; p.Member < m.config.Member && p.Link == ha.LinkUp && p.Report.Paused != "" && p.Report.Paused != userPause {
			return
		}
	}
	m.log.Warn("restarting the server: as a standby it replays nothing until it has what its primary has", "reason", why)
	m.sidecar.Restart()
}

// raises says which limit a restart of the primary would raise while others have less:
// they would stop replaying. Empty: none.
func (c control) raises(snap *sidecar.Snapshot) string {
	if snap.Observation.Consul.Record.Leader != c.config.Member {
		return ""
	}
	var behind []string
	for i := range snap.Observation.Peers {
		if p := &snap.Observation.Peers[i]; p.Link == ha.LinkUp && p.Report.Pending {
			behind = append(behind, p.Member)
		}
	}
	for _, p := range c.server.waiting() {
		now, _ := strconv.Atoi(p.Now) // those of the limits are numbers
		wanted, _ := strconv.Atoi(p.Wanted)
		if api.StandbyLimit(p.Name) && wanted > now && len(behind) > 0 {
			return fmt.Sprintf("%s would rise from %d to %d here, and standbys that have less stop replaying. Restart them first: pgsidecar restart %s; or all: pgsidecar restart --all",
				p.Name, now, wanted, strings.Join(behind, " "))
		}
	}
	return ""
}

// older reports whether a server_version_num is below a version like 15.2.
func older(number int, version string) bool {
	major, minor, _ := strings.Cut(version, ".")
	a, err := strconv.Atoi(major)
	if err != nil {
		return false
	}
	b, err := strconv.Atoi(minor)
	return number < a*10000+b || err != nil && number < a*10000
}
