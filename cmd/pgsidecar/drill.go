package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// drillOptions is the command line of `drill`.
type drillOptions struct {
	dir       string
	lab       lab.Options // of the lab that is made if none runs
	routes    []string
	workers   int
	pauseOnly bool
	repeat    int
	objective drill.Objective
	json      string
	list      bool
}

// newDrillCommand returns `drill`.
func newDrillCommand(a *app) *cobra.Command {
	var o drillOptions
	cmd := &cobra.Command{
		Use:   "drill [SCENARIO...]",
		Short: "Inject a fault, measure what an application sees of it, and report",
		Long: `Inject a fault into a lab, measure what an application sees of it, and report.
The lab that runs in --dir is used; if none does, one is made and removed again.
Without a scenario all that the lab can play are done. The exit status is 1 if an
objective was missed.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.list {
				return listScenarios(a)
			}
			return drillAll(cmd.Context(), a, o, args)
		},
	}
	dirFlag(a, cmd, &o.dir)
	labFlags(cmd, &o.lab)
	f := cmd.Flags()
	f.StringSliceVar(&o.routes, "route", nil, "measure this `way` to the primary: haproxy, dns, multi-host, pgbouncer (default all that the lab has)")
	f.BoolVar(&o.pauseOnly, "pause-only", false, "measure the pause alone: ask DNS rarely, and write to no member directly; on two cores the full measuring takes one")
	f.IntVar(&o.workers, "workers", 4, "`number` of connections that write through each route")
	f.IntVar(&o.repeat, "repeat", 1, "how `often` each scenario is done")
	f.DurationVar(&o.objective.RTO, "rto", 0, "longest pause in acknowledged writes that is allowed (default any)")
	f.Int64Var(&o.objective.RPO, "rpo", 0, "acknowledged `rows` that may be lost")
	f.StringVar(&o.json, "json", "", "write the reports to this `file`, as JSON")
	f.BoolVar(&o.list, "list", false, "list the scenarios")
	return cmd
}

func listScenarios(a *app) error {
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, s := range drill.Scenarios() {
		note := ""
		if s.Isolated {
			note = " (isolated lab)"
		}
		fmt.Fprintf(t, "%s\t%s%s\n", s.Name, s.Why, note)
	}
	return t.Flush()
}

// drillAll does the scenarios one after the other.
func drillAll(ctx context.Context, a *app, o drillOptions, names []string) (err error) {
	var scenarios []drill.Scenario
	for _, name := range names {
		s, err := drill.Find(name)
		if err != nil {
			return usage("%w; see %s --list", err, "pgsidecar drill")
		}
		scenarios = append(scenarios, s)
	}
	l, done, err := drillLab(ctx, a, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if len(names) == 0 {
		for _, s := range drill.Scenarios() {
			if s.Possible(l.Plan()) == nil {
				scenarios = append(scenarios, s)
			}
		}
	}
	var all []*drill.Report
	passed := true
	for _, s := range scenarios {
		reports, err := drillOne(ctx, a, l, s, o)
		all = append(all, reports...)
		for _, r := range reports {
			passed = passed && r.Passed()
		}
		if err != nil {
			return errors.Join(err, writeReports(o.json, all))
		}
	}
	if err := writeReports(o.json, all); err != nil {
		return err
	}
	if !passed {
		return exitStatus(exitFailed)
	}
	return nil
}

// drillOne does one scenario as often as asked.
func drillOne(ctx context.Context, a *app, l *lab.Lab, s drill.Scenario, o drillOptions) ([]*drill.Report, error) {
	var reports []*drill.Report
	for range o.repeat {
		report, err := drill.Run(ctx, s, drill.Options{Lab: l, Routes: o.routes, Workers: o.workers, PauseOnly: o.pauseOnly, Objective: o.objective,
			Progress: func(what string) { fmt.Fprintf(a.stderr, "%s: %s\n", s.Name, what) }})
		if errors.Is(err, drill.ErrNotPossible) {
			return reports, usage("%w", err)
		}
		if err != nil {
			return reports, err
		}
		reports = append(reports, report)
		if err := report.WriteText(a.stdout); err != nil {
			return reports, err
		}
	}
	if o.repeat > 1 {
		fmt.Fprintln(a.stdout, drill.Summarize(reports))
	}
	return reports, nil
}

// drillLab returns the lab that runs, or a new one; done removes what was made.
func drillLab(ctx context.Context, a *app, o drillOptions) (l *lab.Lab, done func() error, err error) {
	l, err = lab.Open(o.dir, nil)
	if err == nil {
		return l, func() error { return nil }, nil
	}
	if !errors.Is(err, lab.ErrNoLab) {
		return nil, nil, labFault(err)
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find this program: %w", err)
	}
	made := o.lab
	made.Dir, made.Binary = o.dir, exe
	if l, err = lab.New(made); err != nil {
		return nil, nil, labFault(err)
	}
	start := time.Now()
	if err := raise(ctx, a, l); err != nil {
		if errors.Is(err, lab.ErrInUse) {
			return nil, nil, labFault(err)
		}
		return nil, nil, errors.Join(err, takeDown(ctx, l))
	}
	fmt.Fprintf(a.stderr, "the lab is up after %.1f s\n", time.Since(start).Seconds())
	return l, func() error { return takeDown(ctx, l) }, nil
}

// writeReports writes all reports into one JSON array; no path, no file.
func writeReports(path string, reports []*drill.Report) error {
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(reports, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the reports: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the reports: %w", err)
	}
	return nil
}
