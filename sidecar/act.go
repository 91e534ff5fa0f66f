package sidecar

import (
	"context"
	"errors"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Deadlines of what is done outside this process.
const (
	commitTimeout     = 2 * time.Second // a Consul transaction takes a millisecond or two
	announceTimeout   = 2 * time.Second
	announcePause     = 100 * time.Millisecond // after a failed one, lest it is tried with every event
	guardTimeout      = time.Second
	fenceTimeout      = 5 * time.Second
	promoteTimeout    = time.Minute
	settingTimeout    = 5 * time.Second
	startTimeout      = 5 * time.Minute // until the postmaster runs, not until it is ready
	checkpointTimeout = time.Hour
	copyTimeout       = 24 * time.Hour // clones are as long as the data is large; progress is logged
)

// act begins one action, unless it is under way.
func (s *Sidecar) act(ctx context.Context, a ha.Action) {
	switch {
	case a.Kind.OnServer():
		s.operate(ctx, a)
	case a.Kind == ha.Checkpoint:
		s.checkpoint(ctx, a.Planned)
	case a.Kind == ha.Commit:
		s.commit(ctx, a)
	case a.Kind == ha.Lease && s.leaseSuffices(a.Until):
		// It is asked for again.
	case a.Kind == ha.Lease:
		s.lease(ctx, func(ctx context.Context) error { return s.opts.Guard.Lease(ctx, a.Until) })
	case a.Kind == ha.Disarm:
		s.lease(ctx, s.opts.Guard.Disarm)
	case a.Kind == ha.Announce:
		s.announce(ctx, a)
	case a.Kind == ha.Exit:
		s.mu.Lock()
		s.exit = &ExitError{Code: a.Code, Why: a.Why}
		s.mu.Unlock()
	}
}

// start runs f in a goroutine that Run waits for.
func (s *Sidecar) start(ctx context.Context, timeout time.Duration, f func(ctx context.Context)) {
	s.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		f(ctx)
	})
}

