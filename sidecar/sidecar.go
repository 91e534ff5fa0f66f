package sidecar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Sidecar runs one member.
type Sidecar struct {
	opts Options
	log  hclog.Logger

	wake   chan struct{} // capacity 1: something was observed
	kick   chan struct{} // capacity 1: look at the server now
	upkeep chan struct{} // capacity 1: roles and slots have work

	// Owned by the loop.
	state     ha.State
	blocks    string
	members   []Instance
	problem   string // Consul's, as last logged, at problemAt
	problemAt ha.Instant
	kept      string     // what the upkeep was last woken for
	stirredAt ha.Instant // something other than calm was last decided on then

	mu     sync.Mutex // guards what follows
	server ha.Server
	busy   ha.Busy
	cancel context.CancelFunc // of the operation on the server
	// operations grows when one begins or ends: a look that overlapped one says nothing.
	operations uint64
	intent     ha.Intent
	asked      uint64 // the term in which the switchover was asked for
	// restartAsked is when the restart was asked for: a server started since has done it.
	restartAsked ha.Instant
	// announced is what the registration says; announcing that it is being changed.
	// retold grows when it is to say something else than the role: one that was
	// being made then may lack that.
	announced        ha.Announced
	retold           uint64
	announcing       bool
	announceFailedAt ha.Instant // the last announcement failed then; zero: it did not
	leasing          bool
	leaseRefused     bool // by the guard, the last time
	checkpointing    bool
	policy           ha.Policy
	exit             *ExitError
	ready            bool
	account          Account
	accounted        uint64 // the newest term whose account was stored
	// settings are the cluster-wide ones that the server took up last; configured is
	// false before, and after the configuration file has changed.
	settings   Settings
	configured bool
	failure    string // why the last operation on the server failed, for people
	tagged     []byte // the cluster-wide settings whose tags the registration has
	// configureFailed belongs to the upkeep: it has said that the settings cannot
	// be taken up.
	configureFailed bool
	lostAt          time.Time  // the leader was lost then, by this member's wall clock
	lookedAt        ha.Instant // the last look began then
	// leaderGoneAt is when the stream to the leader ended; zero while it stands.
	leaderGoneAt ha.Instant
	// ran: the server was seen running since this process began. A new guard does
	// not know that one did that ended with its predecessor; missedExit is when that
	// was first seen.
	ran        bool
	missedExit ha.Instant
	// unwritableAt is the first of the write probes in a row that failed, starvedAt
	// of the looks in a row that found a starting server without log; zero: the
	// last was well.
	unwritableAt, starvedAt ha.Instant
	// occupiedAt is the first of the write probes in a row that were not made.
	occupiedAt ha.Instant

	serverLock sync.Mutex // held by the operation on the server
	growth     growth     // the loop's own
	snapshot   atomic.Pointer[Snapshot]
	decided    chan struct{}  // closed with each decision; guarded by mu
	tasks      sync.WaitGroup // operations under way
}

// Snapshot is the last decision and what it was made from.
type Snapshot struct {
	Observation ha.Observation
	State       ha.State
	Report      ha.Report
	Problem     string // the last error of Consul, for people
	// Behind is since when each replica lacks log that the leader has, by its name;
	// one that lacks nothing, or is not known, is not there.
	Behind map[string]ha.Instant
}

// ExitError is returned by Run when the member ended by its own decision.
type ExitError struct {
	Code int
	Why  string
}

// Error says why the member ended.
func (e *ExitError) Error() string { return e.Why }

// New checks the options; it starts nothing. It returns ErrOptions.
func New(o Options) (*Sidecar, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	return &Sidecar{
		opts: o, log: o.Logger, policy: o.Policy,
		wake: make(chan struct{}, 1), kick: make(chan struct{}, 1), upkeep: make(chan struct{}, 1), decided: make(chan struct{}),
	}, nil
}

