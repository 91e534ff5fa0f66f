package sim_test

import (
	"flag"
	"hash"
	"hash/fnv"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

var rowRuns = flag.Int("sim.rowruns", 1500, "how many runs of TestRows each row may be missed in")

// TestRows leaves out each row of the core's tables in turn. Some run, or some script
// over the world or over Decide, must then go otherwise than with it: by a broken
// promise, by not recovering, by another story, or by other words. A row that nothing
// misses is dead or untested.
func TestRows(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	w, written := sim.NewWorld(), scripts(t)
	runs := baseline(w, *rowRuns)
	for _, name := range ha.RuleNames() {
		how, firing := missing(w, runs, name)
		plays, missedBy := scriptsOn(written, name)
		t.Logf("%-28s %-20s %3d scripts; missed by %s", name, how, plays, missedBy)
		firing, how = firing || plays > 0, how+missedBy
		switch {
		case !firing:
			t.Errorf("row %q holds in none of %d runs, and in no script: write one (../testdata)", name, len(runs))
		case how == "":
			t.Errorf("row %q is not missed in %d runs, nor by a script: it is dead or untested", name, len(runs))
		}
	}
}

// TestRuleNames: a name says which row it was.
func TestRuleNames(t *testing.T) {
	names := ha.RuleNames()
	slices.Sort(names)
	for i := 1; i < len(names); i++ {
		if names[i] == names[i-1] {
			t.Errorf("two rows are named %q", names[i])
		}
	}
}

// played is a run with every row, and which of them held in it.
type played struct {
	options sim.Options
	digest  uint64
	words   uint64   // of all blocks and refusals
	rules   []string // sorted
}

// words adds up what a decision says to people.
func words(h hash.Hash64, s *ha.State) {
	for i := range s.Blocks {
		io.WriteString(h, s.Blocks[i].What)    //nolint:errcheck // a hash takes everything
		io.WriteString(h, s.Blocks[i].Missing) //nolint:errcheck // as above
	}
	io.WriteString(h, s.Refused) //nolint:errcheck // as above
}

// baseline plays the runs as they are.
func baseline(w *sim.World, n int) []played {
	var runs []played
	for _, members := range sizes {
		for seed := range n {
			held, said := map[string]bool{}, fnv.New64a()
			o := sim.Options{Seed: uint64(seed + 1), Members: members}
			o.Core.Decide = func(s ha.State, seen ha.Observation) (ha.State, []ha.Action) {
				s, actions := ha.Decide(s, seen)
				for _, rule := range s.Rules {
					held[rule] = true
				}
				words(said, &s)
				return s, actions
			}
			p := played{options: sim.Options{Seed: o.Seed, Members: members}, digest: w.Run(o).Digest, words: said.Sum64()}
			for rule := range held {
				p.rules = append(p.rules, rule)
			}
			slices.Sort(p.rules)
			runs = append(runs, p)
		}
	}
	return runs
}

// missing says how the first runs in which the row holds go without it, and whether it
// held in any.
func missing(w *sim.World, runs []played, row string) (how string, firing bool) {
	var ways []string
	for i := range runs {
		p := &runs[i]
		if _, held := slices.BinarySearch(p.rules, row); !held {
			continue
		}
		firing = true
		r, said, crashed := without(w, p.options, row)
		switch {
		case crashed:
			return "crash", true
		case r.Violation != "":
			return r.Rule, true
		case r.Digest != p.digest && len(ways) == 0:
			ways = append(ways, "another story")
		case said != p.words && len(ways) == 0:
			ways = append(ways, "other words")
		}
		if len(ways) > 0 && i > len(runs)/10 {
			break // long enough looked for something worse
		}
	}
	return strings.Join(ways, ", "), firing
}

// without plays a run without a row. A row may stand before others so that they need
// not ask again: without it they crash.
func without(w *sim.World, o sim.Options, row string) (r sim.Result, said uint64, crashed bool) {
	defer func() {
		if recover() != nil {
			*w, crashed = *sim.NewWorld(), true
		}
	}()
	rules, h := ha.Rules{Without: row}, fnv.New64a()
	o.Core.Decide = func(s ha.State, seen ha.Observation) (ha.State, []ha.Action) {
		s, actions := rules.Decide(s, seen)
		words(h, &s)
		return s, actions
	}
	r = w.Run(o)
	return r, h.Sum64(), false
}