// commit does one Consul transaction.
func (s *Sidecar) commit(ctx context.Context, a ha.Action) {
	s.mu.Lock()
	busy := s.busy.Commit
	s.busy.Commit = true
	s.mu.Unlock()
	if busy {
		return
	}
	begun := s.opts.Now()
	s.start(ctx, commitTimeout, func(ctx context.Context) {
		err := s.opts.Cluster.Commit(ctx, a.Change)
		s.mu.Lock()
		s.opts.Recorder.Action(a.Change.What, s.opts.Now().Sub(begun), err)
		s.busy.Commit = false
		s.busy.CommitFailedAt = 0
		switch {
		case err == nil:
			s.busy.Doubt = 0
		case !errors.Is(err, ErrConflict):
			s.busy.Doubt = max(s.busy.Doubt, a.Change.Record.Index, 1)
		}
		if err != nil {
			s.busy.CommitFailedAt = s.opts.Now()
		}
		s.mu.Unlock()
		fields := []any{"what", a.Change.What, "term", a.Term, "why", a.Why, "took", s.opts.Now().Sub(begun)}
		switch {
		case err == nil:
			s.log.Info("record changed", append(fields, "phase", a.Change.Record.Phase, "leader", a.Change.Record.Leader,
				"k", a.Change.Record.Durability.K, "voters", a.Change.Record.Durability.Voters)...)
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
	now := s.opts.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	v, lease := &s.server, s.policy.Lease
	return v.Armed && v.LeaseUntil.Sub(now) > lease*3/4 && until.Sub(v.LeaseUntil) < lease*3/20
}

// lease speaks with the guard, one request at a time.
func (s *Sidecar) lease(ctx context.Context, f func(context.Context) error) {
	s.mu.Lock()
	busy := s.leasing
	s.leasing = true
	s.mu.Unlock()
	if busy {
		return
	}
	s.start(ctx, guardTimeout, func(ctx context.Context) {
		err := f(ctx)
		s.mu.Lock()
		s.leasing = false
		again := s.leaseRefused
		s.leaseRefused = err != nil
		s.mu.Unlock()
		if err != nil {
			if !again { // tried again with every event
				s.log.Error("the guard did not take the lease", "error", err)
			}
			return
		}
		s.guardChanged()
	})
}

// announce makes the service registration follow the role. A primary is
// announced only after its predecessors' tags are gone.
func (s *Sidecar) announce(ctx context.Context, a ha.Action) {
	s.mu.Lock()
	busy := s.announcing || s.announceFailedAt != 0 && s.announceFailedAt.Within(announcePause, s.opts.Now())
	s.announcing = s.announcing || !busy
	retold := s.retold
	s.mu.Unlock()
	if busy {
		return
	}
	s.start(ctx, announceTimeout, func(ctx context.Context) {
		var err error
		if a.Tag == "primary" {
			err = s.opts.Cluster.Evict(ctx, a.Evict)
		}
		if err == nil {
			err = s.opts.Cluster.Register(ctx, s.registration(a))
		}
		s.mu.Lock()
		first := s.announceFailedAt == 0
		s.announcing, s.announceFailedAt = false, 0
		if err == nil {
			s.announced = ha.Announced{Known: s.retold == retold, Tag: a.Tag, Term: a.Term}
		} else {
			// The cluster may yet be told, by itself, when it can be.
			s.announceFailedAt, s.announced.Known = s.opts.Now(), false
		}
		s.mu.Unlock()
		if err != nil {
			if first {
				s.log.Warn("cannot announce the role; tried again", "tag", a.Tag, "error", err)
			}
			return // with the next decision, a second later at most
		}
		s.log.Info("announced", "tag", a.Tag, "term", a.Term)
		s.notify()
		if a.Tag == "primary" {
			s.mark(a.Term, func(c *Account) { c.Announced = time.Now() })
			s.storeAccount(ctx, a.Term)
		}
	})
}

// operate begins an exclusive operation on the server. A stop first cancels
// what is under way and waits for its end.
func (s *Sidecar) operate(ctx context.Context, a ha.Action) {
	s.mu.Lock()
	before, cancelBefore := s.busy.Server, s.cancel
	if before != ha.NoAction && (a.Kind != ha.Stop || before == ha.Stop) {
		s.mu.Unlock()
		return
	}
	s.busy.Server = a.Kind
	s.operations++
	ctx, cancel := context.WithCancel(ctx)
	s.cancel = cancel
	s.mu.Unlock()
	if before != ha.NoAction {
		cancelBefore()
	}
	s.log.Info(a.Kind.String(), fieldsOf(a)...)
	begun := s.opts.Now()
	s.start(ctx, copyTimeout, func(ctx context.Context) {
		defer cancel()
		s.serverLock.Lock() // the operation that was cancelled ends first
		err := s.onServer(ctx, a)
		s.serverLock.Unlock()
		s.operated(a, err, begun)
	})
}

// fieldsOf are the parts of an action that people want to read.
func fieldsOf(a ha.Action) []any {
	f := []any{"why", a.Why}
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

// operated takes over the result of an operation.
func (s *Sidecar) operated(a ha.Action, err error, begun ha.Instant) {
	now := s.opts.Now()
	s.mu.Lock()
	s.operations++
	b := &s.busy
	if b.Server == a.Kind {
		b.Server = ha.NoAction
	}
	switch {
	case err == nil && a.Kind == ha.Start:
		// Whether it comes up is yet to be seen.
	case err == nil:
		if b.FailedKind == a.Kind || a.Kind == ha.Clone || a.Kind == ha.Rewind || a.Kind == ha.Init {
			b.FailedAt, b.FailedKind, b.Failures = 0, ha.NoAction, 0
		}
	case errors.Is(err, context.Canceled):
	default:
		if b.FailedKind != a.Kind {
			b.Failures = 0
		}
		b.FailedAt, b.FailedKind = now, a.Kind
		b.Failures++
		s.server.Problem, s.failure = err.Error(), err.Error()
	}
	s.mu.Unlock()
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
	srv, from := s.opts.Server, Source{Member: a.From, Address: a.Address}
	switch a.Kind {
	case ha.Init:
		return s.onFiles(ctx, func() error { return srv.Init(ctx) })
	case ha.Clone:
		err := s.onFiles(ctx, func() error { return s.stopThen(ctx, func() error { return srv.Clone(ctx, from) }) })
		return s.fulfilled(err, func(i *ha.Intent) { i.Reinit = false })
	case ha.Rewind:
		return s.onFiles(ctx, func() error { return s.stopThen(ctx, func() error { return srv.Rewind(ctx, from) }) })
	case ha.Discard:
		return s.onFiles(ctx, func() error { return srv.Discard(ctx) })
	case ha.Start:
		return s.startServer(ctx, a)
	case ha.Stop:
		return s.onFiles(ctx, func() error { return s.stopServer(ctx, a) })
	case ha.Fence:
		return s.fence(ctx, a)
	case ha.Follow:
		return s.followLeader(ctx, a, from)
	case ha.SetSync:
		return s.setSync(ctx, a)
	case ha.Promote:
		return s.promote(ctx, a)
	case ha.Unhide:
		ctx, cancel := context.WithTimeout(ctx, settingTimeout)
		defer cancel()
		return s.learn(srv.Unhide(ctx), func(v *ha.Server) { v.Hidden = false })
	}
	return nil
}

// checkpoint asks for one beside whatever else is under way: it may take long.
func (s *Sidecar) checkpoint(ctx context.Context, planned bool) {
	s.mu.Lock()
	busy := s.checkpointing
	s.checkpointing = true
	s.mu.Unlock()
	if busy {
		return
	}
	s.start(ctx, checkpointTimeout, func(ctx context.Context) {
		begun := s.opts.Now()
		err := s.learn(s.opts.Server.Checkpoint(ctx, planned), func(v *ha.Server) { v.Checkpointed, v.CheckpointAt = true, s.opts.Now() })
		s.mu.Lock()
		s.checkpointing = false
		s.mu.Unlock()
		if err != nil {
			s.log.Warn("checkpoint failed", "error", err)
			return
		}
		s.log.Info("checkpoint done", "took", s.opts.Now().Sub(begun))
		s.notify()
	})
}

// learn takes over a fact if err is nil, and returns err.
func (s *Sidecar) learn(err error, fact func(v *ha.Server)) error {
	if err != nil {
		return err
	}
	s.mu.Lock()
	fact(&s.server)
	s.mu.Unlock()
	return nil
}

// fulfilled forgets an intent if err is nil, and returns err.
func (s *Sidecar) fulfilled(err error, forget func(*ha.Intent)) error {
	if err == nil {
		s.mu.Lock()
		forget(&s.intent)
		s.mu.Unlock()
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

func (s *Sidecar) stopThen(ctx context.Context, f func() error) error {
	if s.opts.Guard.Status().Process == ha.ProcessRunning {
		if err := s.opts.Server.Stop(ctx, Stop{}); err != nil {
			return err
		}
	}
	return f()
}

func (s *Sidecar) startServer(ctx context.Context, a ha.Action) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	how := Start{Primary: a.Primary, Hidden: a.Hidden, Sync: a.Sync, From: Source{Member: a.From, Address: a.Address}, Term: a.Term}
	// What takes effect by a start alone must be there now, and what kept the server
	// from starting may have been taken back.
	if view := s.opts.Cluster.View(); view.Consul.SeenAt != 0 {
		if set, err := ParseSettings(view.Settings); err == nil { // overlay has said why not
			how.Settings = &set
		}
	}
	err := s.opts.Server.Start(ctx, how)
	s.guardChanged()
	return s.learn(err, func(v *ha.Server) {
		forgetSQL(v)
		v.WasPrimary, v.Hidden = a.Primary, a.Hidden
		if a.From != "" {
			v.Promise, v.Fenced = max(v.Promise, a.Term), false
		}
	})
}

// stopServer stops the server; a fast shutdown that takes too long becomes an
// immediate one.
func (s *Sidecar) stopServer(ctx context.Context, a ha.Action) error {
	s.mu.Lock()
	timeout := s.policy.StopTimeout
	s.mu.Unlock()
	how := Stop{Immediate: a.Immediate, Planned: a.Planned, Yield: a.Yield}
	soft, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := s.opts.Server.Stop(soft, how)
	if err == nil || how.Immediate || ctx.Err() != nil || errors.Is(err, ErrTransactions) {
		return err
	}
	s.log.Warn("the fast shutdown takes too long; stopping at once", "error", err)
	return s.opts.Server.Stop(ctx, Stop{Immediate: true})
}

func (s *Sidecar) fence(ctx context.Context, a ha.Action) error {
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	p, err := s.opts.Server.Fence(ctx, a.Term, a.Sync)
	return s.learn(err, func(v *ha.Server) {
		v.Promise, v.Fenced, v.Settled = max(v.Promise, a.Term), true, true
		v.Upstream, v.Receiving, v.Position = "", ha.No, p
		if len(a.Sync.Names) > 0 {
			v.Sync, v.SyncUnsure = a.Sync, false
		}
	})
}

func (s *Sidecar) followLeader(ctx context.Context, a ha.Action, from Source) error {
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	s.mu.Lock()
	how := Follow{Term: a.Term, From: from, Own: s.server.Position.TLI, Leader: a.Position}
	s.mu.Unlock()
	return s.learn(s.opts.Server.Follow(ctx, how), func(v *ha.Server) {
		v.Promise, v.Fenced, v.Settled, v.Upstream = max(v.Promise, a.Term), false, false, a.From
	})
}

func (s *Sidecar) setSync(ctx context.Context, a ha.Action) error {
	ctx, cancel := context.WithTimeout(ctx, settingTimeout)
	defer cancel()
	s.learn(nil, func(v *ha.Server) { v.SyncAt, v.SyncUnsure = 0, true })
	at, err := s.opts.Server.SetSync(ctx, a.Sync)
	return s.learn(err, func(v *ha.Server) { v.Sync, v.SyncAt, v.SyncUnsure = a.Sync, at, false })
}

func (s *Sidecar) promote(ctx context.Context, a ha.Action) error {
	ctx, cancel := context.WithTimeout(ctx, promoteTimeout)
	defer cancel()
	s.mark(a.Term, func(c *Account) { c.Fenced = time.Now() })
	p, err := s.opts.Server.Promote(ctx, a.Timeline)
	if err != nil {
		return err
	}
	s.mark(a.Term, func(c *Account) {
		c.Promoted = time.Now()
		if n := len(p.History); n > 0 {
			c.Forked = p.History[n-1].End
		}
	})
	writable := ha.Known(s.opts.Server.Probe(ctx) == nil)
	s.mark(a.Term, func(c *Account) { c.Writable = time.Now() })
	return s.learn(nil, func(v *ha.Server) {
		v.InRecovery, v.Writable, v.Receiving, v.Position = ha.No, writable, ha.No, p
		v.Fenced, v.Settled, v.SyncAt, v.WasPrimary = false, false, 0, true
		v.SeenAt, v.Checkpointed = s.opts.Now(), false
	})
}
