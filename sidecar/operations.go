package sidecar

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Deadlines of what is done outside this process.
const (
	commitTimeout     = 2 * time.Second // a Consul transaction takes a millisecond or two
	announceTimeout   = 2 * time.Second
	guardTimeout      = time.Second
	fenceTimeout      = 5 * time.Second
	promoteTimeout    = time.Minute
	settingTimeout    = 5 * time.Second
	startTimeout      = 5 * time.Minute // until the postmaster runs, not until it is ready
	checkpointTimeout = time.Hour
	copyTimeout       = 24 * time.Hour // clones are as long as the data is large; progress is logged
)

// operations is what this member does to its server, to the record and to the
// guard: at most one of each at a time. (Which one is under way on the server is
// among the facts.)
type operations struct {
	tasks sync.WaitGroup // the goroutines that start has begun

	// server is held by the operation on the server, and by the maintenance while it
	// configures the server.
	server sync.Mutex
	// cancel is the loop's own: it ends the last operation on the server.
	cancel context.CancelFunc

	mu   sync.Mutex // guards what follows
	busy ha.Busy    // without the operation on the server
	// failure says, for people, why the last operation on the server failed.
	failure       string
	leasing       bool // a request to the guard is under way
	leaseRefused  bool // by the guard, the last time
	checkpointing bool
}

// now returns what is under way, and what failed last.
func (p *operations) now() ha.Busy {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.busy
}

// failed notes that an operation on the server failed.
func (p *operations) failed(kind ha.ActionKind, err error, now ha.Instant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail(kind, err.Error(), now)
	p.busy.Unserved = errors.Is(err, ErrSource)
}

// neverReady notes that a server that was started ended before it was ready.
func (p *operations) neverReady(why string, damaged bool, now ha.Instant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy.Damaged = damaged
	p.fail(ha.Start, why, now)
}

// fail is called with mu held.
func (p *operations) fail(kind ha.ActionKind, why string, now ha.Instant) {
	b := &p.busy
	if b.FailedKind != kind {
		b.Failures = 0
	}
	b.FailedAt, b.FailedKind = now, kind
	b.Failures++
	p.failure = why
}

// succeeded forgets the failures that an operation's success makes up for. Whether
// a server comes up that was started is yet to be seen.
func (p *operations) succeeded(kind ha.ActionKind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	anew := kind == ha.Clone || kind == ha.Rewind || kind == ha.Init || kind == ha.Restore
	if kind != ha.Start && (anew || p.busy.FailedKind == kind) {
		p.busy.FailedAt, p.busy.FailedKind, p.busy.Failures = 0, ha.NoAction, 0
	}
}

// cameUp forgets that the server did not start: it answers.
func (p *operations) cameUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy.FailedKind == ha.Start {
		p.busy.FailedAt, p.busy.FailedKind, p.busy.Failures = 0, ha.NoAction, 0
	}
}

// begin sets a flag of what is under way, and reports whether it was not set.
func (p *operations) begin(flag *bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := *flag
	*flag = true
	return !was
}

// committed takes over how a transaction went.
func (p *operations) committed(change *ha.Change, err error, now ha.Instant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy.Commit, p.busy.CommitFailedAt = false, 0
	switch {
	case err == nil:
		p.busy.Doubt = 0
	case !errors.Is(err, ErrConflict):
		p.busy.Doubt = max(p.busy.Doubt, change.Record.Index, 1)
	}
	if err != nil {
		p.busy.CommitFailedAt = now
	}
}

// leased takes over what the guard answered, and reports whether a refusal is news.
func (p *operations) leased(err error) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	news = err != nil && !p.leaseRefused
	p.leasing, p.leaseRefused = false, err != nil
	return news
}

// act begins one action, unless it is under way.
func (s *Sidecar) act(ctx context.Context, a ha.Action) {
	switch {
	case a.Kind.OnServer():
		s.operate(ctx, a)
	case a.Kind == ha.Checkpoint:
		s.checkpoint(ctx, a)
	case a.Kind == ha.Commit:
		s.commit(ctx, a)
	case a.Kind == ha.Lease && s.leaseSuffices(a.Until):
		// It is requested again.
	case a.Kind == ha.Lease:
		s.lease(ctx, a, func(ctx context.Context) error { return s.opts.Guard.Lease(ctx, a.Until) })
	case a.Kind == ha.Disarm:
		s.lease(ctx, a, s.opts.Guard.Disarm)
	case a.Kind == ha.Announce:
		s.announce(ctx, a)
	case a.Kind == ha.Exit:
		s.opts.Recorder.Rule(a.Rule)
		s.exit = &ExitError{Code: a.Code, Why: a.Why}
	}
}

// start runs f in a goroutine that Run waits for.
func (s *Sidecar) start(ctx context.Context, timeout time.Duration, f func(ctx context.Context)) {
	s.operations.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		f(ctx)
	})
}

