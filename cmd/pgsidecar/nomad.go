package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/nomad"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
)

// newNomadCommand returns `nomad` and the commands under it.
func newNomadCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nomad",
		Short: "Print a job file for Nomad",
		Args:  needCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newNomadJobCommand(a))
	return cmd
}

// newNomadJobCommand returns `nomad job`.
func newNomadJobCommand(a *app) *cobra.Command {
	var vars []string
	cmd := &cobra.Command{
		Use:   "job [NAME]",
		Short: "Print a job file with your settings; without a name, list the jobs",
		Long: `Print a job file for Nomad, with the reason for each setting in it. Each --var
changes the default of one of the file's variables; the file keeps them, so that
nomad job run -var still works:

  pgsidecar nomad job exec --var job=orders --var count=5 > orders.nomad.hcl
  nomad job plan orders.nomad.hcl`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("%s takes the name of one job, and got %q", cmd.CommandPath(), args)
			}
			if len(args) == 0 {
				return listJobs(a.stdout)
			}
			text, err := nomad.Job(args[0], vars)
			if err != nil {
				return usageError{err}
			}
			_, err = io.WriteString(a.stdout, text)
			return err
		},
	}
	cmd.Flags().StringArrayVar(&vars, "var", nil, "set a variable's default: `name=value`; may be repeated")
	return cmd
}

func listJobs(w io.Writer) error {
	var b strings.Builder
	for _, j := range nomad.Jobs() {
		fmt.Fprintf(&b, "%-16s %s\n", j.Name, j.About)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// environment is this process's environment, and what its Nomad allocation says
// if it is in one.
func environment() config.Environment {
	env := config.OSEnvironment()
	env.BinDir = postgres.BinDir
	// A wrong value is said by run (newTask); all others need none of those.
	a, in, _ := nomad.FromEnvironment(env.Getenv)
	if !in {
		return env
	}
	env.Task = &config.Task{
		Cluster: a.Cluster(), DataDir: a.DataDir(), Member: a.Member, Port: a.Port, Secret: a.Secret, StopTimeout: a.StopTimeout(),
	}
	return env
}

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
		return nil, usageError{err}
	}
	if !in {
		return nil, nil
	}
	if err := a.CheckVolume(cfg.Postgres.DataDir); err != nil {
		return nil, usageError{err}
	}
	switch err := a.CheckKillTimeout(cfg.Postgres.StopTimeout); {
	case errors.Is(err, nomad.ErrKillTimeout) && a.KillTimeout < nomad.MinKillTimeout:
		return nil, usageError{err}
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
