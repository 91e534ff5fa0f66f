package sidecar

import (
	"bytes"
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// observe gathers what is known into one observation.
func (s *Sidecar) observe() ha.Observation {
	view := s.opts.Cluster.View()
	s.setMembers(view.Members)
	peers := s.opts.Peers.Peers()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.policy = overlay(s.opts.Policy, view.Settings, s.opts.Member, s.log)
	s.takeTags(view.Settings)
	s.fulfil(view.Consul.Record)
	o := ha.Observation{
		Now: s.opts.Now(), Self: s.opts.Member, Policy: s.policy, Consul: view.Consul, Server: s.server,
		Peers: peers, Intent: s.intent, Busy: s.busy, Announced: s.announced,
	}
	o.Server.Walsenders = slices.Clone(s.server.Walsenders)
	return o
}

// takeTags has the registration made again when the cluster's settings of this
// member's tags have changed: it tells them.
func (s *Sidecar) takeTags(settings []byte) {
	if bytes.Equal(settings, s.tagged) {
		return
	}
	before, after := tagsIn(s.tagged, s.opts.Member), tagsIn(settings, s.opts.Member)
	s.tagged = settings
	if !reflect.DeepEqual(before, after) {
		s.retell()
	}
}

// retell has the registration made again. The caller holds mu.
func (s *Sidecar) retell() {
	s.announced.Known = false
	s.retold++
}

func tagsIn(settings []byte, member string) TagSettings {
	set, err := ParseSettings(settings)
	if err != nil {
		return TagSettings{} // overlay says so
	}
	return set.Tags[member]
}

// switchoverPatience is how long a switchover that was asked for is tried. Later
// it would surprise whoever has asked. It is longer than the checkpoint before it
// may take, and as long as the API lets a client wait.
const switchoverPatience = time.Minute

// fulfil forgets what was asked for once it has come about, and a switchover that
// did not for so long: a server that was stopped for it starts again.
func (s *Sidecar) fulfil(r ha.Record) {
	late := !s.intent.Since.Within(switchoverPatience, s.opts.Now())
	if s.intent.Switchover && late && r.Term <= s.asked {
		s.log.Warn("the switchover did not come about, and is given up", "target", s.intent.Target)
	}
	if s.intent.Switchover && (late || r.Term > s.asked) {
		s.intent.Switchover, s.intent.Target = false, ""
	}
	if s.intent.Remove != "" && r.Exists() && !slices.Contains(r.Members, s.intent.Remove) {
		s.intent.Remove = ""
	}
	if s.intent.Restart && s.server.StartedAt > s.restartAsked && s.server.InRecovery != ha.Unknown {
		s.intent.Restart = false
	}
	if s.intent.Force && (late || r.Leader == s.opts.Member && r.Phase == ha.PhaseLeading && s.server.InRecovery == ha.No && !s.server.Hidden) {
		s.intent.Force = false
	}
}

// setMembers tells the mesh of the members that Consul names.
func (s *Sidecar) setMembers(members []Instance) {
	if slices.Equal(members, s.members) || len(members) == 0 {
		return
	}
	s.members = slices.Clone(members)
	s.opts.Peers.SetMembers(s.members)
}

// guardChanged takes over what the guard says. An exit reaches the loop without
// waiting for anything else.
func (s *Sidecar) guardChanged() {
	g := s.opts.Guard.Status()
	s.mu.Lock()
	was := s.server.Process
	v := &s.server
	switch {
	case g.Process == ha.ProcessRunning:
		s.ran, s.missedExit = true, 0
	case g.Process == ha.ProcessStopped && g.ExitedAt == 0 && s.ran:
		if s.missedExit == 0 {
			s.missedExit = s.opts.Now()
		}
		g.ExitedAt = s.missedExit
	}
	// A lease that goes on asks for no decision; one that begins anew does.
	extended := v.Process == g.Process && v.StartedAt == g.StartedAt && v.ExitedAt == g.ExitedAt && v.Armed && g.Armed && v.LeaseUntil > s.opts.Now()
	v.Process, v.StartedAt, v.ExitedAt, v.Armed, v.LeaseUntil = g.Process, g.StartedAt, g.ExitedAt, g.Armed, g.LeaseUntil
	died := was == ha.ProcessRunning && g.Process == ha.ProcessStopped
	answered := v.SeenAt != 0
	if g.Process == ha.ProcessStopped && was != ha.ProcessStopped {
		// Also one that ended unseen, as with its guard: an earlier life's clean stop,
		// with a position by SQL, would be the vote that stands for all (S3).
		forgetSQL(v)
		v.CleanStop, s.occupiedAt = false, 0
	}
	expected := s.busy.Server == ha.Stop || s.busy.Server == ha.Clone || s.busy.Server == ha.Rewind
	if g.Process != was {
		v.Asked = g.Process == ha.ProcessStopped && was == ha.ProcessRunning && expected
	}
	s.mu.Unlock()
	if extended {
		return
	}
	if died && !expected {
		s.exited(g, answered)
	}
	s.notify()
	if was != g.Process && (!died || expected) {
		s.lookNow()
	}
}

// exited notes an exit that nobody asked for. A server that ended before it was
// ready has failed to start, and is not started again at once.
func (s *Sidecar) exited(g GuardStatus, answered bool) {
	time.AfterFunc(lookAfter, s.lookNow) // the files say what is for its way back: the handover comes first
	if answered {
		s.log.Error("postgres exited", "status", g.Exit)
		return
	}
	words, damaged := s.opts.Server.Diagnose()
	s.log.Error("postgres ended before it was ready", "status", g.Exit, "reason", words, "data_damaged", damaged)
	s.mu.Lock()
	b := &s.busy
	if b.FailedKind != ha.Start {
		b.Failures = 0
	}
	b.FailedAt, b.FailedKind, b.Damaged = s.opts.Now(), ha.Start, damaged
	b.Failures++
	s.server.Problem, s.failure = words, words
	s.mu.Unlock()
}

// forgetSQL drops what was known by SQL of a server that runs no more.
func forgetSQL(v *ha.Server) {
	v.SeenAt, v.FailingSince = 0, 0
	v.InRecovery, v.Writable, v.Receiving = ha.Unknown, ha.Unknown, ha.Unknown
	v.Upstream, v.Position, v.Settled, v.Hidden = "", ha.Position{}, false, false
	v.Walsenders, v.SyncAt, v.RecoveryEnd, v.Checkpointed, v.Replayed = nil, 0, 0, false, 0
	v.SyncUnsure = true
	v.FaultyAt, v.WriteProblem, v.Starved = 0, "", false
}

// inspectTimeout bounds a look at the data directory's files.
const inspectTimeout = 10 * time.Second

// inspect reads what the files say.
func (s *Sidecar) inspect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	s.mu.Lock()
	before := s.server
	s.mu.Unlock()
	v := before
	err := s.opts.Server.Inspect(ctx, &v)
	if err != nil {
		s.log.Error("cannot inspect the data directory", "error", err)
		s.mu.Lock()
		if s.server.DataDir == ha.DataUnknown {
			s.server.Problem = err.Error()
		}
		s.mu.Unlock()
		return
	}
	s.mu.Lock()
	w := &s.server
	w.DataDir, w.Problem, w.SystemID, w.WasPrimary, w.Founding, w.Rewound = v.DataDir, v.Problem, v.SystemID, v.WasPrimary, v.Founding, v.Rewound
	w.Promise, w.Fenced = max(w.Promise, v.Promise), v.Fenced
	if w.Process == ha.ProcessStopped && before.Process == ha.ProcessStopped && w.StartedAt == before.StartedAt {
		w.CleanStop, w.Position = v.CleanStop, v.Position // of this end, not of one before it
	}
	s.mu.Unlock()
	s.notify()
}

