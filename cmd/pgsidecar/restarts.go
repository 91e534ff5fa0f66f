package main

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// plannedRestart is a restart of the local server at a time.
type plannedRestart struct {
	at    time.Time
	timer *time.Timer
}

// Restart restarts the local server, if the conditions hold.
func (c control) Restart(ctx context.Context, req api.Restart) error {
	if req.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, req.Timeout)
		defer cancel()
	}
	snap := c.sidecar.Snapshot()
	sight := c.server.lastSight()
	switch {
	case snap == nil || snap.Observation.Server.InRecovery == ha.Unknown:
		return api.Refuse(http.StatusServiceUnavailable, "the server does not run")
	case req.Role != "" && req.Role != string(snap.State.Role):
		return api.Refuse(http.StatusServiceUnavailable, "%s is a %s, not a %s", c.config.Member, snap.State.Role, req.Role)
	case req.Pending && !snap.Observation.Server.PendingRestart:
		return api.Refuse(http.StatusServiceUnavailable, "no restart is pending")
	case req.PostgresVersion != "" && !older(sight.Version, req.PostgresVersion):
		return api.Refuse(http.StatusServiceUnavailable, "the server is not older than %s", req.PostgresVersion)
	case !req.At.IsZero():
		c.planRestart(req)
		return nil
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

// plannedRestartTime is how long a planned restart is waited for, to say how it went.
const plannedRestartTime = 10 * time.Minute

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

// planRestart restarts at a time, if the conditions hold then, unless this sidecar
// ends before.
func (c control) planRestart(req api.Restart) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.restart != nil {
		c.restart.timer.Stop()
	}
	c.restart = &plannedRestart{at: req.At, timer: time.AfterFunc(time.Until(req.At), func() {
		c.mu.Lock()
		c.restart = nil
		c.mu.Unlock()
		req.At = time.Time{}
		ctx, cancel := context.WithTimeout(context.Background(), plannedRestartTime) // the request has long been answered
		defer cancel()
		if err := c.Restart(ctx, req); err != nil {
			c.log.Warn("the planned restart was not done", "error", err)
		}
	})}
}

// CancelRestart forgets a planned restart.
func (c control) CancelRestart(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.restart == nil {
		return api.Refuse(http.StatusNotFound, "no restart is planned")
	}
	c.restart.timer.Stop()
	c.restart = nil
	return nil
}
