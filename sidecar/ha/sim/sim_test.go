package sim_test

import (
	"cmp"
	"flag"
	"fmt"
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
	runs   = flag.Int("sim.runs", 20_000, "how many runs of each size the tests make")
	seed   = flag.Uint64("sim.seed", 0, "the only seed to run, with its story")
	shape  = flag.Int("sim.members", 3, "how many members -sim.seed has")
	shrink = flag.Bool("sim.shrink", false, "shrink the run of -sim.seed before its story is told")
	only   = flag.String("sim.mutation", "", "the only mutation to make")
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
				if r.Violation != "" || r.Commands > 0 {
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
	t.Commands += r.Commands
	t.NoLoss += r.NoLoss
	t.Accepted += r.Accepted
	t.Cancelled += r.Cancelled
	t.Local += r.Local
	t.Needless += r.Needless
	t.Clock += r.Clock
	t.Restored += r.Restored
}

func line(r *sim.Result) string {
	return fmt.Sprintf("%d steps, %d decisions, %d faults, %d commits, %d terms, %d promotions, %.0f virtual hours, slowest recovery %.1f s",
		r.Steps, r.Decisions, r.Faults, r.Commits, r.Ballots, r.Promotions, float64(r.At)/3.6e12, float64(r.Recovered)/1e9)
}

// TestUsedWorld: a run in a world that was used before is the run in a new one, or
// its seed would not show it again. (The pair of seeds once did not keep to that.)
func TestUsedWorld(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	w := sim.NewWorld()
	for _, from := range []uint64{50007017, uint64(time.Now().UnixNano())} {
		for i := range uint64(250) {
			o := sim.Options{Members: 5, Seed: from + i}
			if i%2 == 1 { // those fail more often, and so end amid their faults
				o.Outside = sim.AllOutside
			}
			if used, fresh := w.Run(o), sim.Run(o); used.Digest != fresh.Digest || used.Violation != fresh.Violation {
				t.Errorf("seed %d: %d steps %s; in a new world %d steps %s", o.Seed, used.Steps, used.Violation, fresh.Steps, fresh.Violation)
			}
		}
	}
}

func TestSimulation(t *testing.T) {
	if *seed != 0 {
		tell(t, sim.Options{Seed: *seed, Members: *shape, Story: true, Outside: outsideOf(t)})
		return
	}
	fresh, n := uint64(time.Now().UnixNano()), *runs
	if testing.Short() {
		n = min(n, 1000)
	}
	for _, members := range sizes {
		t.Run(fmt.Sprintf("members=%d", members), func(t *testing.T) {
			judge(t, 1, n/2, members)
			judge(t, fresh, n-n/2, members)
		})
	}
}

// TestSeeds: seeds without faults from outside that once broke a promise.
func TestSeeds(t *testing.T) {
	for _, o := range []sim.Options{
		// The election had been passed to a member amid its rewind, and all members were started or cut off then.
		{Seed: 1796297809152220647, Members: 3},
		// Another led while a rewound member was away, and its source was rewound itself before it led again.
		{Seed: 160198, Members: 3},
	} {
		if r := sim.Run(o); r.Violation != "" {
			t.Errorf("seed %d of %d members: %s", o.Seed, o.Members, r.Violation)
		}
	}
}

// TestOtherSizes: clusters of other sizes keep the same promises. It makes a tenth of
// -sim.runs of each.
func TestOtherSizes(t *testing.T) {
	n := *runs / 10
	if testing.Short() {
		n = min(n, 100)
	}
	for _, members := range []int{2, 4, 7} {
		t.Run(fmt.Sprintf("members=%d", members), func(t *testing.T) { judge(t, *first, n, members) })
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
		t.Errorf("%d of %d runs failed; the first, shrunk:", len(failed), n)
		o := sim.Shrink(sim.Options{Seed: failed[0].Seed, Members: members})
		r := sim.Run(o)
		t.Log(told(&r))
	}
}

// maxShown is how many failed seeds a test prints.
const maxShown = 60

// tell prints the story of a run; with -sim.shrink that of the shortest that
// breaks the same promise.
func tell(t *testing.T, o sim.Options) {
	if *shrink {
		o = sim.Shrink(o)
	}
	r := sim.Run(o)
	t.Log(told(&r))
	if r.Violation != "" {
		t.Fail()
	}
}

// told is a run in words.
func told(r *sim.Result) string {
	return fmt.Sprintf("%s\nfaults:\n  %s\n%s\n%s", strings.Join(r.Story, "\n"), strings.Join(r.FaultNames, "\n  "), line(r), r.Violation)
}

// TestShrink: what is left of a run that fails still breaks the same promise,
// with fewer faults, and tells a story of it.
func TestShrink(t *testing.T) {
	w := sim.NewWorld()
	failed, before, after := 0, 0, 0
	for seed := uint64(1); failed < 5 && seed < mutationBudget; seed++ {
		o := sim.Options{Seed: seed, Members: 3, Mutation: sim.MutateS3}
		long := w.Run(o)
		if long.Violation == "" {
			continue
		}
		failed++
		o.Story = true
		all := w.Run(o)
		short := w.Run(sim.Shrink(o))
		if short.Rule != long.Rule || len(short.FaultNames) > len(all.FaultNames) || !strings.Contains(told(&short), "VIOLATION "+short.Violation) {
			t.Errorf("seed %d: %s became:\n%s", seed, long.Violation, told(&short))
		}
		before += len(all.FaultNames)
		after += len(short.FaultNames)
	}
	if t.Logf("%d runs that fail had %d faults, and have %d", failed, before, after); 2*after > before {
		t.Error("shrinking leaves more than half of the faults")
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
	r := sim.Run(sim.Options{Seed: 8, Members: 3, Length: 10e9, Calm: true, Core: idle, Story: true})
	if r.Rule != "recovery" || r.Commits == 0 || r.Promotions != 0 {
		t.Errorf("violation %q after %d commits\n%s", r.Violation, r.Commits, strings.Join(r.Story, "\n"))
	}
}

// BenchmarkRun is how many runs a second two processors make.
func BenchmarkRun(b *testing.B) {
	for _, members := range []int{3, 5} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			sweep(1, b.N, sim.Options{Members: members})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "runs/s")
		})
	}
}