const (
	lookEvery   = time.Second            // a settled server
	lookDue     = 900 * time.Millisecond // a look this old is made anew with the next decision, lest it wakes this process once more
	lookSoon    = 100 * time.Millisecond // something is under way
	lookGap     = 25 * time.Millisecond  // at least, between two looks that other members' news ask for
	lookStart   = 10 * time.Millisecond  // the server is starting, or the leader's sidecar has just gone
	probeEvery  = 5 * time.Second        // the write probe
	upkeepEvery = 5 * time.Second
)

// lookLoop looks at the server by SQL: at each kick, and at a pace that depends
// on what is going on.
func (s *Sidecar) lookLoop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var probed ha.Instant
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.kick:
		case <-timer.C:
		}
		s.mu.Lock()
		process, dir := s.server.Process, s.server.DataDir
		idle := s.busy.Server == ha.NoAction
		s.lookedAt = s.opts.Now()
		s.mu.Unlock()
		switch {
		case !idle && process == ha.ProcessRunning:
			// It would be forgotten: the operation's end says what there is to see,
			// and asks for a look. An election wants the processor for itself.
		case process == ha.ProcessRunning:
			probed = s.look(ctx, probed)
		case idle && (process == ha.ProcessStopped || dir == ha.DataUnknown):
			s.inspect(ctx)
		}
		timer.Reset(s.pace())
	}
}

