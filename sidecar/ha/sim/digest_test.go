package sim_test

import (
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

var digests = flag.String("sim.digests", "", "where TestDigests writes one line for each run")

// TestDigests writes the digest of each run, and of its story in words, so that
// two commits can be compared: a change that is to leave every decision as it
// was leaves the file as it was.
//
//	go test ./sidecar/ha/sim -run Digests -sim.runs 4000 -sim.digests FILE
func TestDigests(t *testing.T) {
	if *digests == "" {
		t.Skip("-sim.digests names no file")
	}
	var text strings.Builder
	w := sim.NewWorld()
	for _, members := range sizes {
		for i := range *runs {
			r := w.Run(sim.Options{Seed: *first + uint64(i), Members: members, Story: true})
			h := fnv.New64a()
			for _, s := range append(r.Story, r.FaultNames...) {
				h.Write([]byte(s))
			}
			fmt.Fprintf(&text, "%d/%d events %016x story %016x: %s\n", members, r.Seed, r.Digest, h.Sum64(), line(&r))
		}
	}
	if err := os.WriteFile(*digests, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