// commit does one Consul transaction.
func (s *Sidecar) commit(ctx context.Context, a ha.Action) {
	if !s.operations.begin(&s.operations.busy.Commit) {
		return
	}
	s.opts.Recorder.Rule(a.Rule)
	begun := s.opts.Now()
	s.start(ctx, commitTimeout, func(ctx context.Context) {
		err := s.opts.Cluster.Commit(ctx, a.Change)
		now := s.opts.Now()
		took := now.Sub(begun)
		s.opts.Recorder.Action(a.Change.What, took, err)
		s.operations.committed(&a.Change, err, now)
		fields := []any{"what", a.Change.What, "rule", a.Rule, "term", a.Term, "why", a.Why, "took", took}
		switch r := &a.Change.Record; {
		case err == nil:
			s.log.Info("record changed", append(fields, "phase", r.Phase, "leader", r.Leader, "k", r.Durability.K, "voters", r.Durability.Voters)...)
		case errors.Is(err, ErrConflict):
			s.log.Info("record was changed by another member first", fields...)
		default:
			s.log.Warn("cannot change the record", append(fields, "error", err)...)
		}
		s.notify()
	})
}

// leaseSuffices reports whether the guard's lease is long, and would grow by
// little: the others' heartbeats and Consul's answers come together, and each
// moves it on.
func (s *Sidecar) leaseSuffices(until ha.Instant) bool {
	v, _ := s.facts.now()
	lease := s.configuration.now().Lease
	return v.Armed && v.LeaseUntil.Sub(s.opts.Now()) > lease*3/4 && until.Sub(v.LeaseUntil) < lease*3/20
}

// lease speaks with the guard, one request at a time.
func (s *Sidecar) lease(ctx context.Context, a ha.Action, f func(context.Context) error) {
	if !s.operations.begin(&s.operations.leasing) {
		return
	}
	s.opts.Recorder.Rule(a.Rule)
	s.start(ctx, guardTimeout, func(ctx context.Context) {
		err := f(ctx)
		if s.operations.leased(err) {
			s.log.Error("the guard did not take the lease", "error", err) // tried again with every event
		}
		if err == nil {
			s.guardChanged()
		}
	})
}

// checkpoint makes one beside whatever else is under way: it may take long.
func (s *Sidecar) checkpoint(ctx context.Context, a ha.Action) {
	if !s.operations.begin(&s.operations.checkpointing) {
		return
	}
	s.opts.Recorder.Rule(a.Rule)
	s.start(ctx, checkpointTimeout, func(ctx context.Context) {
		begun := s.opts.Now()
		err := s.doAndLearn(ctx, a)
		s.operations.mu.Lock()
		s.operations.checkpointing = false
		s.operations.mu.Unlock()
		if err != nil {
			s.log.Warn("checkpoint failed", "error", err)
			return
		}
		s.log.Info("checkpoint done", "took", s.opts.Now().Sub(begun))
		s.notify()
	})
}

