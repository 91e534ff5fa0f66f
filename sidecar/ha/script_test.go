package ha_test

import (
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

// TestScripts plays the scripts in testdata: what one member observes, and what it
// decides. "decide following long" is n2 in a cluster that is well (sim.Views), but
// for the facts on the lines below, which have been so for a minute.
//
//	go test ./sidecar/ha -run Scripts -rewrite
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			facts, err := sim.ReadFacts(d.CmdArgs[0].String(), d.Input)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			decision := facts.Decide(ha.Decide, d.HasArg("long"))
			for _, a := range decision.Actions {
				if a.Kind != ha.Commit {
					continue
				}
				if err := a.Change.Record.Validate(); err != nil {
					t.Errorf("%s: nobody could read what %s writes: %v", d.Pos, a.Rule, err)
				}
			}
			return decision.Path() + decision.String()
		})
	})
}
