package sim_test

import (
	"flag"
	"fmt"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

var zoneRuns = flag.Int("sim.zoneruns", 200, "how many runs of each size TestZones makes")

// TestZones: under a strict policy each commit for which standbys answer is held in two zones,
// and none is lost; and if a member does not know its own zone that is found.
//
//	go test ./sidecar/ha/sim -run TestZones -sim.zoneruns 100000 -sim.from 1
func TestZones(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	w := sim.NewWorld()
	for _, members := range []int{3, 4, 5} {
		t.Run(fmt.Sprintf("members=%d", members), func(t *testing.T) {
			commits, bad := 0, map[string]int{}
			for i := range *zoneRuns {
				o := sim.Options{Seed: *first + uint64(i), Members: members, Zoned: sim.InZones}
				r := w.Run(o)
				commits += r.Commits
				if r.Violation == "" {
					continue
				}
				if bad[r.Rule]++; bad[r.Rule] == 1 {
					small := sim.Shrink(o)
					small.Story = true
					r = w.Run(small)
					t.Errorf("seed %d: %s; faults %v", o.Seed, r.Violation, r.FaultNames)
					t.Log(strings.Join(r.Story[max(0, len(r.Story)-60):], "\n"))
				}
			}
			t.Logf("%d runs, %d commits, failures %v", *zoneRuns, commits, bad)
		})
	}
	t.Run("blind", func(t *testing.T) {
		for i := range mutationBudget {
			if r := w.Run(sim.Options{Seed: uint64(i) + 1, Members: 3, Zoned: sim.ZonesBlind}); r.Rule == "zones" {
				t.Logf("caught by run %d: %s", i+1, r.Violation)
				return
			}
		}
		t.Errorf("not caught in %d runs", mutationBudget)
	})
}
