package sim_test

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

var (
	runs   = flag.Int("sim.runs", 1000, "how many runs each test of the simulation makes")
	seed   = flag.Uint64("sim.seed", 0, "the only seed to run, with its story")
	shape  = flag.Int("sim.members", 3, "how many members -sim.seed has")
	first  = flag.Uint64("sim.from", 1, "the first seed of TestLong")
	shrink = flag.Bool("sim.shrink", false, "shrink the run of -sim.seed before its story is told")
	only   = flag.String("sim.mutation", "", "the only mutation to make")
	report = flag.String("sim.report", "", "where TestLong writes its report")
)

// sweep makes runs in parallel, and returns the sums and the failures.
func sweep(from uint64, n int, o sim.Options) (total sim.Result, failed []sim.Result) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // runs are short-lived garbage
	var next atomic.Uint64
	var lock sync.Mutex
	var wait sync.WaitGroup
	for range 2 {
		wait.Go(func() {
			w := sim.NewWorld()
			for {
				i := next.Add(1) - 1
				if i >= uint64(n) {
					return
				}
				mine := o
				mine.Seed = from + i
				r := w.Run(mine)
				lock.Lock()
				add(&total, &r)
				if r.Violation != "" {
					failed = append(failed, r)
				}
				lock.Unlock()
			}
		})
	}
	wait.Wait()
	return total, failed
}

func add(t, r *sim.Result) {
	t.Steps += r.Steps
	t.Decisions += r.Decisions
	t.Faults += r.Faults
	t.Commits += r.Commits
	t.Promotions += r.Promotions
	t.Ballots += r.Ballots
	t.At += r.At
	t.Recovered = max(t.Recovered, r.Recovered)
}

func line(r *sim.Result) string {
	return fmt.Sprintf("%d steps, %d decisions, %d faults, %d commits, %d terms, %d promotions, %.0f virtual hours, slowest recovery %.1f s",
		r.Steps, r.Decisions, r.Faults, r.Commits, r.Ballots, r.Promotions, float64(r.At)/3.6e12, float64(r.Recovered)/1e9)
}

func TestSimulation(t *testing.T) {
	if *seed != 0 {
		tell(t, sim.Options{Seed: *seed, Members: *shape, Story: true})
		return
	}
	fresh := uint64(time.Now().UnixNano())
	for _, members := range []int{3, 5} {
		t.Run(fmt.Sprintf("members=%d", members), func(t *testing.T) {
			judge(t, 1, *runs/2, members)
			judge(t, fresh, *runs-*runs/2, members)
		})
	}
}

// judge makes the runs of a range of seeds and reports the broken promises.
func judge(t *testing.T, from uint64, n, members int) {
	begun := time.Now()
	total, failed := sweep(from, n, sim.Options{Members: members})
	t.Logf("seeds %d to %d: %s; %.0f runs a second", from, from+uint64(n)-1, line(&total), float64(n)/time.Since(begun).Seconds())
	for i, r := range failed {
		if i == maxShown {
			break
		}
		t.Errorf("-sim.members %d -sim.seed %d (new cluster: %v): %s", members, r.Seed, r.Fresh, r.Violation)
	}
	if len(failed) > 0 {
		t.Errorf("%d of %d runs failed", len(failed), n)
	}
}

// maxShown is how many failed seeds a test prints.
const maxShown = 60

