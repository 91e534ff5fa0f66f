package sim_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

var (
	first  = flag.Uint64("sim.from", 1, "the first seed of TestLong and TestDigests")
	report = flag.String("sim.report", "", "where TestLong writes its report; FILE.json beside it is what it goes on from")
)

// sizes are the clusters that are simulated.
var sizes = [...]int{3, 5}

// progress is how far a long run has come.
type progress struct {
	From   uint64
	Done   int    // runs of each size
	Core   string // what these runs were made of: runs of another core are not added to them
	Took   time.Duration
	Sums   [len(sizes)]sim.Result
	Failed []sim.Result
}

// TestLong makes -sim.runs runs of each size and writes what came of them to
// -sim.report. It can be stopped at any moment: the same command goes on where
// the report ends, and a greater -sim.runs adds to it.
//
//	go test ./sidecar/ha/sim -timeout 24h -run Long -sim.from 20000001 -sim.runs 1000000 -sim.report simulation.txt
func TestLong(t *testing.T) {
	if *report == "" {
		t.Skip("-sim.report names no file")
	}
	const slice = 10_000
	p := readProgress(t)
	for p.Done < *runs {
		begun := time.Now()
		n := min(slice, *runs-p.Done)
		for i, members := range sizes {
			total, bad := sweep(p.From+uint64(p.Done), n, sim.Options{Members: members})
			add(&p.Sums[i], &total)
			p.Failed = append(p.Failed, bad...)
		}
		p.Done += n
		p.Took += time.Since(begun)
		p.write(t)
	}
	if len(p.Failed) > 0 {
		t.Errorf("%d broken promises, see %s", len(p.Failed), *report)
	}
}

// readProgress is where an earlier run of TestLong was stopped, or the beginning.
func readProgress(t *testing.T) progress {
	p := progress{From: *first, Core: fingerprint()}
	text, err := os.ReadFile(*report + ".json")
	if errors.Is(err, fs.ErrNotExist) {
		return p
	}
	var old progress
	if err == nil {
		err = json.Unmarshal(text, &old)
	}
	if err != nil {
		t.Fatal(err)
	}
	if old.From != p.From || old.Core != p.Core {
		t.Fatalf("%s was begun at seed %d by a core with other decisions or another world; name another file", *report, old.From)
	}
	return old
}

// fingerprint tells cores and worlds apart by what they do.
func fingerprint() string {
	sum := uint64(0)
	w := sim.NewWorld()
	for _, members := range sizes {
		for seed := uint64(1); seed <= 100; seed++ {
			r := w.Run(sim.Options{Seed: seed, Members: members})
			sum = sum*31 + r.Digest
		}
	}
	return fmt.Sprintf("%016x", sum)
}

func (p *progress) write(t *testing.T) {
	text := fmt.Sprintf("Simulation of sidecar/ha: the product's decisions in a world of faults.\n\nseeds %d to %d, of each size; %.1f minutes\n",
		p.From, p.From+uint64(p.Done)-1, p.Took.Minutes())
	for i, members := range sizes {
		text += fmt.Sprintf("%d members: %d runs, %s\n", members, p.Done, line(&p.Sums[i]))
	}
	text += fmt.Sprintf("broken promises: %d\n", len(p.Failed))
	for _, r := range p.Failed[:min(len(p.Failed), maxShown)] {
		text += fmt.Sprintf("  -sim.members %d -sim.seed %d: %s\n", r.Members, r.Seed, r.Violation)
	}
	state, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{*report: []byte(text), *report + ".json": state} {
		// A stop between the two writes, or within one, must not end the story.
		if err := os.WriteFile(name+".new", content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
}
