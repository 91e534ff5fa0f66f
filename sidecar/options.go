package sidecar

import (
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
	Policy   ha.Policy

	Cluster Cluster
	Peers   Peers
	Guard   Guard
	Server  Server

	// Recorder is for metrics; nil: nothing is recorded.
	Recorder Recorder
	// Now is CLOCK_BOOTTIME.
	Now    func() ha.Instant
	Logger hclog.Logger
	// Ready is called once, when the member first has a role.
	Ready func()
	// Calm is called after each decision; calm: nothing has happened for a while.
	// It must not block. Nil: nobody wants to know.
	Calm func(calm bool)
}

// DefaultPolicy is the policy of a cluster whose configuration says nothing.
func DefaultPolicy() ha.Policy {
	return ha.Policy{
		Mode:      ha.ModeQuorum, // no acknowledged commit is lost
		Standbys:  1,             // one more copy survives the loss of any one host
		Strict:    true,          // and is never silently given up
		Automatic: true,
		// Long beside a scheduling hiccup or a lost packet's retransmission,
		// short beside what a person notices.
		FailureTimeout: 2 * time.Second,
		// More than twice the failure time-out, so that one missed confirmation
		// costs nothing.
		Lease: 5 * time.Second,
		// A shutdown checkpoint follows one just made; more means a hung disk.
		StopTimeout: 10 * time.Second,
		// A candidate that gets the lock promotes within a tenth of a second;
		// this is for the one that died with it.
		HandoverTimeout: 5 * time.Second,
	}
}

// unrecorded records nothing.
type unrecorded struct{}

func (unrecorded) Action(string, time.Duration, error) {}
func (unrecorded) Check(string, error)                 {}
func (unrecorded) LeaderChange(string)                 {}
func (unrecorded) FailoverPhase(string, time.Duration) {}

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
	if o.Calm == nil {
		o.Calm = func(bool) {}
	}
	return nil
}
