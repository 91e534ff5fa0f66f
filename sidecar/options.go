package sidecar

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Options is what a Sidecar is made of.
type Options struct {
	Member   string
	Postgres string // host:port at which others reach the server
	API      string // host:port at which others reach this sidecar
	Version  string
	// Policy is what the member's own configuration says; the cluster-wide settings go
	// over it.
	Policy ha.Policy
	// Priority makes of the priority that then holds the one that decides among equal
	// successors; nil: it is that one.
	Priority func(int) int

	// HangAfter is for how long a server that did answer must be silent, at least, to be taken
	// for one that hangs (ha.Probes.Hangs); zero: none is.
	HangAfter time.Duration

	Cluster Cluster
	Peers   Peers
	Guard   Guard
	Server  Server
	Site    Site // nil: there is no other site

	// Recorder is for metrics; nil: nothing is recorded.
	Recorder Recorder
	// Now is CLOCK_BOOTTIME.
	Now    func() ha.Instant
	Logger hclog.Logger
	// Ready is called once, when the member first has a role.
	Ready func()
	// Describe adds to a report what no decision depends on. It must not block. Nil:
	// nothing is added.
	Describe func(r *ha.Report)
	// OnIdle is called after each decision; idle: nothing has happened for a while.
	// It must not block. Nil: nobody wants to know.
	OnIdle func(idle bool)
}

// unrecorded records nothing.
type unrecorded struct{}

func (unrecorded) Action(string, time.Duration, error) {}
func (unrecorded) Rule(string)                         {}
func (unrecorded) Check(string, error)                 {}
func (unrecorded) LeaderChange(string)                 {}
func (unrecorded) FailoverPhase(string, time.Duration) {}

// noSite is where there is no other site.
type noSite struct{}

func (noSite) Run(context.Context, func()) error { return nil }
func (noSite) Source() ha.Source                 { return ha.Source{} }

// ErrOptions is returned by New for options that cannot work.
var ErrOptions = errors.New("wrong options")

func (o *Options) validate() error {
	switch {
	case o.Member == "":
		return fmt.Errorf("%w: no member name", ErrOptions)
	case o.Cluster == nil || o.Peers == nil || o.Guard == nil || o.Server == nil || o.Now == nil:
		return fmt.Errorf("%w: a part is missing", ErrOptions)
	case o.Policy.Lease < 2*o.Policy.FailureTimeout:
		return fmt.Errorf("%w: the lease (%s) must be at least twice the failure time-out (%s)", ErrOptions, o.Policy.Lease, o.Policy.FailureTimeout)
	}
	if o.Recorder == nil {
		o.Recorder = unrecorded{}
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.Describe == nil {
		o.Describe = func(*ha.Report) {}
	}
	if o.Site == nil {
		o.Site = noSite{}
	}
	if o.OnIdle == nil {
		o.OnIdle = func(bool) {}
	}
	return nil
}
