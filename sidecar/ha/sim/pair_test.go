package sim_test

import (
	"flag"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

var (
	pairRuns    = flag.Int("sim.pairruns", 200, "how many runs of each size TestPair makes")
	pairWitness = flag.Bool("sim.pairwitness", false, "that run's sites name a witness, or those of all runs")
	pairSeed    = flag.Uint64("sim.pairseed", 0, "the only seed that TestPair runs, with its story")
)

// TestPair: two sites, either of which people have take the writes, in a planned way or
// without the other, while each can hear the other or not. When they can again, one of them
// takes writes and the other follows it; no timeline is of both; and what was given up in a
// planned change of sites is not lost.
//
//	go test ./sidecar/ha/sim -run Pair -sim.pairruns 100000 -sim.from 1
func TestPair(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	p := sim.NewPair()
	for _, members := range [][2]int{{2, 1}, {3, 2}, {3, 3}} {
		t.Run(fmt.Sprintf("members=%v", members), func(t *testing.T) {
			if *pairSeed != 0 {
				r := p.Run(sim.PairOptions{Seed: *pairSeed, Members: members, Witness: *pairWitness, Story: true})
				t.Log(strings.Join(r.Story, "\n"), "\n", r.Violation)
				return
			}
			var sum sim.PairResult
			bad := map[string][]uint64{}
			for i := range *pairRuns {
				o := sim.PairOptions{Seed: *first + uint64(i), Members: members, Witness: i%2 == 1 || *pairWitness}
				r := p.Run(o)
				sum.Promotions, sum.Planned, sum.Superseded = sum.Promotions+r.Promotions, sum.Planned+r.Planned, sum.Superseded+r.Superseded
				if r.Violation == "" {
					continue
				}
				if bad[r.Rule] = append(bad[r.Rule], o.Seed); len(bad[r.Rule]) == 1 {
					o.Story = true
					r = p.Run(o)
					told := slices.DeleteFunc(r.Story, func(line string) bool { return strings.Contains(line, " reports ") })
					t.Errorf("seed %d: %s", o.Seed, r.Violation)
					t.Log(strings.Join(told[max(0, len(told)-80):], "\n"))
				}
			}
			t.Logf("%d runs, %d promotions, %d planned changes of sites, %d sites superseded, failures %v", *pairRuns, sum.Promotions, sum.Planned, sum.Superseded, bad)
			if sum.Planned == 0 || sum.Superseded == 0 {
				t.Error("no site was superseded, or none took what another gave up: nothing is shown of that")
			}
		})
	}
}

// TestPairSeeds: seeds that once broke a promise. Each site waited for the word of the witness,
// which nobody ever had; a site that gave way passed over terms; the member that had all that
// was given up crashed before it served, and another was elected; the witness's word was with the site on the
// earlier timeline, and the other, which was closed, did not give way to it; a member was elected as it was
// rewound, and waited for a primary that it was to be itself; a site had taken the writes, did not hear that,
// and was rewound to the other (40001063); a member used the witness's word from an earlier term of its own, after the
// leader of a term between had given it back (50125916, 50042182); a site followed the other's later timeline before it
// knew whether its own promotion would still be carried out (50048840). And who was deposed with its site, and did
// not know it, acknowledged one commit more (19009650), and two members were wrong about their primary at
// once (19016187), a standby received one record more while it was stopped (50087646), and
// what was sent before its host was paused was read from another log (50123299), which are no broken promises.
func TestPairSeeds(t *testing.T) {
	p := sim.NewPair()
	for _, o := range []sim.PairOptions{{Seed: 1067, Members: [2]int{2, 1}, Witness: true}, {Seed: 1005291, Members: [2]int{3, 2}}, {Seed: 2004153, Members: [2]int{3, 2}},
		{Seed: 2004840, Members: [2]int{2, 1}, Witness: true}, {Seed: 22001401, Members: [2]int{2, 1}, Witness: true},
		{Seed: 40001063, Members: [2]int{3, 2}}, {Seed: 19009650, Members: [2]int{3, 2}}, {Seed: 19009650, Members: [2]int{3, 3}},
		{Seed: 19016187, Members: [2]int{3, 2}, Witness: true}, {Seed: 19016187, Members: [2]int{3, 3}, Witness: true},
		{Seed: 50087646, Members: [2]int{3, 2}, Witness: true}, {Seed: 50123299, Members: [2]int{2, 1}},
		{Seed: 50125916, Members: [2]int{3, 3}, Witness: true}, {Seed: 50042182, Members: [2]int{3, 2}, Witness: true},
		{Seed: 50048840, Members: [2]int{3, 3}, Witness: true}} {
		if r := p.Run(o); r.Violation != "" {
			t.Errorf("seed %d of %v: %s", o.Seed, o.Members, r.Violation)
		}
	}
}

// TestReturnedSite: of a site in whose place the other has taken the writes, one member alone
// is rewound to that one, over the long way between them, and nobody is copied anew.
func TestReturnedSite(t *testing.T) {
	p := sim.NewPair()
	for seed := range uint64(60) {
		r := p.Run(sim.PairOptions{Seed: seed + 1, Members: [2]int{3, 2}, Parted: true})
		// The site that follows was copied first: its founder from the other site, the other from that one.
		if r.Violation != "" || r.Superseded != 1 || r.FromSite != 1+1 || r.Copies != 2 {
			t.Errorf("seed %d: %s; %d sites gave way, %d fetches from the other site, %d copies", seed+1, r.Violation, r.Superseded, r.FromSite, r.Copies)
		}
	}
}

// pairsFrom are the seeds before which nothing was found, of what takes rare moments: of what
// people do to both sites, and when.
var pairsFrom = map[sim.PairMutation]int{sim.PairNoFinal: 4400, sim.PairWordless: 2500, sim.PairStandbys: 1700, sim.PairForgets: 2004152, sim.PairRewound: 22_004_900}

// TestPairMutations: each rule about two sites, broken on purpose, breaks a promise.
func TestPairMutations(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	p := sim.NewPair()
	for broken := sim.PairWhole + 1; broken < sim.PairMutations; broken++ {
		found, first := 0, pairsFrom[broken]
		for i := first; i < first+3000; i++ {
			o := sim.PairOptions{Seed: uint64(i + 1), Members: [2]int{2 + i%2, 1}, Broken: broken, Witness: broken >= sim.PairHasty}
			if broken == sim.PairForgets {
				o.Members = [2]int{3, 2}
			}
			r := p.Run(o)
			if r.Violation != "" {
				t.Logf("mutation %d: seed %d: %s", broken, i+1, r.Violation)
				found = i + 1
				break
			}
		}
		if found == 0 {
			t.Errorf("mutation %d breaks nothing in 3000 runs", broken)
		}
	}
}
