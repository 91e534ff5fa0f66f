package drill_test

import (
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// goals are what a failover may take at the median, on a machine that does
// nothing else.
var goals = []struct {
	scenario string
	median   time.Duration
}{
	{"postgres-killed", 150 * time.Millisecond},
	{"member-killed", 600 * time.Millisecond},
	{"host-lost", 3 * time.Second},
	{"cut-off", 3 * time.Second},
}

// beside are the faults that are played with Patroni too, in the order of the
// table.
var beside = []string{"switchover", "postgres-killed", "member-killed", "host-lost", "cut-off", "agent-lost", "consul-away"}

// alone are the other faults in which the role of primary moves; some are of
// what Patroni does not have.
var alone = []string{"terminated", "sidecar-killed", "sidecar-stopped", "postgres-stopped", "guard-killed", "host-paused",
	"failover-disturbed", "cut-off-outward", "cut-off-inward"}

// system is one program in one way in which it is measured.
type system struct {
	name    string   // in the benchmark's name and in bench.json
	patroni *patroni // nil: pgsidecar
	// heals are the faults after which it is not to be waited for another primary.
	heals []string
}

func systems() []system {
	fastest, defaults := patroniFastest(), patroniDefaults()
	return []system{
		{name: ownSystem},
		{name: "patroni-fastest", patroni: &fastest},
		// Within primary_start_timeout the crashed server is started again.
		{name: "patroni-defaults", patroni: &defaults, heals: []string{"postgres-killed"}},
	}
}

const ownSystem = "pgsidecar"

// options are the lab's, or the benchmark is skipped.
func (s system) options(b *testing.B, o lab.Options) lab.Options {
	if s.patroni == nil {
		return o
	}
	if _, missing := patroniVersion(); missing != "" {
		b.Skip(missing)
	}
	p := *s.patroni
	p.Sync = o.Mode != "async"
	o.Agent = p
	return o
}

// scenario is a drill's, as the system can play it.
func (s system) scenario(name string) (drill.Scenario, error) {
	found, err := drill.Find(name)
	if err != nil || s.patroni == nil {
		return found, err
	}
	switch name {
	case "member-killed": // there is no guard
		found.Fault = func(_ context.Context, c drill.Cast) error {
			return c.Lab.Kill(c.Primary, lab.Sidecar, lab.Postgres)
		}
	case "consul-away":
		// A drill ends the fault when writes go on, but they may wait for its end.
		fault, hold := found.Fault, found.Hold
		found.Expect, found.Hold = drill.Either, 0
		found.Fault = func(ctx context.Context, c drill.Cast) error {
			if err := fault(ctx, c); err != nil {
				return err
			}
			timer := time.NewTimer(hold)
			defer timer.Stop()
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-timer.C:
			}
			return found.Undo(ctx, c)
		}
	}
	if slices.Contains(s.heals, name) {
		found.Expect = drill.Either
	}
	return found, nil
}

// runs is how often a fault is played: BENCHRUNS times (10), but a few (FEWRUNS,
// 2) if it lasts long by itself, if it is not compared, or with Patroni, whose
// timers hardly vary and take up to a minute.
func (s system) runs(b *testing.B, name string) int {
	if s.patroni != nil || name == "agent-lost" || name == "consul-away" || slices.Contains(alone, name) {
		return number(b, "FEWRUNS", 2)
	}
	return number(b, "BENCHRUNS", 10)
}

// number reads a number from the environment.
func number(b *testing.B, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		b.Fatalf("%s=%s is no number of runs", name, text)
	}
	return n
}

// BenchmarkFailovers plays each failover several times and reports the pause that
// writers through HAProxy see: of pgsidecar, beside the goal, and of Patroni where
// it is installed, in the same lab and load. With BENCHREPORT the figures go into
// the table (see benchReport). Each slice can be run alone:
//
//	go test -run '^$' -bench 'Failovers$/pgsidecar/host-lost' -benchtime 1x ./sidecar/drill
func BenchmarkFailovers(b *testing.B) {
	for _, s := range systems() {
		b.Run(s.name, func(b *testing.B) {
			names := beside
			if s.patroni == nil {
				names = slices.Concat(beside, alone)
			}
			l := cluster(b, s.options(b, lab.Options{Isolated: true}))
			s.benchmark(b, l, names...)
		})
	}
}