// pace is how soon the next look is due.
func (s *Sidecar) pace() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &s.server
	switch {
	case v.Process == ha.ProcessRunning && v.InRecovery == ha.Unknown:
		return lookStart
	case v.Receiving == ha.Yes && s.leaderGoneAt != 0 && s.leaderGoneAt.Within(time.Second, s.opts.Now()):
		return lookStart
	case v.Process == ha.ProcessRunning && v.InRecovery == ha.Yes && s.leaderSilent():
		return lookSoon
	case v.Process == ha.ProcessRunning && (v.InRecovery == ha.Yes && v.Receiving != ha.Yes ||
		v.InRecovery == ha.No && (v.SyncAt == 0 || v.Hidden || v.Writable != ha.Yes || commitsWait(v))):
		return lookSoon
	}
	return lookEvery
}

// commitsWait reports whether fewer standbys stream than must flush each commit:
// clients wait until others have their part.
func commitsWait(v *ha.Server) bool {
	n := 0
	for i := range v.Walsenders {
		if w := &v.Walsenders[i]; w.Streaming && w.Sync {
			n++
		}
	}
	return n < v.Sync.K
}

// lookBeside begins the look at a settled server that is nearly due, so that the
// process wakes once for the decision and for the look.
func (s *Sidecar) lookBeside(now ha.Instant) {
	s.mu.Lock()
	due := s.server.Process == ha.ProcessRunning && s.lookedAt != 0 && !s.lookedAt.Within(lookDue, now)
	s.mu.Unlock()
	if due && s.pace() == lookEvery {
		s.lookNow()
	}
}

// watchLeader looks at the server at once when the stream to the leader has
// ended: if its log does not come any more either, the leader is gone (S8).
func (s *Sidecar) watchLeader(o *ha.Observation) {
	gone := false
	for i := range o.Peers {
		if p := &o.Peers[i]; p.Member == o.Consul.Record.Leader {
			gone = p.Link == ha.LinkRefused || p.Link == ha.LinkSilent
		}
	}
	s.mu.Lock()
	was := s.leaderGoneAt
	switch {
	case !gone:
		s.leaderGoneAt = 0
	case was == 0:
		s.leaderGoneAt = o.Now
	}
	s.mu.Unlock()
	if gone && was == 0 {
		s.lookNow()
	}
}

// leaderSilent reports whether the leader's heartbeats have stopped coming: what
// its log says is then to be known soon.
func (s *Sidecar) leaderSilent() bool {
	snap := s.Snapshot()
	if snap == nil {
		return false
	}
	o := &snap.Observation
	for i := range o.Peers {
		if p := &o.Peers[i]; p.Member == o.Consul.Record.Leader {
			return !p.ReceivedAt.Within(o.Policy.FailureTimeout/2, s.opts.Now())
		}
	}
	return false
}