// caughtBy says which promise must be seen broken when a rule is.
var caughtBy = [...]string{
	sim.MutateS1: "S1", sim.MutateS2: "lost", sim.MutateS2Disk: "lost", sim.MutateS3: "lost", sim.MutateS3Ahead: "lost",
	sim.MutateS4: "S4", sim.MutateS4CatchUp: "S4", sim.MutateS4Widen: "S4", sim.MutateS4Narrow: "S4", sim.MutateS4Promotion: "S4", sim.MutateS4Votes: "S4",
	sim.MutateS5: "two writers", sim.MutateS5Sent: "two writers", sim.MutateS6: "two writers", sim.MutateS7: "recovery",
	sim.MutateS8: "S8", sim.MutateS9: "S9", sim.MutateS10: "S10", sim.MutateKeep: "unknown field", sim.MutateBase: "timeline",
	sim.MutateStrayed: "lost", sim.MutateClaims: "lost", sim.MutateOwed: "lost", sim.MutatePutBack: "S1", sim.MutateFound: "lost", sim.MutateDecided: "lost", sim.MutateAmid: "lost",
	sim.MutateBeyond: "timeline", sim.MutateMarks: "timeline", sim.MutateUndone: "restore",
	sim.MutateReused: "timeline", sim.MutatePartial: "accused", sim.MutateUnheard: "lost",
	sim.MutateInstructed: "S5", sim.MutateGivenUp: "restore", sim.MutateAlone: "lost", sim.MutateBegun: "S1", sim.MutatePatient: "stuck",
	sim.MutateContends: "S1", sim.MutateAnew: "S4", sim.MutateAgain: "timeline",
}

