package sidecar

import (
	"context"
	"sync"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/recent"
)

// facts is what is known of the server. Each part of ha.Server is taken over from
// its source whole; what an operation's success says is written down at once.
type facts struct {
	mu     sync.Mutex // guards what follows
	server ha.Server
	// operation is the one that is under way on the server, since operationAt; changes
	// grows when one begins or ends: a look that overlapped one says nothing.
	operation   ha.ActionKind
	operationAt ha.Instant
	immediate   bool // the operation is an immediate shutdown
	// start is the newest Start, of which takeProcess tells the files of a server that
	// has begun to run, before the Start itself has ended.
	start ha.Action
	// unmade is why no data were made the last time that they were to be; empty: they were.
	// What the files say next does not take it away: a person is to read it.
	unmade  string
	changes uint64

	// ran: the server was seen running since this process began. A new guard does
	// not know that one did that ended with its predecessor; missedExit is when that
	// was first seen.
	ran        bool
	missedExit ha.Instant

	lookedAt ha.Instant // the last look began then
	// answered is how long the server took to answer of late; hangAfter is how long it may
	// at least be silent before it is taken for one that hangs. Zero: for ever.
	answered  recent.Longest
	hangAfter time.Duration
	// wrote is how long write probes took of late; unwritten is for how long those in a row
	// that failed have waited, this process running.
	wrote     recent.Longest
	unwritten time.Duration
	silent    time.Duration // for how long it has been asked in vain since it fell silent, this process running
	// leaderGoneAt is when the stream to the leader ended; zero while it stands.
	leaderGoneAt ha.Instant
	// unwritableAt is the first of the write probes in a row that failed, starvedAt
	// of the looks in a row that found a starting server without log; zero: the
	// last was well.
	unwritableAt, starvedAt ha.Instant
	// occupiedAt is the first of the write probes in a row that were not made.
	occupiedAt ha.Instant
}

// now returns all that is known, and the operation that is under way: what one that
// has ended has changed is there.
func (f *facts) now() (ha.Server, ha.ActionKind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.server, f.operation
}

// stopping reports whether the server is being stopped: it takes no new connection then.
func (f *facts) stopping() bool {
	_, operation := f.now()
	return operation == ha.Stop
}

// observed is now, in an observation's terms: of Busy the operation and since when.
func (f *facts) observed() (ha.Server, ha.Busy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.server, ha.Busy{Server: f.operation, Since: f.operationAt, Immediate: f.immediate}
}

// begin notes that an operation begins. It reports which one was under way, and
// whether this one may begin: while another is there only a stop may, which cancels it.
func (f *facts) begin(a ha.Action, now ha.Instant) (before ha.ActionKind, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before = f.operation
	if before != ha.NoAction && (a.Kind != ha.Stop || before == ha.Stop) {
		return before, false
	}
	f.operation, f.operationAt, f.immediate = a.Kind, now, a.Immediate
	if a.Kind == ha.Start {
		f.start = a
	}
	f.changes++
	return before, true
}

// end notes that an operation has ended, unless a stop has taken its place.
func (f *facts) end(kind ha.ActionKind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changes++
	if f.operation == kind {
		f.operation, f.operationAt, f.immediate = ha.NoAction, 0, false
	}
}

// learn writes a fact down.
func (f *facts) learn(fact func(v *ha.Server)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fact(&f.server)
}

// forgetSQL drops what was known by SQL of a server that runs no more. The setting
// of the synchronous standbys is kept in a file, so what it was last seen to be is
// the best guess; nobody may rely on it.
func forgetSQL(v *ha.Server) {
	v.SQL = ha.SQL{Sync: v.Sync, SyncUnsure: true}
	v.Probes = ha.Probes{}
}

// transition is what came of a report of the guard.
type transition struct {
	from, to ha.Process
	expected bool // an operation of this member's was to stop the server
	answered bool // the server had answered before
	extended bool // only a lease goes on: that needs no decision
}

// died reports whether the server ended and nobody asked for it.
func (t transition) died() bool {
	return t.from == ha.ProcessRunning && t.to == ha.ProcessStopped && !t.expected
}

// takeProcess takes over what the guard says.
func (f *facts) takeProcess(g GuardStatus, now ha.Instant) transition {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := &f.server
	switch {
	case g.Process == ha.ProcessRunning:
		f.ran, f.missedExit = true, 0
	case g.Process == ha.ProcessStopped && g.ExitedAt == 0 && f.ran:
		if f.missedExit == 0 {
			f.missedExit = now
		}
		g.ExitedAt = f.missedExit
	}
	t := transition{from: v.Process, to: g.Process, answered: v.SeenAt != 0}
	next := g.Postmaster
	t.extended = v.Armed && next.Armed && v.LeaseUntil > now
	if t.extended {
		same := next
		same.LeaseUntil = v.LeaseUntil
		t.extended = same == v.Postmaster
	}
	v.Postmaster = next
	t.expected = f.operation == ha.Stop || f.operation == ha.Clone || f.operation == ha.Rewind || f.operation == ha.Restore
	if t.from == t.to {
		return t
	}
	if t.to == ha.ProcessRunning && f.operation == ha.Start {
		// What the files were before says nothing of this life: a standby of which they
		// said that it was a primary would be stopped again at once, as deposed.
		v.WasPrimary, v.Hidden = f.start.Primary, f.start.Hidden
	}
	if t.to == ha.ProcessStopped {
		// Also one that ended unseen, as with its guard: an earlier life's clean stop,
		// with a position by SQL, would be the vote that stands for all (S3).
		forgetSQL(v)
		v.CleanStop, v.End, f.occupiedAt = false, ha.Position{}, 0
	}
	v.Asked = t.to == ha.ProcessStopped && t.from == ha.ProcessRunning && t.expected
	return t
}

