package sidecar

import (
	"context"
	"errors"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

const (
	lookEvery  = time.Second            // a settled server
	lookDue    = 900 * time.Millisecond // a look this old is made anew with the next decision, lest it wakes this process once more
	lookSoon   = 100 * time.Millisecond // something is under way
	lookGap    = 25 * time.Millisecond  // at least, between two looks that other members' news ask for
	lookStart  = 10 * time.Millisecond  // the server is starting, or the leader's sidecar has just gone
	probeEvery = 5 * time.Second        // the write probe of a server that has little to write
	// starvedTime is how long a starting server may wait for log: between two
	// segments it does so for a moment.
	starvedTime = 5 * time.Second
)

// lookNow wakes the look at the server.
func (s *Sidecar) lookNow() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

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
		v, operation := s.facts.looking(s.opts.Now())
		idle := operation == ha.NoAction
		switch {
		case !idle && v.Process == ha.ProcessRunning && !(operation == ha.SetSync && v.InRecovery == ha.No):
			// It would be forgotten: the operation's end says what there is to see,
			// and asks for a look. An election wants the processor for itself.
		case v.Process == ha.ProcessRunning:
			if v.DataDir == ha.DataUnknown && v.SeenAt != 0 { // it could not be read when this process began
				s.inspect(ctx)
			}
			probed = s.look(ctx, probed)
		case idle && (v.Process == ha.ProcessStopped || v.DataDir == ha.DataUnknown):
			s.inspect(ctx)
		}
		timer.Reset(s.facts.pace(s.opts.Now(), s.leaderSilent()))
	}
}

// looking notes that a look begins, and returns what was known before.
func (f *facts) looking(now ha.Instant) (ha.Server, ha.ActionKind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lookedAt = now
	return f.server, f.operation
}

// pace is how soon the next look is due.
func (f *facts) pace(now ha.Instant, leaderSilent bool) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := &f.server
	switch running := v.Process == ha.ProcessRunning; {
	case running && v.InRecovery == ha.Unknown:
		return lookStart
	case v.Receiving == ha.Yes && f.leaderGoneAt != 0 && f.leaderGoneAt.Within(time.Second, now):
		return lookStart
	case running && v.InRecovery == ha.Yes && (leaderSilent || v.Receiving != ha.Yes):
		return lookSoon
	case running && v.InRecovery == ha.No && (v.SyncAt == 0 || v.Hidden || v.Writable != ha.Yes || v.FailingSince != 0 || commitsWait(v)):
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
	if s.facts.due(now) && s.facts.pace(now, s.leaderSilent()) == lookEvery {
		s.lookNow()
	}
}

func (f *facts) due(now ha.Instant) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.server.Process == ha.ProcessRunning && f.lookedAt != 0 && !f.lookedAt.Within(lookDue, now)
}

// watchLeader looks at the server at once when the stream to the leader has
// ended: if its log does not come any more either, the leader is gone (S8).
func (s *Sidecar) watchLeader(o *ha.Observation) {
	gone := false
	if p := leaderOf(o); p != nil {
		gone = p.Link == ha.LinkRefused || p.Link == ha.LinkSilent
	}
	if s.facts.takeLeader(gone, o.Now) {
		s.lookNow()
	}
}

// leaderOf is the peer that leads; nil: it is not known, or this member does.
func leaderOf(o *ha.Observation) *ha.Peer {
	for i := range o.Peers {
		if p := &o.Peers[i]; p.Member == o.Consul.Record.Leader {
			return p
		}
	}
	return nil
}

// takeLeader notes whether the stream to the leader has ended, and reports whether
// it just has.
func (f *facts) takeLeader(gone bool, now ha.Instant) (news bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !gone:
		f.leaderGoneAt = 0
	case f.leaderGoneAt == 0:
		f.leaderGoneAt = now
		return true
	}
	return false
}

// leaderSilent reports whether the leader's heartbeats have stopped coming: what
// its log says is then to be known soon.
func (s *Sidecar) leaderSilent() bool {
	snap := s.Snapshot()
	if snap == nil {
		return false
	}
	o := &snap.Observation
	p := leaderOf(o)
	return p != nil && !p.ReceivedAt.Within(o.Policy.FailureTimeout/2, s.opts.Now())
}

// peersChanged looks at the server at once when another member has begun or
// ceased to stream: the primary's walsenders have changed then.
func (s *Sidecar) peersChanged() {
	s.notify()
	v, _ := s.facts.now()
	waiting := v.InRecovery == ha.No && (v.SyncAt == 0 || v.Hidden || commitsWait(&v)) || v.InRecovery == ha.Yes && v.Receiving != ha.Yes
	if waiting && !v.SeenAt.Within(lookGap, s.opts.Now()) {
		s.lookNow()
	}
}

// sight is what one look saw: SQL and Probes, to be taken over if they are of the
// same life of the server, and no operation came between.
type sight struct {
	at, end ha.Instant
	started ha.Instant
	changes uint64
	stood   time.Duration // of the time between, in which this process did not run
	primary bool          // the server was out of recovery before
	sql     ha.SQL
	probes  ha.Probes
	err     error
}

