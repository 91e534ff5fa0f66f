package drill_test

import (
	"math"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// TestAsyncOnePrimary looks, in async mode, at the faults in which the old
// primary does not know that it is deposed: somebody writes beside every server
// all the time, and the old one has acknowledged its last row before any other
// has acknowledged its first. Rows may be lost; that is what async means.
func TestAsyncOnePrimary(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	l := cluster(t, lab.Options{Mode: "async", Isolated: true})
	for _, name := range []string{"sidecar-stopped", "cut-off", "host-paused"} {
		t.Run(name, func(t *testing.T) {
			s, err := drill.Find(name)
			if err != nil {
				t.Fatal(err)
			}
			if s.Possible(l.Plan()) != nil {
				t.Skip("needs root")
			}
			r, err := drill.Run(t.Context(), s, drill.Options{Lab: l, Routes: []string{"haproxy"}, Objective: drill.Objective{RPO: math.MaxInt64}})
			if err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			if err := r.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			t.Log(text.String())
			for _, f := range r.Failures {
				t.Error(f)
			}
			for i, reign := range r.Reigns[1:] {
				before := r.Reigns[i]
				gap := reign.First.Sub(before.LastSent)
				t.Logf("%s took its first row %v after %s was sent its last", reign.Member, gap, before.Member)
				if gap < 0 {
					t.Errorf("%s was sent a row that it acknowledged %v after %s had acknowledged its first", before.Member, -gap, reign.Member)
				}
			}
		})
	}
}
