package sim_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

// scripted is one script, over the world or over Decide, that can be played
// without one of the core's rows.
type scripted struct {
	name string
	play func(decide sim.Decider) string
	want string
	held []string // the rows that hold in it
}

// scripts reads what testdata here and in package ha has.
func scripts(t *testing.T) []scripted {
	t.Helper()
	all := append(incidents(t), decisions(t)...)
	for i := range all {
		s := &all[i]
		s.want = s.play(func(st ha.State, o ha.Observation) (ha.State, []ha.Action) {
			st, actions := ha.Decide(st, o)
			for _, row := range st.Rules {
				if !slices.Contains(s.held, row) {
					s.held = append(s.held, row)
				}
			}
			return st, actions
		})
	}
	return all
}

// incidents are the scripts over the world.
func incidents(t *testing.T) (all []scripted) {
	t.Helper()
	type line struct {
		verb string
		args []string
	}
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var lines []line
		datadriven.RunTest(t, path, func(_ *testing.T, d *datadriven.TestData) string {
			lines = append(lines, line{d.Cmd, argsOf(d)})
			return d.Expected
		})
		all = append(all, scripted{name: path, play: func(decide sim.Decider) string {
			c := clusterOf(t, lines[0].args)
			c.Core.Decide = decide
			s, text := sim.NewScript(c), ""
			for _, l := range lines[1:] {
				said, _ := s.Do(l.verb, l.args...) // TestScripts has seen that there is no error
				text += said
			}
			return text
		}})
	})
	return all
}

// decisions are the scripts over Decide: each of their cases is one.
func decisions(t *testing.T) (all []scripted) {
	t.Helper()
	datadriven.Walk(t, "../testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			facts, err := sim.ReadFacts(d.CmdArgs[0].String(), d.Input)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			long := d.HasArg("long")
			all = append(all, scripted{name: d.Pos, play: func(decide sim.Decider) string {
				decision := facts.Decide(decide, long)
				return decision.String()
			}})
			return d.Expected
		})
	})
	return all
}

func argsOf(d *datadriven.TestData) (args []string) {
	for _, a := range d.CmdArgs {
		args = append(args, a.String())
	}
	return args
}

// misses says whether the script goes otherwise without the row.
func (s *scripted) misses(row string) (missed bool) {
	defer func() {
		if recover() != nil {
			missed = true // a row may stand before others so that they need not ask again
		}
	}()
	return s.play((&ha.Rules{Without: row}).Decide) != s.want
}

// scriptsOn says in how many scripts a row holds, and the first that misses it.
func scriptsOn(all []scripted, row string) (plays int, missedBy string) {
	for i := range all {
		s := &all[i]
		if !slices.Contains(s.held, row) {
			continue
		}
		plays++
		if missedBy == "" && s.misses(row) {
			missedBy = strings.TrimPrefix(s.name, "../")
		}
	}
	return plays, missedBy
}
