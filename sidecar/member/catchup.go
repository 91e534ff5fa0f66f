package member

import (
	"context"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

const (
	// catchUpEvery is how often a replica looks whether it comes on.
	catchUpEvery = time.Second
	// catchUpAfter is how long it comes no further before it may take log from the archive.
	catchUpAfter = 4 * time.Second
	// catchUpCalm is for how long it must stream until it may not any more: a walreceiver
	// that is refused is seen to stream for a moment each time.
	catchUpCalm = 5
	// starvedFor is how long a copy from the backup may wait for log that it finds nowhere
	// before another one is made.
	starvedFor = 2 * time.Minute
)

// catchUp lets a replica that stands still, as its leader no longer has the log that it
// needs, fetch it from the archive, until it streams again. No server has a
// restore_command otherwise: at a failover each look into the archive costs time.
//
// S2: what may be fetched stands in a file that a fence removes before it looks where the
// server is. A restore_command that is run after that fetches nothing, and a fence waits
// for the end of one that was run before.
type catchUp struct {
	member   *Member
	calm     int       // how often in a row it was seen to stream while the archive was open
	starving time.Time // since when a restored copy finds no log; zero: it does
}

// run watches until ctx ends.
func (c *catchUp) run(ctx context.Context) {
	for waited(ctx, catchUpEvery) {
		snap := c.member.sidecar.Snapshot()
		if snap == nil {
			continue
		}
		if err := c.look(ctx, snap); err != nil && ctx.Err() == nil {
			c.member.log.Warn("a replica that lacks log takes none from the archive", "error", err)
		}
		c.watchCopy(snap)
	}
}

// look opens and shuts the archive. It is open too where a copy from the backup was started.
func (c *catchUp) look(ctx context.Context, snap *sidecar.Snapshot) error {
	files := c.member.server.files
	line, lacks := standsStill(snap)
	switch {
	case lacks && !files.ArchiveOpen():
		c.calm = 0
		return c.fetch(ctx, line)
	case !files.ArchiveOpen() || snap.Observation.Server.Receiving != ha.Yes:
		c.calm = 0
		return nil
	}
	if c.calm++; c.calm < catchUpCalm {
		return nil
	}
	c.member.log.Info("the replica streams, and takes no more log from the archive")
	if err := files.ShutArchive(); err != nil {
		return err
	}
	return c.member.server.sql.Fetch(ctx, "")
}

// fetch opens the archive.
func (c *catchUp) fetch(ctx context.Context, line ha.Position) error {
	s := c.member.server
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := s.sql.Fetch(ctx, s.files.FetchCommand()); err != nil {
		return err
	}
	// Last: if the server was fenced meanwhile nothing comes of the command.
	opened, err := s.files.OpenArchive(ctx, line)
	if err != nil || !opened {
		return err
	}
	c.member.log.Info("the leader does not send the log that this replica needs; it is taken from the archive", "leader_at", line)
	return nil
}

// standsStill reports whether a replica that follows comes no further although its leader
// has more, and where the leader is.
func standsStill(snap *sidecar.Snapshot) (ha.Position, bool) {
	o, r := &snap.Observation, &snap.Observation.Consul.Record
	sv := &o.Server
	if sv.InRecovery != ha.Yes || sv.Upstream == "" || sv.Fenced || sv.Paused != "" || r.Phase != ha.PhaseLeading || r.StandbyOf != "" ||
		snap.State.AdvancedAt == 0 || o.Now.Sub(snap.State.AdvancedAt) < catchUpAfter {
		return ha.Position{}, false
	}
	for i := range o.Peers {
		p := &o.Peers[i]
		at := p.Report.Position
		if p.Member == r.Leader && p.Link == ha.LinkUp && p.Report.Term == r.Term && at.Contains(sv.Position) && !sv.Position.Contains(at) {
			return at, true
		}
	}
	return ha.Position{}, false
}

// watchCopy gives a copy from the backup up that does not get the log that it needs: the
// archive may have lost it since. It is copied from a member then.
func (c *catchUp) watchCopy(snap *sidecar.Snapshot) {
	sv := &snap.Observation.Server
	s := c.member.server
	s.mu.Lock()
	restored := s.copies.restored
	s.mu.Unlock()
	if !restored || !sv.Starved || sv.Rewound == "" {
		c.starving = time.Time{}
		return
	}
	if c.starving.IsZero() {
		c.starving = time.Now()
	}
	if time.Since(c.starving) < starvedFor {
		return
	}
	c.starving = time.Time{}
	c.member.log.Error("the copy from the backup does not get the log that it needs; another copy is made")
	s.restoreFailed()
	if err := s.files.GiveUpBackup(); err != nil {
		c.member.log.Warn("the copy from the backup is not given up", "error", err)
	}
}
