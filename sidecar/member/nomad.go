package member

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/nomad"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
)

// task is the Nomad task that a running member is; nil outside of Nomad.
type task struct {
	allocation nomad.Allocation
	stateDir   string
	log        hclog.Logger
}

// newTask refuses a task in which the member's data, or a handover, would be
// cut off. It returns nil outside of Nomad.
func newTask(cfg *config.Config, log hclog.Logger) (*task, error) {
	a, in, err := nomad.FromEnvironment(os.Getenv)
	if err != nil {
		return nil, config.Fault("%w", err)
	}
	if !in {
		return nil, nil
	}
	if err := a.CheckVolume(cfg.Postgres.DataDir); err != nil {
		return nil, config.Fault("%w", err)
	}
	switch err := a.CheckKillTimeout(cfg.Postgres.StopTimeout); {
	case errors.Is(err, nomad.ErrKillTimeout) && a.KillTimeout < nomad.MinKillTimeout:
		return nil, config.Fault("%w", err)
	case err != nil:
		log.Warn("a busy server's stop may be cut short", "error", err)
	}
	return &task{allocation: a, stateDir: cfg.Postgres.StateDir, log: log}, nil
}

// begin is called when the state directory is there: it keeps the member's
// name, and says if the last stop was cut short.
func (t *task) begin(member string) error {
	if t == nil {
		return nil
	}
	if err := nomad.Keep(t.stateDir, member); err != nil {
		return err
	}
	after, was, err := nomad.CutShort(t.stateDir)
	if err != nil {
		return err
	}
	if was {
		t.log.Error("the last stop of this member was cut short: raise the task's kill_timeout, and max_kill_timeout of Nomad's clients (30s unless it is set)",
			"killed_after", after.Round(100*time.Millisecond).String(), "kill_timeout", t.allocation.KillTimeout.String())
	}
	t.log.Info("task of Nomad", "job", t.allocation.Job, "group", t.allocation.Group, "index", t.allocation.Index,
		"allocation", t.allocation.ID, "kill_timeout", t.allocation.KillTimeout.String())
	return nil
}

// watchStop notes the stop that the end of asked begins. The returned function
// says that the member has ended by itself.
func (t *task) watchStop(asked context.Context) func() {
	if t == nil {
		return func() {}
	}
	var ended func() error
	begun := make(chan struct{})
	unhook := context.AfterFunc(asked, func() {
		defer close(begun)
		var err error
		if ended, err = nomad.Watch(t.stateDir); err != nil {
			t.log.Warn("the stop is not noted", "error", err)
		}
	})
	return func() {
		if unhook() {
			return // nobody has asked
		}
		<-begun
		if ended == nil {
			return
		}
		if err := ended(); err != nil {
			t.log.Warn("the end of the stop is not noted", "error", err)
		}
	}
}

// priority makes the allocation's rank the choice among equal successors of the
// same configured priority: a rolling update then moves the primary once, unless
// it is the first to be updated.
func (t *task) priority(configured int) int {
	if t == nil {
		return configured
	}
	return min(configured, maxPriority)<<rankBits + t.allocation.Rank()
}

// rankBits is what a rank has; maxPriority is what an int has left.
const (
	rankBits    = 42
	maxPriority = 1<<20 - 1
)
