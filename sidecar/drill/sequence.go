package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// mendTimeout is how long a lab may take to be mended after a drill that was
// given up.
const mendTimeout = 2 * time.Minute

// Sequence does scenarios one after the other in one lab, each as often as asked,
// and tells each of every report as soon as it is there. A drill that could not be
// done to its end has failed: its report says why, the lab is mended, and the
// sequence goes on.
//
// It returns the reports of all drills that were begun, with an error if not all
// could be: ErrNotPossible, and nothing was changed, if the lab cannot play one
// of them or is not whole at the beginning; the context's; or that the lab could
// not be mended.
func Sequence(ctx context.Context, scenarios []Scenario, times int, o Options, each func(*Report) error) ([]*Report, error) {
	for _, s := range scenarios {
		if err := s.Possible(o.Lab.Plan()); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrNotPossible, s.Name, err)
		}
	}
	var all []*Report
	say := o.Progress
	for i, s := range scenarios {
		if say != nil {
			o.Progress = func(what string) { say(s.Name + ": " + what) }
		}
		for range times {
			began := time.Now()
			report, failed := Run(ctx, s, o)
			if failed != nil && (ctx.Err() != nil || len(all) == 0 && errors.Is(failed, ErrNotPossible)) {
				return all, failed
			}
			if failed != nil {
				if report == nil {
					report = &Report{Scenario: s.Name, Why: s.Why, Expect: s.Expect, Objective: o.Objective.demand(), Started: began}
				}
				report.abandon(failed)
			}
			report.Seconds = time.Since(began).Seconds()
			all = append(all, report)
			if err := each(report); err != nil {
				return all, err
			}
			if failed == nil {
				continue
			}
			if err := mend(ctx, o); err != nil {
				return all, fmt.Errorf("the lab could not be mended after %s: %w%s", s.Name, err, notPlayed(scenarios[i+1:]))
			}
		}
	}
	return all, nil
}

// abandon makes a whole report of a drill that was given up; what it had measured
// stays in it.
func (r *Report) abandon(why error) {
	// A time that did not come is the one before it.
	last := r.Started
	for _, at := range []*time.Time{&r.Fault, &r.Stopped, &r.Recovered, &r.Undone} {
		if at.IsZero() {
			*at = last
		}
		last = *at
	}
	if r.Routes == nil {
		r.Routes = []RouteReport{} // arrays in JSON, not null
	}
	if r.Reigns == nil {
		r.Reigns = []Reign{}
	}
	if r.Initial.Replicas == nil {
		r.Initial.Replicas = []string{}
	}
	r.Primary = cmp.Or(r.Primary, r.Initial.Primary)
	r.Failures = append(r.Failures, fmt.Sprintf("not done to its end: %v", why))
	r.Good = false
}

// mend makes the lab whole for the next drill.
func mend(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, mendTimeout)
	defer cancel()
	if o.Progress != nil {
		o.Progress("mending the lab")
	}
	return errors.Join(o.Lab.Mend(ctx), o.Lab.Mended(), o.Lab.WaitReady(ctx))
}

func notPlayed(scenarios []Scenario) string {
	if len(scenarios) == 0 {
		return ""
	}
	var names []string
	for _, s := range scenarios {
		names = append(names, s.Name)
	}
	return "; not played: " + strings.Join(names, ", ")
}

// WriteTable writes one line for each drill, and one for all of them.
func (r *Results) WriteTable(w io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\ndrill\tresult\tpause\tlost\tstale\tprimary\twhole after\ttook\tload")
	var passed int
	var acked, lost int64
	var took float64
	for _, d := range r.Drills {
		if d.Passed() {
			passed++
		}
		acked, lost, took = acked+d.Rows.Acked, lost+d.Rows.Lost, took+d.Seconds
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%.0f s\t%s\n", d.Scenario, d.verdict(), msWords(d.RTOMs), d.Rows.Lost, d.StaleReads(), d.roleWords(),
			d.wholeWords(), d.Seconds, d.Machine.words())
	}
	_ = t.Flush() // a strings.Builder takes everything
	fmt.Fprintf(&b, "\n%d drills in %s: %d passed, %d failed; %d of %d acknowledged rows lost\n", len(r.Drills),
		(time.Duration(took) * time.Second).Round(time.Second), passed, len(r.Drills)-passed, lost, acked)
	for _, d := range r.Drills {
		for _, f := range d.Failures {
			fmt.Fprintf(&b, "%s FAILED: %s\n", d.Scenario, f)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Passed reports whether all drills have passed.
func (r *Results) Passed() bool {
	return !slices.ContainsFunc(r.Drills, func(d *Report) bool { return !d.Passed() })
}

func (r *Report) verdict() string {
	if r.Passed() {
		return "passed"
	}
	return "FAILED"
}

// roleWords says where the role of primary went.
func (r *Report) roleWords() string {
	if !r.Moved {
		return r.Primary
	}
	return r.Initial.Primary + " → " + r.Primary
}

// wholeWords says how long it took until all members were back.
func (r *Report) wholeWords() string {
	if r.Whole.IsZero() {
		return "never"
	}
	return msWords(ms(r.Whole.Sub(r.Undone)))
}
