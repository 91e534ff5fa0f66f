package ha_test

import (
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

var names = []string{"a", "b", "c", "d"}

func subset(bits int) []string {
	s := []string{}
	for i, n := range names {
		if bits&(1<<i) != 0 {
			s = append(s, n)
		}
	}
	return s
}

func count(bits int) int {
	n := 0
	for ; bits != 0; bits &= bits - 1 {
		n++
	}
	return n
}

// TestCovers compares with the definition: for every set of Ks names of the
// setting that may have answered, those and the primary hold at least K of the
// recorded voters.
func TestCovers(t *testing.T) {
	const primary, primaryBit = "a", 1
	for setBits := 0; setBits < 16; setBits += 2 { // the primary is never its own standby
		for ks := 0; ks <= count(setBits); ks++ {
			for recBits := range 16 {
				for k := 0; k <= count(recBits); k++ {
					want := true
					for answered := range 16 {
						if answered&^setBits == 0 && count(answered) == ks && count((answered|primaryBit)&recBits) < k {
							want = false
						}
					}
					set := ha.SyncSetting{K: ks, Names: subset(setBits)}
					rec := ha.Durability{Mode: ha.ModeQuorum, K: k, Voters: subset(recBits)}
					if got := ha.Covers(set, primary, rec); got != want {
						t.Fatalf("Covers(%v, %s, %v) = %v, want %v", set, primary, rec, got, want)
					}
				}
			}
		}
	}
}

// TestVotesNeeded shows that so many votes always include one of every K
// voters, and that one fewer does not (S3).
func TestVotesNeeded(t *testing.T) {
	for bits := 1; bits < 16; bits++ {
		for k := 1; k <= count(bits); k++ {
			need := ha.Durability{K: k, Voters: subset(bits)}.VotesNeeded()
			for _, votes := range []int{need, need - 1} {
				sure := true
				for voted := range 16 {
					for holders := range 16 {
						if voted&^bits == 0 && holders&^bits == 0 && count(voted) == votes && count(holders) == k && voted&holders == 0 {
							sure = false
						}
					}
				}
				if sure != (votes == need) {
					t.Fatalf("%d votes of %v with k=%d: sure=%v", votes, subset(bits), k, sure)
				}
			}
		}
	}
}

// TestCommitsWait: a primary whose standbys are gone says how many it waits for.
func TestCommitsWait(t *testing.T) {
	for standbys, want := range map[int]string{1: "1 standby that streams, of n2", 2: "2 standbys that stream, of n2, n3"} {
		o := sim.Leading()
		o.Server.Walsenders, o.Policy.Standbys, o.Consul.Record.Durability.K = nil, standbys, standbys
		before := o
		before.Now = o.Now.Add(-time.Minute)
		s, _ := ha.Decide(ha.State{}, before)
		if s, _ = ha.Decide(s, o); len(s.Blocks) != 1 || s.Blocks[0].Missing != want {
			t.Errorf("%d: blocked by %+v, want %s", standbys, s.Blocks, want)
		}
	}
}