// TestLong makes -sim.runs runs and writes what came of them to -sim.report,
// while it goes on, so that a run that is cut short has its report as well:
//
//	go test -timeout 24h -run Long -sim.runs 1000000 -sim.report simulation.txt
func TestLong(t *testing.T) {
	if *report == "" {
		t.Skip("-sim.report names no file")
	}
	const slice = 20_000
	begun := time.Now()
	var sums [2]sim.Result
	var failed []sim.Result
	for done := 0; done < *runs; done += slice {
		n := min(slice, *runs-done)
		for i, members := range []int{3, 5} {
			total, bad := sweep(*first+uint64(done/2), n/2, sim.Options{Members: members})
			add(&sums[i], &total)
			failed = append(failed, bad...)
		}
		text := fmt.Sprintf("Simulation of sidecar/ha: the product's decisions in a world of faults.\n\nseeds %d to %d, of %d and of %d members each; %.0f minutes\n",
			*first, *first+uint64(done/2+n/2)-1, 3, 5, time.Since(begun).Minutes())
		for i, members := range []int{3, 5} {
			text += fmt.Sprintf("%d members: %s\n", members, line(&sums[i]))
		}
		text += fmt.Sprintf("broken promises: %d\n", len(failed))
		for _, r := range failed[:min(len(failed), maxShown)] {
			text += fmt.Sprintf("  -sim.members %d -sim.seed %d: %s\n", r.Members, r.Seed, r.Violation)
		}
		if err := os.WriteFile(*report, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if len(failed) > 0 {
		t.Errorf("%d broken promises, see %s", len(failed), *report)
	}
}

// tell prints the story of a run; with -sim.shrink that of the shortest that
// breaks the same promise.
func tell(t *testing.T, o sim.Options) {
	if *shrink {
		o = sim.Shrink(o)
	}
	r := sim.Run(o)
	t.Logf("%s\nfaults:\n  %s\n%s\n%s", strings.Join(r.Story, "\n"), strings.Join(r.FaultNames, "\n  "), line(&r), r.Violation)
	if r.Violation != "" {
		t.Fail()
	}
}

// TestRepeatable: one seed is one run, byte for byte.
func TestRepeatable(t *testing.T) {
	w := sim.NewWorld()
	for seed := uint64(1); seed < 30; seed++ {
		a := w.Run(sim.Options{Seed: seed, Members: 5})
		b := sim.Run(sim.Options{Seed: seed, Members: 5, Story: true})
		if a.Digest != b.Digest || a.Steps != b.Steps {
			t.Fatalf("seed %d: %d steps with digest %x, then %d with %x", seed, a.Steps, a.Digest, b.Steps, b.Digest)
		}
	}
}

// TestIdleCore: a core that does nothing leaves a cluster that runs alone until
// its lease ends, and then the guard stops it: the world itself works.
func TestIdleCore(t *testing.T) {
	idle := sim.Core{
		Decide: func(s ha.State, _ ha.Observation) (ha.State, []ha.Action) { return s, nil },
		Report: func(_ ha.State, o ha.Observation) ha.Report { return ha.Report{Member: o.Self} },
	}
	r := sim.Run(sim.Options{Seed: 8, Members: 3, Calm: true, Core: idle, Story: true})
	if r.Rule != "recovery" || r.Commits == 0 || r.Promotions != 0 {
		t.Errorf("violation %q after %d commits\n%s", r.Violation, r.Commits, strings.Join(r.Story, "\n"))
	}
}

func BenchmarkRun(b *testing.B) {
	for _, members := range []int{3, 5} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			w := sim.NewWorld()
			for i := range b.N {
				w.Run(sim.Options{Seed: uint64(i), Members: members})
			}
		})
	}
}

// caughtBy says which promise must be seen broken when a rule is.
var caughtBy = [...]string{
	sim.MutateS1: "S1", sim.MutateS2: "lost", sim.MutateS2Disk: "lost", sim.MutateS3: "lost", sim.MutateS3Ahead: "lost",
	sim.MutateS4: "S4", sim.MutateS4Order: "S4", sim.MutateS5: "two writers", sim.MutateS6: "two writers", sim.MutateS7: "recovery",
	sim.MutateS8: "S8", sim.MutateS9: "S9", sim.MutateS10: "S10",
}

// mutationBudget is within how many runs a mutation must be noticed.
const mutationBudget = 20_000

// TestMutations: a simulation that does not notice a broken rule proves nothing
// about it. Each mutation must break the promise that its rule makes, in a run
// that keeps all promises without it.
func TestMutations(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	for _, m := range sim.Mutations() {
		if *only != "" && *only != m.String() {
			continue
		}
		w := sim.NewWorld()
		caught := ""
		for seed := uint64(1); seed <= mutationBudget && caught == ""; seed++ {
			o := sim.Options{Seed: seed, Members: 3, Mutation: m}
			r := w.Run(o)
			if r.Rule != caughtBy[m] {
				continue
			}
			o.Mutation = sim.NoMutation
			if clean := w.Run(o); clean.Violation == "" {
				caught = fmt.Sprintf("by run %d: %s", seed, r.Violation)
			}
		}
		t.Logf("%-11s %-56s caught %s", m, m.What(), caught)
		if caught == "" {
			t.Errorf("%s is not caught in %d runs", m, mutationBudget)
		}
	}
}