// struckBy is the fault from outside without which a mutation changes nothing.
var struckBy = [...]sim.Outside{sim.MutateKeep: sim.OtherVersion, sim.MutateBase: sim.StartByHand | sim.LoseHost | sim.AcceptLoss,
	sim.MutateStrayed: sim.StartByHand, sim.MutateClaims: sim.RecoveryGoal, sim.MutateOwed: sim.CloneReplica, sim.MutatePutBack: sim.RestoreTerm, sim.MutateFound: sim.LoseDisk | sim.DeleteKeys,
	sim.MutateDecided: sim.RestoreVoters, sim.MutateAmid: sim.RestoreVoters, sim.MutateBeyond: sim.EmptyConsul | sim.DeleteState,
	sim.MutateMarks:  sim.PromoteByHand | sim.RecoveryGoal | sim.StartByHand | sim.DeleteState | sim.LoseHost,
	sim.MutateUndone: sim.RestoreInPlace, sim.MutateReused: sim.RestoreVoters | sim.LoseDisk,
	sim.MutatePartial: sim.MidRecord, sim.MutateUnheard: sim.LoseState | sim.EmptyWithHost,
	sim.MutateInstructed: sim.RestoreInPlace | sim.AcceptLoss, sim.MutateGivenUp: sim.RestoreInPlace | sim.EmptyConsul,
	sim.MutateAlone: sim.RestoreVoters | sim.ClockStops, sim.MutateBegun: sim.AllOutside, sim.MutatePatient: sim.OtherTimeout | sim.HungDisk | sim.DeleteKeys,
	sim.MutateContends: sim.RestoreTerm | sim.PortCut, sim.MutateAnew: sim.AllOutside, sim.MutateAgain: sim.AllOutside}

// ofSize are the clusters in which those mutations tell that do not with three members.
var ofSize = map[sim.Mutation]int{sim.MutateGivenUp: 2, sim.MutateAlone: 2, sim.MutateBegun: 5, sim.MutatePatient: 4, sim.MutateAgain: 2}

// beside is what makes a mutation tell.
func beside(m sim.Mutation) sim.Outside {
	if int(m) < len(struckBy) {
		return struckBy[m]
	}
	return 0
}

// caughtFrom are the seeds before which those mutations were not caught that only show in
// rare runs.
var caughtFrom = map[sim.Mutation]uint64{
	sim.MutateS2: 2051, sim.MutateS2Disk: 2744, sim.MutateS4: 250, sim.MutateS4CatchUp: 250, sim.MutateS5: 1766, sim.MutateS8: 385, sim.MutateBase: 1158,
	sim.MutateStrayed: 213, sim.MutateOwed: 782, sim.MutatePutBack: 1353, sim.MutateFound: 61_918, sim.MutateDecided: 10_963, sim.MutateAmid: 3250,
	sim.MutateBeyond: 111_208, sim.MutateMarks: 76_701, sim.MutateUndone: 2022, sim.MutateReused: 40_115_629, sim.MutatePartial: 748,
	sim.MutateUnheard: 251, sim.MutateInstructed: 5521, sim.MutateGivenUp: 19_196, sim.MutateAlone: 31_956, sim.MutateBegun: 22_002_118,
	sim.MutatePatient: 8175, sim.MutateContends: 25_595, sim.MutateAnew: 34_015_854, sim.MutateAgain: 32_001_479}

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
		for seed := caughtFrom[m] + 1; seed <= caughtFrom[m]+mutationBudget && caught == ""; seed++ {
			o := sim.Options{Seed: seed, Members: cmp.Or(ofSize[m], 3), Mutation: m, Outside: beside(m)}
			r := w.Run(o)
			if r.Rule != caughtBy[m] {
				continue
			}
			o.Mutation = sim.NoMutation
			if clean := w.Run(o); clean.Violation == "" {
				caught = fmt.Sprintf("by run %d: %s", seed, r.Violation)
			}
		}
		t.Logf("%-12s %-62s caught %s", m, m.What(), caught)
		if caught == "" {
			t.Errorf("%s is not caught in %d runs", m, mutationBudget)
		}
	}
}