// Run runs the member until ctx is done or it ends by its own decision; then it
// returns an ExitError. The server is stopped only by an Exit action: when ctx
// ends the guard and the server live on, for the next sidecar to find. All that
// Run began has ended when it returns.
func (s *Sidecar) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.opts.Guard.Notify(s.guardChanged)
	s.guardChanged()
	s.inspect(ctx)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ignoreCancel(s.opts.Cluster.Run(ctx, s.notify)) })
	group.Go(func() error { return ignoreCancel(s.opts.Peers.Run(ctx, s.peersChanged)) })
	group.Go(func() error { return s.lookLoop(ctx) })
	group.Go(func() error { return s.upkeepLoop(ctx) })
	group.Go(func() error {
		defer cancel()
		return s.loop(ctx)
	})
	err := group.Wait()
	s.tasks.Wait()
	s.opts.Server.Close()
	return err
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// notify wakes the loop.
func (s *Sidecar) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// lookNow wakes the look at the server.
func (s *Sidecar) lookNow() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Snapshot returns the last decision; nil before the first.
func (s *Sidecar) Snapshot() *Snapshot { return s.snapshot.Load() }

// Await returns the first snapshot, from the present one on, of which done says
// true. It returns the cause of ctx's end.
func (s *Sidecar) Await(ctx context.Context, done func(*Snapshot) bool) (*Snapshot, error) {
	for {
		s.mu.Lock()
		next := s.decided
		s.mu.Unlock()
		if snap := s.Snapshot(); snap != nil && done(snap) {
			return snap, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-next:
		}
	}
}

// show makes the decision known.
func (s *Sidecar) show(snap *Snapshot) {
	s.snapshot.Store(snap)
	s.mu.Lock()
	close(s.decided)
	s.decided = make(chan struct{})
	s.mu.Unlock()
}

// Shutdown asks the member to hand over, stop its server and end. Run returns
// when it is done.
func (s *Sidecar) Shutdown() {
	s.ask(func(i *ha.Intent) { i.Shutdown = true })
}

// Switchover asks the primary to hand over to the target, or to the best
// member. The answer is in the snapshots: the leader of a later term, or
// State.Refused.
func (s *Sidecar) Switchover(target string) {
	s.ask(func(i *ha.Intent) {
		i.Switchover, i.Target = true, target
		s.asked = s.opts.Cluster.View().Consul.Record.Term
	})
}

// Restart asks for a restart of the local server.
func (s *Sidecar) Restart() {
	s.ask(func(i *ha.Intent) { i.Restart, s.restartAsked = true, s.opts.Now() })
}

// Reinit asks for a new clone of a replica.
func (s *Sidecar) Reinit() { s.ask(func(i *ha.Intent) { i.Reinit = true }) }

// Remove asks the primary to take a member off the record. The answer is in the
// snapshots: a record without it, or State.Refused.
func (s *Sidecar) Remove(member string) { s.ask(func(i *ha.Intent) { i.Remove = member }) }

// Force lets this member lead without the votes that safety asks for.
func (s *Sidecar) Force() { s.ask(func(i *ha.Intent) { i.Force = true }) }

// WithdrawSwitchover takes back a switchover that was asked for, and nothing that
// somebody else has asked for meanwhile.
func (s *Sidecar) WithdrawSwitchover() {
	s.intend(func(i *ha.Intent) { i.Switchover, i.Target = false, "" })
}

// WithdrawRemoval takes back a removal, likewise.
func (s *Sidecar) WithdrawRemoval() { s.intend(func(i *ha.Intent) { i.Remove = "" }) }

// WithdrawForce takes back what Force allowed.
func (s *Sidecar) WithdrawForce() { s.intend(func(i *ha.Intent) { i.Force = false }) }

func (s *Sidecar) ask(change func(*ha.Intent)) {
	s.intend(func(i *ha.Intent) {
		change(i)
		i.Since = s.opts.Now()
	})
}

