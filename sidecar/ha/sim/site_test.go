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

var siteRuns = flag.Int("sim.siteruns", 400, "how many runs of each size TestFollower makes")

// TestFollower: members that follow another site's cluster, through failovers there and
// faults here. Nobody is promoted while they follow; at the end all stream; and where the
// other site is lost and an operator lets them take the writes, they do, and lose none of
// their own.
//
//	go test ./sidecar/ha/sim -run Follower -sim.siteruns 100000 -sim.from 1
func TestFollower(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	w := sim.NewWorld()
	for _, members := range []int{1, 2, 3, 5} {
		t.Run(fmt.Sprintf("members=%d", members), func(t *testing.T) {
			promotions, bad := 0, map[string]int{}
			for i := range *siteRuns {
				r := w.Run(sim.Options{Seed: *first + uint64(i), Members: members, Follower: true})
				promotions += r.Promotions
				if r.Violation == "" {
					continue
				}
				if bad[r.Rule]++; bad[r.Rule] == 1 {
					small := sim.Shrink(sim.Options{Seed: r.Seed, Members: members, Follower: true})
					small.Story = true
					r = w.Run(small)
					t.Errorf("seed %d: %s; faults %v", r.Seed, r.Violation, r.FaultNames)
					told := slices.DeleteFunc(r.Story, func(line string) bool { return strings.Contains(line, " reports ") })
					t.Log(strings.Join(told[max(0, len(told)-60):], "\n"))
				}
			}
			t.Logf("%d runs, %d promotions, failures %v", *siteRuns, promotions, bad)
			if promotions == 0 {
				t.Error("no run was promoted: nothing is shown of that")
			}
		})
	}
}