// BenchmarkFailoversAsync plays, in async mode, the fault in which the old primary
// does not know that it is deposed, with a client beside each server that goes on
// writing to it: how many rows are lost that somebody was told are safe.
func BenchmarkFailoversAsync(b *testing.B) {
	for _, s := range systems() {
		b.Run(s.name, func(b *testing.B) {
			l := cluster(b, s.options(b, lab.Options{Isolated: true, Mode: "async"}))
			s.benchmark(b, l, "sidecar-stopped")
		})
	}
}

// benchmark plays the faults in a lab. A lab that does not become whole again is
// not used on.
func (s system) benchmark(b *testing.B, l *lab.Lab, names ...string) {
	broken := false
	for _, name := range names {
		b.Run(name, func(b *testing.B) {
			if broken {
				b.Skip("the cluster did not become whole after the fault before")
			}
			f, summary, err := s.measure(b, l, name)
			broken = errors.Is(err, drill.ErrNotPossible)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(f.median(), "ms-median")
			b.ReportMetric(f.worst(), "ms-worst")
			b.ReportMetric(float64(f.Lost), "rows-lost")
			if summary.DNSNever == 0 && s.patroni == nil {
				b.ReportMetric(milliseconds(summary.DNSMedian), "dns-ms-late-median")
				b.ReportMetric(milliseconds(summary.DNSWorst), "dns-ms-late-worst")
			}
			b.ReportMetric(float64(summary.Doubles), "dns-doubles")
			b.ReportMetric(summary.ReturnedMedian.Seconds(), "s-return-median")
			b.ReportMetric(summary.ReturnedWorst.Seconds(), "s-return-worst")
			b.Log(summary)
			b.ReportMetric(0, "ns/op") // says nothing: most of it is waiting for the cluster to be whole
			for _, g := range goals {
				if g.scenario == name && s.patroni == nil {
					b.ReportMetric(float64(g.median.Milliseconds()), "ms-goal")
				}
			}
			record(b, func(r *benchReport) { r.setFailover(f) })
		})
	}
}

// dnsEvery is how often DNS is asked for the primary, through all of a fault.
const dnsEvery = 2 * time.Millisecond

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// measure plays one fault. What a report calls a failure is one of the benchmark
// with pgsidecar; with Patroni it is part of the figures.
func (s system) measure(b *testing.B, l *lab.Lab, name string) (measuredFailover, drill.Summary, error) {
	scenario, err := s.scenario(name)
	if err != nil {
		return measuredFailover{}, drill.Summary{}, err
	}
	if err := scenario.Possible(l.Plan()); err != nil {
		b.Skip(err)
	}
	async := l.Plan().Mode == "async"
	o := drill.Options{Lab: l, Routes: []string{"haproxy"}, PauseOnly: !async, DNSEvery: dnsEvery, Deadline: 3 * time.Minute}
	if async {
		o.Objective.RPO = math.MaxInt64
	}
	benchmark := "Failovers"
	if async {
		benchmark = "FailoversAsync"
	}
	f := measuredFailover{Origin: s.origin(b, benchmark), Fault: name, Mode: l.Plan().Mode}
	var reports []*drill.Report
	for range s.runs(b, name) {
		r, err := drill.Run(b.Context(), scenario, o)
		if err != nil {
			return measuredFailover{}, drill.Summary{}, err
		}
		show(b, r)
		f.add(r)
		reports = append(reports, r)
		for _, failure := range r.Failures {
			if s.patroni == nil {
				b.Error(failure)
			}
		}
	}
	return f, drill.Summarize(reports), nil
}