// operate begins an exclusive operation on the server. A stop first cancels
// what is under way and waits for its end.
func (s *Sidecar) operate(ctx context.Context, a ha.Action) {
	begun := s.opts.Now()
	before, ok := s.facts.begin(a, begun)
	if !ok {
		return
	}
	s.opts.Recorder.Rule(a.Rule)
	if before != ha.NoAction {
		s.operations.cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	s.operations.cancel = cancel
	s.log.Info(a.Kind.String(), fieldsOf(a)...)
	s.start(ctx, copyTimeout, func(ctx context.Context) {
		defer cancel()
		s.operations.server.Lock() // the operation that was cancelled ends first
		err := s.onServer(ctx, a)
		s.operations.server.Unlock()
		s.operated(a, err, begun)
	})
}

// fieldsOf are the parts of an action that people want to read.
func fieldsOf(a ha.Action) []any {
	f := []any{"rule", a.Rule, "why", a.Why}
	if a.Term != 0 {
		f = append(f, "term", a.Term)
	}
	if a.From != "" {
		f = append(f, "from", a.From, "address", a.Address)
	}
	if a.Timeline != 0 {
		f = append(f, "timeline", a.Timeline)
	}
	if a.Kind == ha.Start {
		f = append(f, "primary", a.Primary)
	}
	if a.Kind == ha.SetSync || a.Sync.K > 0 {
		f = append(f, "k", a.Sync.K, "names", a.Sync.Names)
	}
	return f
}

// operated takes over how an operation went. That it has ended is noted last: who
// sees so sees all else.
func (s *Sidecar) operated(a ha.Action, err error, begun ha.Instant) {
	now := s.opts.Now()
	switch {
	case err == nil:
		s.operations.succeeded(a.Kind)
		s.facts.ended(a.Kind, nil)
	case !errors.Is(err, context.Canceled):
		s.operations.failed(a.Kind, err, now)
		s.facts.ended(a.Kind, err)
	}
	s.facts.end(a.Kind)
	took := now.Sub(begun)
	s.opts.Recorder.Action(a.Kind.String(), took, err)
	if err != nil {
		s.log.Error(a.Kind.String()+" failed", "took", took, "error", err)
	} else {
		s.log.Info(a.Kind.String()+" done", "took", took)
	}
	s.notify()
	if err == nil && (a.Kind == ha.Fence || a.Kind == ha.Promote || a.Kind == ha.Follow) {
		time.AfterFunc(lookAfter, s.lookNow)
		return
	}
	s.lookNow()
}

// lookAfter is when the server is looked at after a step of an election: what
// counts is known by the step's success, and the next step wants the processor.
const lookAfter = 50 * time.Millisecond

// onServer does the operation and takes over what is known by its success, so
// that the next decision need not wait for a look.
func (s *Sidecar) onServer(ctx context.Context, a ha.Action) error {
	switch a.Kind {
	case ha.Init, ha.Discard:
		return s.onFiles(ctx, func() error { return s.do(ctx, a) })
	case ha.Clone, ha.Rewind, ha.Restore:
		err := s.onFiles(ctx, func() error { return s.stopThen(ctx, a) })
		if err == nil && a.Kind == ha.Clone {
			s.intents.cloned()
		}
		return err
	case ha.Start:
		return s.startServer(ctx, a)
	case ha.Stop:
		return s.onFiles(ctx, func() error { return s.stopServer(ctx, a) })
	case ha.SetSync:
		s.facts.learn(func(v *ha.Server) { v.SyncAt, v.SyncUnsure = 0, true })
	case ha.Promote:
		return s.promote(ctx, a)
	}
	timeout := settingTimeout
	if a.Kind == ha.Fence || a.Kind == ha.Follow {
		timeout = fenceTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return s.doAndLearn(ctx, a)
}

func (s *Sidecar) do(ctx context.Context, a ha.Action) error {
	_, err := s.opts.Server.Do(ctx, a)
	return err
}

// doAndLearn does an action and writes down what its success says.
func (s *Sidecar) doAndLearn(ctx context.Context, a ha.Action) error {
	before, _ := s.facts.now()
	l, err := s.opts.Server.Do(ctx, a)
	if err == nil {
		s.facts.succeeded(&before, a, l, s.opts.Now())
	}
	return err
}

// onFiles does an operation on the files and reads them again, whatever its result.
func (s *Sidecar) onFiles(ctx context.Context, f func() error) error {
	err := f()
	s.guardChanged()
	s.inspect(context.WithoutCancel(ctx))
	return err
}

// stopThen stops a server that runs before its files are replaced.
func (s *Sidecar) stopThen(ctx context.Context, a ha.Action) error {
	if s.opts.Guard.Status().Process == ha.ProcessRunning {
		if err := s.do(ctx, ha.Action{Kind: ha.Stop}); err != nil {
			return err
		}
	}
	return s.do(ctx, a)
}

// startServer starts the server. What takes effect by a start alone must be there
// now, and what kept the server from starting may have been taken back: so the
// cluster's settings come first, unless PostgreSQL refuses them.
func (s *Sidecar) startServer(ctx context.Context, a ha.Action) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if view := s.opts.Cluster.View(); !view.Settings.Unread {
		if err := s.opts.Server.Configure(ctx, view.Settings.Settings); err != nil {
			s.log.Error("the server starts without the cluster's settings; the ones before hold", "error", err)
		}
	}
	before, _ := s.facts.now()
	err := s.do(ctx, a)
	s.guardChanged()
	if err == nil {
		s.facts.succeeded(&before, a, Learned{}, 0)
	}
	return err
}

// stopServer stops the server; a fast shutdown that takes too long becomes an
// immediate one.
func (s *Sidecar) stopServer(ctx context.Context, a ha.Action) error {
	soft, cancel := context.WithTimeout(ctx, s.configuration.now().StopTimeout)
	defer cancel()
	err := s.do(soft, a)
	if err == nil || a.Immediate || ctx.Err() != nil || errors.Is(err, ErrTransactions) {
		return err
	}
	s.log.Warn("the fast shutdown takes too long; stopping at once", "error", err)
	return s.do(ctx, ha.Action{Kind: ha.Stop, Immediate: true})
}

// promote promotes the server and sees that it takes a write.
func (s *Sidecar) promote(ctx context.Context, a ha.Action) error {
	ctx, cancel := context.WithTimeout(ctx, promoteTimeout)
	defer cancel()
	s.failover.stamp(a.Term, s.moment(), func(r *failover.Record, now time.Time) { r.Fenced = now })
	before, _ := s.facts.now()
	l, err := s.opts.Server.Do(ctx, a)
	if err != nil {
		return err
	}
	s.failover.stamp(a.Term, s.moment(), func(r *failover.Record, now time.Time) {
		r.Promoted = now
		if n := len(l.Position.History); n > 0 {
			r.Forked = l.Position.History[n-1].End
		}
	})
	writable := ha.Known(s.opts.Server.Probe(ctx) == nil)
	s.failover.stamp(a.Term, s.moment(), func(r *failover.Record, now time.Time) { r.Writable = now })
	s.facts.succeeded(&before, a, l, s.opts.Now())
	s.facts.learn(func(v *ha.Server) {
		if v.Process != ha.ProcessStopped { // nor is it where the guard is not heard
			v.Writable = writable
		}
	})
	return nil
}
