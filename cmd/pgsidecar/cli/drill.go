package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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
	dnsEvery  time.Duration
	repeat    int
	hold      time.Duration
	objective drill.Objective
	files     drillFiles
	all       bool
	list      bool
	format    output // of the list
	schema    bool
}

// drillFiles are where the results go, and after a drill that failed the logs of
// the lab's programs; empty: nowhere.
type drillFiles struct{ json, junit, html, logs string }

// newDrillCommand returns `drill`.
func newDrillCommand(a *Process) *cobra.Command {
	var o drillOptions
	cmd := &cobra.Command{
		Use:   "drill [SCENARIO...]",
		Short: "Inject a fault, measure what an application sees of it, and report",
		Long: `Inject a fault into a lab, measure what an application sees of it, and report.
The lab that runs in --dir is used; if none does, one is made and removed again.
Without a scenario all that the lab can play are done; with --all the lab is made so
that it can play every one of one site (as root; 20 minutes); those of two need
--sites 2. A table at the end has one line for each. The exit status is 1 if a drill failed or an objective was missed.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.list:
				return listScenarios(a, o.format)
			case o.schema:
				_, err := io.WriteString(a.Stdout, drill.Schema)
				return err
			}
			return drillAll(cmd.Context(), a, o, args)
		},
	}
	cmd.AddCommand(newLiveDrillCommand(a), newRestoreDrillCommand(a))
	dirFlag(a, cmd, &o.dir)
	labFlags(cmd, &o.lab)
	f := cmd.Flags()
	f.StringSliceVar(&o.routes, "route", nil, "measure this `way` to the primary: haproxy, dns, multi-host, pgbouncer, and with two sites clients-dc1, clients-dc2, clients-dc3 (who know the members of both), haproxy-dc1, haproxy-dc2 (default all that the lab has)")
	f.BoolVar(&o.pauseOnly, "pause-only", false, "measure the pause alone: ask DNS rarely, and write to no member directly; on two cores the full measuring takes one")
	f.DurationVar(&o.dnsEvery, "dns-every", 0, "ask DNS for the primary at this `interval` (default 2ms, with --pause-only 100ms)")
	f.IntVar(&o.workers, "workers", 4, "`number` of connections that write through each route")
	f.IntVar(&o.repeat, "repeat", 1, "how `often` each scenario is done")
	f.DurationVar(&o.hold, "hold", 0, "how `long` a fault lasts that is undone after a time (default as the scenario says; site-cut-off: 45s)")
	f.DurationVar(&o.objective.RTO, "rto", 0, "longest pause in acknowledged writes that is allowed (default any)")
	f.Int64Var(&o.objective.RPO, "rpo", 0, "acknowledged `rows` that may be lost")
	f.StringVar(&o.files.json, "json", "", "write the results to this `file`, as JSON")
	f.StringVar(&o.files.junit, "junit", "", "write the results to this `file`, as JUnit's XML, for CI")
	f.StringVar(&o.files.html, "html", "", "write the results to this `file`, as one page with pictures")
	f.StringVar(&o.files.logs, "logs", "", "after a drill that failed, copy the logs of all programs to this `folder`")
	f.BoolVar(&o.all, "all", false, "do every scenario of one site, in a lab with --isolated --breakable --pgbouncer --consul-servers 3 (needs root)")
	f.BoolVar(&o.list, "list", false, "list the scenarios")
	o.format.only(cmd)
	f.Lookup("output").Usage = "`format` of the list: table, json or yaml"
	f.BoolVar(&o.schema, "schema", false, "print the schema of the JSON")
	return cmd
}

// listed is a scenario as --list shows it.
type listed struct {
	Name  string `json:"name"`
	Why   string `json:"why"`
	Needs string `json:"needs,omitempty"` // what the lab must be made with
}

func listScenarios(a *Process, format output) error {
	var all []listed
	for _, s := range drill.Scenarios() {
		l := listed{Name: s.Name, Why: s.Why}
		switch {
		case s.Split:
			l.Needs = "--sites 2 --no-witness"
		case s.Sites:
			l.Needs = "--sites 2"
		case s.Isolated:
			l.Needs = "--isolated"
		case s.Hangs:
			l.Needs = "--breakable, with loop devices"
		case s.Breakable:
			l.Needs = "--breakable"
		case s.Servers > 1:
			l.Needs = fmt.Sprintf("--consul-servers %d", s.Servers)
		}
		all = append(all, l)
	}
	if !format.forPeople() {
		return format.write(a.Stdout, all)
	}
	t := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	for _, l := range all {
		note := ""
		if l.Needs != "" {
			note = " (" + l.Needs + ")"
		}
		fmt.Fprintf(t, "%s\t%s%s\n", l.Name, l.Why, note)
	}
	return t.Flush()
}

// scenarios returns those that the command line names: without a name all, and
// then with all false those of them that the lab can play.
func (o drillOptions) scenarios(names []string) ([]drill.Scenario, error) {
	if o.all && len(names) > 0 {
		return nil, usage("--all is every scenario; name none")
	}
	if len(names) == 0 {
		return drill.Scenarios(), nil
	}
	var found []drill.Scenario
	for _, name := range names {
		s, err := drill.Find(name)
		if err != nil {
			return nil, usage("%w; see pgsidecar drill --list", err)
		}
		found = append(found, s)
	}
	return found, nil
}

// drillAll does the scenarios one after the other.
func drillAll(ctx context.Context, a *Process, o drillOptions, names []string) (err error) {
	scenarios, err := o.scenarios(names)
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	if o.all {
		o.lab.Isolated, o.lab.Breakable, o.lab.PgBouncer, o.lab.ConsulServers = true, true, true, 3
	}
	ctx, stop := untilHangup(ctx)
	defer stop()
	var must []drill.Scenario
	if len(names) > 0 {
		must = scenarios
	}
	l, done, err := drillLab(ctx, a, o, must)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if len(names) == 0 {
		scenarios = slices.DeleteFunc(scenarios, func(s drill.Scenario) bool {
			why := s.Possible(l.Plan())
			// With --all only what this machine lacks is left out, and what is of two sites.
			if why == nil || o.all && !errors.Is(why, lab.ErrNotHangable) && !errors.Is(why, lab.ErrOneSite) {
				return false
			}
			fmt.Fprintf(a.Stderr, "left out: %s: %v\n", s.Name, why)
			return true
		})
	}
	reports, err := drill.Sequence(ctx, scenarios, o.repeat, drill.Options{Lab: l, Routes: o.routes, Workers: o.workers, PauseOnly: o.pauseOnly, DNSEvery: o.dnsEvery, Hold: o.hold,
		Objective: o.objective, Progress: func(what string) { fmt.Fprintln(a.Stderr, what) }}, func(r *drill.Report) error {
		if !r.Passed() && o.files.logs != "" {
			into := filepath.Join(o.files.logs, r.Fault.UTC().Format("20060102T150405Z")+"-"+r.Scenario)
			if err := l.CopyLogs(into); err != nil {
				return err
			}
			fmt.Fprintf(a.Stderr, "%s: the logs are in %s\n", r.Scenario, into)
		}
		return r.WriteText(a.Stdout)
	})
	if errors.Is(err, drill.ErrNotPossible) {
		return usage("%w", err)
	}
	return errors.Join(err, o.conclude(a, reports))
}

// conclude shows and writes what all drills have shown.
func (o drillOptions) conclude(a *Process, reports []*drill.Report) error {
	results := drill.NewResults(a.Version, reports)
	if len(reports) > 1 {
		if err := results.WriteTable(a.Stdout); err != nil {
			return err
		}
	}
	for i := 0; o.repeat > 1 && i < len(reports); i += o.repeat {
		fmt.Fprintln(a.Stdout, drill.Summarize(reports[i:min(i+o.repeat, len(reports))]))
	}
	if err := o.files.write(a, results); err != nil {
		return err
	}
	if !results.Passed() {
		return exitStatus(ExitFailed)
	}
	return nil
}

// drillLab returns the lab that runs, or a new one; done removes what was made. One
// that could not play all that it must is not made.
func drillLab(ctx context.Context, a *Process, o drillOptions, must []drill.Scenario) (l *lab.Lab, done func() error, err error) {
	l, err = lab.Open(o.dir, nil)
	if err == nil {
		orphan, err := l.Orphan()
		if err != nil || !orphan {
			return l, func() error { return nil }, err
		}
		// The process that was to remove it was killed: it is replaced.
	} else if !errors.Is(err, lab.ErrNoLab) {
		return nil, nil, labFault(err)
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find this program: %w", err)
	}
	made := o.lab
	made.Dir, made.Binary = o.dir, exe
	if l, err = newLab(made); err != nil {
		return nil, nil, labFault(err)
	}
	for _, s := range must {
		if err := s.Possible(l.Plan()); err != nil {
			return nil, nil, usage("%w: %s: %w", drill.ErrNotPossible, s.Name, err)
		}
	}
	start := time.Now()
	if err := raise(ctx, a, l); err != nil {
		if errors.Is(err, lab.ErrInUse) {
			return nil, nil, labFault(err)
		}
		return nil, nil, errors.Join(err, takeDown(ctx, l))
	}
	fmt.Fprintf(a.Stderr, "the lab is up after %.1f s\n", time.Since(start).Seconds())
	return l, func() error { return takeDown(ctx, l) }, nil
}

// write writes the results into the files that were named.
func (f drillFiles) write(a *Process, results *drill.Results) error {
	var errs []error
	for _, out := range []struct {
		path  string
		write func(io.Writer) error
	}{{f.json, results.WriteJSON}, {f.junit, results.WriteJUnit}, {f.html, results.WriteHTML}} {
		if out.path == "" {
			continue
		}
		var b bytes.Buffer
		err := out.write(&b)
		if err == nil {
			err = os.WriteFile(out.path, b.Bytes(), 0o644)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("write the results: %w", err))
			continue
		}
		fmt.Fprintf(a.Stderr, "wrote %s\n", out.path)
	}
	return errors.Join(errs...)
}

// check refuses what cannot be, before anything is started: a drill of minutes
// whose results could not be written is of no use.
func (o drillOptions) check() error {
	switch {
	case o.repeat < 1:
		return usage("--repeat %d: at least 1", o.repeat)
	case o.workers < 1 || o.workers > 50:
		return usage("--workers %d: 1 to 50", o.workers)
	case o.hold < 0:
		return usage("--hold is not negative")
	case o.dnsEvery < 0:
		return usage("--dns-every is not negative")
	case o.objective.RTO < 0 || o.objective.RPO < 0:
		return usage("--rto and --rpo are not negative")
	}
	if o.files.logs != "" {
		if info, err := os.Stat(o.files.logs); err == nil && !info.IsDir() {
			return usage("--logs %s: not a folder", o.files.logs)
		}
	}
	for _, path := range []string{o.files.json, o.files.junit, o.files.html} {
		if path == "" {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return usage("%s is a folder; name a file", path)
		}
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			return usage("the results cannot be written to %s: %w", path, err)
		}
	}
	return nil
}