// look fills in the SQL facts; it returns when the last write probe was made.
func (s *Sidecar) look(ctx context.Context, probed ha.Instant) ha.Instant {
	now := s.opts.Now()
	s.mu.Lock()
	v, started, operations := s.server, s.server.StartedAt, s.operations
	v.SyncUnsure = false
	timeout := s.policy.FailureTimeout / 2
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, max(timeout, 500*time.Millisecond))
	defer cancel()
	err := s.opts.Server.Look(ctx, &v)
	s.opts.Recorder.Check("look", err)
	starved := err != nil && v.SeenAt == 0 && s.opts.Server.Starved()
	if err == nil && v.InRecovery == ha.No {
		if v.Writable != ha.Yes || !probed.Within(probeEvery, now) {
			probed = now
			s.probe(ctx, &v)
		}
		if v.SyncAt == 0 {
			if at, err := s.opts.Server.SyncInEffect(ctx); err == nil {
				v.SyncAt = at
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &s.server
	if w.Process != ha.ProcessRunning || w.StartedAt != started || s.operations != operations || s.busy.Server != ha.NoAction {
		return probed // it looked at another life of the server, or an operation has changed it
	}
	if !starved {
		s.starvedAt, w.Starved = 0, false
	} else if s.starvedAt == 0 {
		s.starvedAt = now
	}
	if err != nil {
		if starved && !w.Starved && now.Sub(s.starvedAt) >= starvedTime {
			w.Starved = true
			s.log.Error("the server waits for log that it has not got: its own is damaged or missing")
		}
		if w.FailingSince == 0 && w.SeenAt != 0 {
			w.FailingSince = now
			s.log.Warn("the server does not answer", "error", err)
		}
		s.notify()
		return probed
	}
	if w.FailingSince != 0 {
		s.log.Info("the server answers again")
	}
	w.SeenAt, w.FailingSince, w.Rewound = now, 0, ""
	if s.busy.FailedKind == ha.Start {
		s.busy.FailedAt, s.busy.FailedKind, s.busy.Failures = 0, ha.NoAction, 0 // it did come up
	}
	w.InRecovery, w.Receiving, w.Upstream, w.Position, w.Replayed = v.InRecovery, v.Receiving, v.Upstream, v.Position, v.Replayed
	w.Settled = v.Settled
	w.Hidden, w.Sync, w.SyncUnsure, w.PendingRestart = v.Hidden, v.Sync, v.SyncUnsure, v.PendingRestart
	w.Checkpointed = w.Checkpointed || v.Checkpointed
	w.Walsenders, w.SyncAt, w.RecoveryEnd = v.Walsenders, v.SyncAt, v.RecoveryEnd
	if v.InRecovery == ha.No {
		w.Writable, w.FaultyAt, w.WriteProblem = v.Writable, v.FaultyAt, v.WriteProblem
	}
	if v.SystemID != "" {
		w.SystemID = v.SystemID
	}
	s.notify()
	return probed
}

// starvedTime is how long a starting server may wait for log: between two segments
// it does so for a moment.
const starvedTime = 5 * time.Second

// peersChanged looks at the server at once when another member has begun or
// ceased to stream: the primary's walsenders have changed then.
func (s *Sidecar) peersChanged() {
	s.notify()
	s.mu.Lock()
	v := &s.server
	waiting := v.InRecovery == ha.No && (v.SyncAt == 0 || v.Hidden || commitsWait(v)) || v.InRecovery == ha.Yes && v.Receiving != ha.Yes
	waiting = waiting && !v.SeenAt.Within(lookGap, s.opts.Now())
	s.mu.Unlock()
	if waiting {
		s.lookNow()
	}
}

// upkeepLoop makes roles and slots for the members: when there is a new one,
// when the server's role has changed, and from time to time.
func (s *Sidecar) upkeepLoop(ctx context.Context) error {
	ticker := time.NewTicker(upkeepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-s.upkeep:
		}
		snap := s.Snapshot()
		if snap == nil || snap.Observation.Server.InRecovery == ha.Unknown {
			continue
		}
		s.configure(ctx)
		r := &snap.Observation.Consul.Record
		founded := r.Phase == ha.PhaseLeading && r.SystemID == snap.Observation.Server.SystemID
		work, cancel := context.WithTimeout(ctx, upkeepEvery)
		if err := s.opts.Server.Upkeep(work, s.known(&snap.Observation), founded); err != nil && ctx.Err() == nil {
			s.log.Warn("cannot keep roles and replication slots", "error", err)
		}
		cancel()
	}
}

// configure takes up the cluster-wide settings of the server when they, or the configuration
// file, have changed; not beside an operation on the server.
func (s *Sidecar) configure(ctx context.Context) {
	set, err := ParseSettings(s.opts.Cluster.View().Settings)
	if err != nil {
		return // overlay has said so
	}
	s.mu.Lock()
	same := s.configured && set.sameServer(s.settings)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, settingTimeout)
	defer cancel()
	if same && !s.opts.Server.Outgrown(ctx) || !s.serverLock.TryLock() {
		return
	}
	defer s.serverLock.Unlock()
	s.mu.Lock()
	s.configured = true // unless the file is read again meanwhile
	s.mu.Unlock()
	if err := s.opts.Server.Configure(ctx, set); err != nil {
		s.mu.Lock()
		s.configured = false
		s.mu.Unlock()
		if !s.configureFailed { // tried again with every upkeep
			s.log.Error("cannot take up the cluster's settings of the server; the ones before hold", "error", err)
		}
		s.configureFailed = true
		return
	}
	s.configureFailed = false
	s.log.Info("settings of the server taken up", "parameters", len(set.Parameters), "hba", len(set.HBA), "ident", len(set.Ident), "slots", len(set.Slots))
	s.mu.Lock()
	s.settings = set
	s.mu.Unlock()
}

// known are the members on record and those that are yet to join: they need a
// slot before they can stream.
func (s *Sidecar) known(o *ha.Observation) []string {
	members := slices.Clone(o.Consul.Record.Members)
	for i := range o.Peers {
		if p := &o.Peers[i]; p.ReceivedAt != 0 && !slices.Contains(members, p.Member) {
			members = append(members, p.Member)
		}
	}
	slices.Sort(members)
	return members
}

// noteUpkeep wakes the upkeep when there is something new for it.
func (s *Sidecar) noteUpkeep(o *ha.Observation) {
	key := o.Server.InRecovery.String()
	for _, m := range s.known(o) {
		key += " " + m
	}
	key += "\n" + string(s.opts.Cluster.View().Settings)
	if key == s.kept || o.Server.InRecovery == ha.Unknown {
		return
	}
	s.kept = key
	select {
	case s.upkeep <- struct{}{}:
	default:
	}
}
