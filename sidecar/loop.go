package sidecar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Sidecar runs one member. Each part has its own lock and never waits for another
// part while it holds that.
type Sidecar struct {
	opts Options
	log  hclog.Logger

	wake        chan struct{} // capacity 1: something was observed
	kick        chan struct{} // capacity 1: look at the server now
	maintenance chan struct{} // capacity 1: roles and slots have work

	facts         facts
	operations    operations
	intents       intents
	registration  registration
	failover      failoverRecord
	configuration configuration
	published     published

	decisions // the loop's own
}

// decisions is what the loop owns; no other goroutine touches it.
type decisions struct {
	state      ha.State
	members    []Instance // that the mesh was told of
	maintained string     // what the maintenance was last woken for
	journal    journal
	idle       idleClock
	lag        lagClock
	exit       *ExitError // the member ends by its own decision
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
	s := &Sidecar{
		opts: o, log: o.Logger,
		wake: make(chan struct{}, 1), kick: make(chan struct{}, 1), maintenance: make(chan struct{}, 1),
	}
	s.configuration.own, s.configuration.policy = o.Policy, o.Policy
	s.facts.hangAfter = o.HangAfter
	return s, nil
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
	group.Go(func() error { return ignoreCancel(s.opts.Site.Run(ctx, s.notify)) })
	group.Go(func() error { return s.lookLoop(ctx) })
	group.Go(func() error { return s.maintainLoop(ctx) })
	group.Go(func() error {
		defer cancel()
		return s.loop(ctx)
	})
	err := group.Wait()
	s.operations.tasks.Wait()
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
		s.opts.OnIdle(s.idle.note(&o, &s.state, actions))
		if s.exit != nil {
			return s.end(ctx)
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

// observe gathers what is known into one observation. What is under way is read
// first: an operation or a transaction that has ended by then has left its result in
// what is read after it.
func (s *Sidecar) observe() ha.Observation {
	server, operation := s.facts.observed()
	busy := s.operations.now()
	busy.Server, busy.Since, busy.Immediate = operation.Server, operation.Since, operation.Immediate
	view := s.opts.Cluster.View()
	s.setMembers(view.Members)
	s.registration.takeTags(view.Settings.Tags[s.opts.Member])
	o := ha.Observation{
		Self: s.opts.Member, Policy: s.configuration.overlay(view.Settings.Settings, s.opts),
		SettingsUnread: view.Settings.Unread,
		Consul:         view.Consul, Server: server, Peers: s.opts.Peers.Peers(), Busy: busy, Announced: s.registration.now(), Source: s.opts.Site.Source(),
	}
	o.Now = s.opts.Now() // after all that it may be compared with
	o.Intent = s.intents.fulfil(&o, s.log)
	return o
}

// setMembers tells the mesh of the members that Consul names.
func (s *Sidecar) setMembers(members []Instance) {
	if slices.Equal(members, s.members) || len(members) == 0 {
		return
	}
	s.members = slices.Clone(members)
	s.opts.Peers.SetMembers(s.members)
}

// longestSleep bounds the time between two decisions, in case an event is lost.
const longestSleep = time.Second

func (s *Sidecar) untilWake() time.Duration {
	if at := s.state.WakeAt; at != 0 {
		return min(max(at.Sub(s.opts.Now()), 0), longestSleep)
	}
	return longestSleep
}

// end stops what must not go on without a sidecar, and leaves the cluster.
func (s *Sidecar) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	var errs []error
	if s.opts.Guard.Status().Process == ha.ProcessRunning {
		errs = append(errs, s.do(ctx, ha.Action{Kind: ha.Stop}))
	}
	errs = append(errs, s.opts.Cluster.Leave(ctx))
	if err := errors.Join(errs...); err != nil {
		s.log.Warn("did not leave the cluster cleanly", "error", err)
	}
	return s.exit
}

// endTimeout bounds leaving the cluster: Nomad's default kill_timeout is 5 s,
// and by now the server is down already.
const endTimeout = 4 * time.Second

// report publishes what has changed in what this member says of itself.
func (s *Sidecar) report(o ha.Observation) {
	r := ha.MakeReport(s.state, o)
	r.Postgres, r.API, r.Version = s.opts.Postgres, s.opts.API, s.opts.Version
	s.opts.Describe(&r)
	if r.Blocked == "" {
		r.Blocked = s.operations.notUp(&o)
	}
	s.published.show(&Snapshot{Observation: o, State: s.state, Report: r, Problem: errText(s.opts.Cluster.View().Err), Behind: s.lag.behind(&o, r)})
	// After every decision, changed or not: what the mesh goes on sending by
	// itself while the loop stands still must not look alive.
	s.opts.Peers.Publish(r)
	s.wakeMaintenance(&o)
	holding := o.Consul.Record.Leader == s.opts.Member && o.Consul.Lock.Session != "" && o.Consul.Lock.Session == o.Consul.Session
	s.opts.Cluster.SetHolding(holding, s.state.VouchedUntil > o.Now.Add(o.Policy.Lease*3/5))
}

// maxFailure is how many bytes of a failure's words the others are told.
const maxFailure = 500

// notUp says why no server answers, if an operation that was to bring
// it there has failed.
func (p *operations) notUp(o *ha.Observation) string {
	switch kind := o.Busy.FailedKind; {
	case o.Server.InRecovery != ha.Unknown:
		return ""
	case kind == ha.Init, kind == ha.Restore, kind == ha.Clone, kind == ha.Rewind, kind == ha.Start:
		p.mu.Lock()
		defer p.mu.Unlock()
		return kind.String() + " failed: " + strings.ToValidUTF8(p.failure[:min(len(p.failure), maxFailure)], "")
	}
	return ""
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprint(err)
}
