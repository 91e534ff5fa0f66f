package sim_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/ha/sim"
)

// TestScripts plays the incidents in testdata, each a file: a cluster, what
// happens to it, and the story that comes of it.
//
//	go test ./sidecar/ha/sim -run Scripts -rewrite
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s *sim.Script
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			args := argsOf(d)
			if d.Cmd == "cluster" {
				s = sim.NewScript(clusterOf(t, args))
				return ""
			}
			text, err := s.Do(d.Cmd, args...)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			return text
		})
	})
}

// clusterOf reads "cluster 3 quorum [strict] [fresh] [k=2] [faults=NAME,NAME]".
func clusterOf(t *testing.T, args []string) sim.Cluster {
	c := sim.Cluster{Members: 3, Mode: ha.ModeQuorum, Standbys: 1}
	for _, a := range args {
		k, isK := strings.CutPrefix(a, "k=")
		faults, isFaults := strings.CutPrefix(a, "faults=")
		n, err := strconv.Atoi(a)
		switch {
		case err == nil:
			c.Members = n
		case isK:
			if c.Standbys, err = strconv.Atoi(k); err != nil {
				t.Fatal(err)
			}
		case isFaults:
			if c.Outside, err = sim.ParseOutside(strings.Trim(faults, "()")); err != nil {
				t.Fatal(err)
			}
		case a == "strict":
			c.Strict = true
		case a == "fresh":
			c.Fresh = true
		case a == string(ha.ModeQuorum), a == string(ha.ModeAsync):
			c.Mode = ha.Mode(a)
		default:
			t.Fatalf("cluster: %q", a)
		}
	}
	return c
}