// beginInspect returns the server as it is before a look at its files, and the changes so far.
func (f *facts) beginInspect() (before ha.Server, changes uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.server, f.changes
}

// takeFiles takes over what the files said of the server as it was before. An operation
// that has begun or ended since may have changed them after they were read, and says
// itself what it made of them; the look that its end asks for reads them anew.
func (f *facts) takeFiles(before *ha.Server, changes uint64, files ha.Files) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := &f.server
	if f.changes != changes {
		return
	}
	if files.Promise < v.Promise {
		files.Promise, files.PromisedTo = v.Promise, v.PromisedTo // a promise is never taken back
	}
	if v.Process == ha.ProcessStopped && before.Process == ha.ProcessStopped && v.StartedAt == before.StartedAt {
		v.Position = files.End
	} else { // their end is not of this life, but of one before it
		files.CleanStop, files.End = v.CleanStop, v.End
	}
	if files.Problem == "" {
		files.Problem = f.unmade
	}
	v.Files = files
}

// ended notes how an operation went.
func (f *facts) ended(kind ha.ActionKind, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		f.unmade = ""
		return
	case kind == ha.Init || kind == ha.Clone || kind == ha.Rewind || kind == ha.Restore:
		f.unmade = err.Error()
	}
	f.server.Problem = err.Error()
}

// unreadable notes why the files could not be read, if nothing is known of them,
// and reports whether that is news.
func (f *facts) unreadable(err error) (news bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server.DataDir != ha.DataUnknown {
		return true
	}
	news = f.server.Problem != err.Error()
	f.server.Problem = err.Error()
	return news
}

// succeeded takes over an action's success on the server as it was before. What that says
// of a server that has ended meanwhile, or of the timeline before the one that it has begun
// meanwhile, is of no life that goes on: nobody may rewind to a primary by the checkpoint of
// the standby that it was.
func (f *facts) succeeded(before *ha.Server, a ha.Action, l Learned, now ha.Instant) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := &f.server
	if a.Kind == ha.Checkpoint && (v.StartedAt != before.StartedAt || v.InRecovery != before.InRecovery) {
		return
	}
	apply(v, a, l, now)
	if v.Process == ha.ProcessStopped {
		forgetSQL(v)
	}
}

// apply writes down what an action's success makes of the server.
func apply(v *ha.Server, a ha.Action, l Learned, now ha.Instant) {
	switch a.Kind {
	case ha.Start:
		forgetSQL(v)
		v.WasPrimary, v.Hidden = a.Primary, a.Hidden
		if a.From != "" {
			v.Promises(a.Term, a.Leader, false)
		}
	case ha.Fence:
		v.Promises(a.Term, a.Leader, true)
		v.Settled = true
		v.Upstream, v.UpstreamAt, v.Receiving, v.Position = "", "", ha.No, l.Position
		if len(a.Sync.Names) > 0 {
			v.Sync, v.SyncUnsure = a.Sync, false
		}
	case ha.Follow:
		v.Promises(a.Term, a.Leader, false)
		v.Settled, v.Upstream = false, a.From
		v.UpstreamAt = a.Address
	case ha.SetSync:
		v.Sync, v.SyncAt, v.SyncUnsure = a.Sync, l.SyncAt, false
	case ha.Promote:
		v.InRecovery, v.Receiving, v.Position = ha.No, ha.No, l.Position
		v.Fenced, v.Settled, v.SyncAt, v.WasPrimary = false, false, 0, true
		v.SeenAt, v.Checkpointed = now, false
	case ha.Unhide:
		v.Hidden, v.Undoable = false, false
	case ha.Checkpoint:
		v.CheckpointAt = now
		if v.InRecovery == ha.No { // a standby's may have been skipped
			v.Checkpointed = true
		}
	}
}

// guardChanged takes over what the guard says. An exit reaches the loop without
// waiting for anything else.
func (s *Sidecar) guardChanged() {
	g := s.opts.Guard.Status()
	t := s.facts.takeProcess(g, s.opts.Now())
	switch {
	case t.extended:
	case t.died():
		s.exited(g, t.answered)
		s.notify()
	default:
		s.notify()
		if t.from != t.to {
			s.lookNow()
		}
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
	s.facts.learn(func(v *ha.Server) { v.Problem = words })
	s.operations.neverReady(words, damaged, s.opts.Now())
}

// inspectTimeout bounds a look at the data directory's files.
const inspectTimeout = 10 * time.Second

// inspect reads what the files say.
func (s *Sidecar) inspect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	before, changes := s.facts.beginInspect()
	files, err := s.opts.Server.Inspect(ctx)
	if err != nil {
		if s.facts.unreadable(err) {
			s.log.Error("cannot inspect the data directory", "error", err)
		}
		return
	}
	s.facts.takeFiles(&before, changes, files)
	s.notify()
}