// look reads the SQL facts, probes and proves; it returns when the last write probe was made.
func (s *Sidecar) look(ctx context.Context, probed ha.Instant) ha.Instant {
	ctx, cancel := context.WithTimeout(ctx, max(s.configuration.now().FailureTimeout/2, 500*time.Millisecond))
	defer cancel()
	seen := s.facts.beginLook(s.opts.Now())
	syncAt, before := seen.sql.SyncAt, seen.sql.Position // the first is proved once for each setting
	stood := watchStandstill(s.opts.Now)
	seen.sql, seen.err = s.opts.Server.Read(ctx)
	seen.end, seen.stood = s.opts.Now(), stood()
	s.opts.Recorder.Check("look", seen.err)
	if seen.err == nil && seen.sql.InRecovery == ha.No {
		if seen.probes.Writable != ha.Yes || !probed.Within(probeEvery, seen.at) || busy(before, seen.sql.Position) {
			probed = seen.at
			s.probe(ctx, &seen.probes)
		}
		if syncAt == 0 {
			syncAt, _ = s.opts.Server.SyncInEffect(ctx) // zero on an error: it is tried again
		}
		seen.sql.SyncAt = syncAt
	}
	switch s.facts.takeLook(&seen) {
	case lookOutdated:
		return probed
	case lookFailed:
		s.log.Warn("the server does not answer", "error", seen.err)
	case lookStarved:
		s.log.Error("the server waits for log that it has not got: its own is damaged or missing")
	case lookAnswersAgain:
		s.log.Info("the server answers again")
	}
	if seen.err == nil {
		s.operations.cameUp()
	}
	s.notify()
	return probed
}

// beginLook returns what was known before a look.
func (f *facts) beginLook(now ha.Instant) sight {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sight{at: now, started: f.server.StartedAt, changes: f.changes, primary: f.server.InRecovery == ha.No,
		sql: f.server.SQL, probes: f.server.Probes}
}

// lookNews is what a look has changed that people are told.
type lookNews uint8

const (
	lookQuiet        lookNews = iota
	lookOutdated              // it was of another life of the server, or an operation has changed that
	lookFailed                // the first of those in a row that got no answer
	lookStarved               // the server has waited too long for log
	lookAnswersAgain          // the first answer after those
)

// takeLook takes over what a look saw.
func (f *facts) takeLook(seen *sight) lookNews {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := &f.server
	if v.Process != ha.ProcessRunning || v.StartedAt != seen.started {
		return lookOutdated
	}
	if f.changes != seen.changes || f.operation != ha.NoAction {
		return f.takeBeside(seen)
	}
	if seen.err != nil {
		return f.unanswered(seen)
	}
	news := lookQuiet
	if v.FailingSince != 0 {
		news = lookAnswersAgain
		if v.LoginProblem == "" { // else it was not slow
			f.answered.Add(seen.end.Sub(v.FailingSince), seen.end)
		}
	}
	f.answered.Add(seen.end.Sub(seen.at), seen.end)
	seen.sql.SeenAt, seen.probes.FailingSince, seen.probes.Hangs, seen.probes.Starved = seen.at, 0, false, false
	seen.probes.LoginProblem, seen.probes.LoginRefused, seen.probes.SessionsUsed = "", false, false
	seen.sql.Checkpointed = seen.sql.Checkpointed || v.Checkpointed // one that was done meanwhile
	v.SQL, v.Probes, f.starvedAt = seen.sql, seen.probes, 0
	v.Rewound = "" // it takes connections
	if v.InRecovery == ha.No {
		v.Instructed = "" // PostgreSQL has done it, and has removed recovery.signal
	}
	return news
}

// takeBeside takes over what a look saw beside an operation. What SQL said may be
// outdated; but a primary that does not answer, or takes no writes, is as unwell as
// without it. An operation that waits for a disk that hangs, and is tried again and
// again, would else hide that. It is called with mu held.
func (f *facts) takeBeside(seen *sight) lookNews {
	v := &f.server
	switch {
	case !seen.primary || v.InRecovery != ha.No || f.operation == ha.Stop:
		return lookOutdated
	case seen.err != nil:
		return f.unanswered(seen)
	case seen.sql.InRecovery != ha.No:
		return lookOutdated
	}
	v.Probes = seen.probes
	v.FailingSince, v.Hangs = 0, false
	v.LoginProblem, v.LoginRefused, v.SessionsUsed = "", false, false
	return lookQuiet
}

// unanswered takes over a look that got no answer. It is called with mu held.
func (f *facts) unanswered(seen *sight) lookNews {
	v := &f.server
	news := lookQuiet
	if !errors.Is(seen.err, ErrStarved) || v.SeenAt != 0 { // a standby that has answered waits for log by its nature
		f.starvedAt, v.Starved = 0, false
	} else if f.starvedAt == 0 {
		f.starvedAt = seen.at
	}
	if f.starvedAt != 0 && !v.Starved && seen.at.Sub(f.starvedAt) >= starvedTime {
		v.Starved, news = true, lookStarved
	}
	served := v.ServesOthers()
	v.LoginProblem, v.LoginRefused = "", errors.Is(seen.err, ErrRefused)
	if served && !v.LoginRefused { // it answered until now
		v.FailingSince = 0
	}
	// It has started, whatever it says while its sessions become free.
	v.SessionsUsed = v.SessionsUsed || errors.Is(seen.err, ErrFull)
	if v.LoginRefused || errors.Is(seen.err, ErrSocket) {
		v.LoginProblem = seen.err.Error()
	}
	switch failed := v.SeenAt != 0 || v.LoginProblem != "" || v.SessionsUsed; {
	case !failed: // it is starting
		v.FailingSince = 0
	case v.FailingSince == 0:
		v.FailingSince, news = seen.at, lookFailed
	}
	if v.FailingSince == seen.at {
		f.silent = 0
	}
	f.silent += seen.end.Sub(seen.at) - seen.stood
	// One whose sessions were all used is slow for a while as they become free.
	v.Hangs = v.FailingSince != 0 && !v.SessionsUsed && errors.Is(seen.err, context.DeadlineExceeded) && f.hangAfter > 0 &&
		f.silent >= max(f.hangAfter, usualAnswers*f.answered.At(seen.end))
	return news
}

// usualAnswers is how many times longer than its slowest answer of late a server must be silent
// to be taken for one that hangs.
const usualAnswers = 3