// intend changes what is asked for. It holds mu meanwhile.
func (s *Sidecar) intend(change func(*ha.Intent)) {
	s.mu.Lock()
	change(&s.intent)
	s.mu.Unlock()
	s.notify()
	s.lookNow() // who streams decides whether a handover can begin
}

// SetPolicy replaces the member's own part of the policy (a reload).
func (s *Sidecar) SetPolicy(p ha.Policy) {
	s.mu.Lock()
	s.opts.Policy, s.configured = p, false
	s.retell() // the registration tells tags
	s.mu.Unlock()
	s.notify()
}

// loop is the one goroutine that owns ha.State: observe, decide, act, report.
func (s *Sidecar) loop(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		o := s.observe()
		state, actions := ha.Decide(s.state, o)
		s.state = state
		s.note(o)
		for _, a := range actions {
			s.act(ctx, a)
		}
		s.report(o)
		s.watchLeader(&o)
		s.lookBeside(o.Now)
		s.opts.Calm(s.calm(&o, actions))
		if exit := s.exiting(); exit != nil {
			return s.end(ctx, exit)
		}
		timer.Reset(s.untilWake())
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// longestSleep bounds the time between two decisions, in case an event is lost.
const longestSleep = time.Second

func (s *Sidecar) untilWake() time.Duration {
	if at := s.state.WakeAt; at != 0 {
		return min(max(at.Sub(s.opts.Now()), 0), longestSleep)
	}
	return longestSleep
}

func (s *Sidecar) exiting() *ExitError {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exit
}

// end stops what must not go on without a sidecar, and leaves the cluster.
func (s *Sidecar) end(ctx context.Context, exit *ExitError) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	var errs []error
	if s.opts.Guard.Status().Process == ha.ProcessRunning {
		errs = append(errs, s.opts.Server.Stop(ctx, Stop{}))
	}
	errs = append(errs, s.opts.Cluster.Deregister(ctx), s.opts.Cluster.ReleaseSession(ctx))
	if err := errors.Join(errs...); err != nil {
		s.log.Warn("did not leave the cluster cleanly", "error", err)
	}
	return exit
}

// endTimeout bounds leaving the cluster: Nomad's default kill_timeout is 5 s,
// and by now the server is down already.
const endTimeout = 4 * time.Second

// report publishes what has changed in what this member says of itself.
func (s *Sidecar) report(o ha.Observation) {
	r := ha.MakeReport(s.state, o)
	r.Postgres, r.API, r.Version = s.opts.Postgres, s.opts.API, s.opts.Version
	if r.Blocked == "" {
		r.Blocked = s.notUp(&o)
	}
	s.show(&Snapshot{Observation: o, State: s.state, Report: r, Problem: errText(s.opts.Cluster.View().Err), Behind: s.growth.behind(&o, r)})
	// After every decision, changed or not: what the mesh goes on sending by
	// itself while the loop stands still must not look alive.
	s.opts.Peers.Publish(r)
	s.noteUpkeep(&o)
	s.opts.Cluster.SetHolding(o.Consul.Record.Leader == s.opts.Member && o.Consul.Lock.Session != "" && o.Consul.Lock.Session == o.Consul.Session)
}

// maxFailure is how many bytes of a failure's words the others are told.
const maxFailure = 500

// notUp says why there is no server that answers, if an operation that was to bring
// it there has failed.
func (s *Sidecar) notUp(o *ha.Observation) string {
	switch kind := o.Busy.FailedKind; {
	case o.Server.InRecovery != ha.Unknown:
		return ""
	case kind == ha.Init, kind == ha.Clone, kind == ha.Rewind, kind == ha.Start:
		s.mu.Lock()
		defer s.mu.Unlock()
		return kind.String() + " failed: " + strings.ToValidUTF8(s.failure[:min(len(s.failure), maxFailure)], "")
	}
	return ""
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprint(err)
}
