package sim_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

// TestRestoresInPlace: a cluster that is restored in place, while other things go wrong, loses
// nothing from before the target; nothing at all if the restore is given up; and it never has
// two primaries. It makes a tenth of -sim.runs of each size.
func TestRestoresInPlace(t *testing.T) {
	n := *runs / 10
	if testing.Short() {
		n = min(n, 300)
	}
	for _, members := range []int{2, 3, 5} {
		t.Run(fmt.Sprintf("members=%d", members), func(t *testing.T) {
			from := uint64(time.Now().UnixNano())
			total, noted := sweep(from, n, sim.Options{Members: members, Outside: sim.RestoreInPlace})
			t.Logf("seeds from %d: %d restores; %s", from, total.Restored, line(&total))
			for _, r := range noted {
				if r.Violation != "" {
					t.Errorf("-sim.members %d -sim.seed %d -sim.faults restore-in-place: %s", members, r.Seed, r.Violation)
				}
			}
			if total.Restored < n/5 {
				t.Errorf("only %d of %d clusters were restored", total.Restored, n)
			}
		})
	}
}
