package sessions_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// TestEvictGone: a replica that is dead, and whose agent says that it is well, as it may tell
// the catalog nothing any more, is no answer of DNS; the others are not touched, and it is one
// again when it is back.
func TestEvictGone(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	var dead atomic.Bool
	o := options("n1", server.http)
	o.Gone = func(member string) bool { return member == "n2" && dead.Load() }
	n1, n2, n3 := run(t, o), run(t, options("n2", server.http)), run(t, options("n3", server.http))
	for _, m := range []*member{n1, n2, n3} {
		m.session(t)
	}
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	must(t, n1.Register(ctx, registration("n1", "primary", 5001)))
	must(t, n2.Register(ctx, registration("n2", "replica", 5002)))
	must(t, n3.Register(ctx, registration("n3", "replica", 5003)))
	tagged := func(want ...string) {
		t.Helper()
		eventually(t, 8*time.Second, fmt.Sprint("the tag replica on ", want), func() error {
			entries, _, err := server.api.Health().Service("pg", "replica", false, nil)
			must(t, err)
			var got []string
			for _, e := range entries {
				if e.Checks.AggregatedStatus() != api.HealthCritical { // as DNS
					got = append(got, e.Service.Meta["member"])
				}
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				return fmt.Errorf("it is on %q", got)
			}
			return nil
		})
	}
	tagged("n2", "n3")
	n2.stop()
	dead.Store(true)
	must(t, n3.Register(ctx, registration("n3", "replica", 5013))) // whatever changes wakes n1
	tagged("n3")
	dead.Store(false)
	n2 = run(t, options("n2", server.http))
	n2.session(t)
	must(t, n2.Register(background(t), registration("n2", "replica", 5002)))
	tagged("n2", "n3")
}
