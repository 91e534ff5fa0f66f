package sessions_test

import (
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"
)

// TestSteadyStateWritesNothing: nothing is written to Consul's Raft log while nothing
// changes, and no more is asked than needed: a holder reads the lock each second, unless
// the members' word keeps its lease.
func TestSteadyStateWritesNothing(t *testing.T) {
	t.Parallel()
	server := newAgent(t, "server", "", "")
	ctx := background(t)
	n1, n2 := run(t, options("n1", server.http)), run(t, options("n2", server.http))
	n1.session(t)
	n2.session(t)
	must(t, n1.Commit(ctx, ballot(n1, "n1")))
	n1.SetHolding(true, false)
	must(t, n1.Register(ctx, registration("n1", "primary", 5001)))
	must(t, n2.Register(ctx, registration("n2", "replica", 5002)))
	server.answers(2*time.Second, 5001)
	var asked counter
	o := options("n1", server.http)
	o.Cluster, o.Service, o.Requested = "vouched", "vouched", asked.add
	vouched := run(t, o)
	vouched.session(t)
	must(t, vouched.Commit(ctx, ballot(vouched, "n1")))
	vouched.SetHolding(true, true)
	must(t, vouched.Register(ctx, registration("n1", "primary", 5003)))

	index := func() uint64 {
		self, err := server.api.Agent().Self()
		must(t, err)
		n, err := strconv.ParseUint(self["Stats"]["raft"].(map[string]any)["last_log_index"].(string), 10, 64)
		must(t, err)
		return n
	}
	// The agent syncs what was registered, and Consul's own start-up ends,
	// before the measurement: wait until the log has been still for 2 s.
	last, since := index(), time.Now()
	eventually(t, 30*time.Second, "a quiet log", func() error {
		if now := index(); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) < 2*time.Second {
			return errors.New("still moving")
		}
		return nil
	})
	held, heldVouched := n1.View().Consul.HeldAt, vouched.View().Consul.HeldAt
	asked.reset()
	began := time.Now()
	until := began.Add(8 * time.Second) // two renewals, eight confirmations, three mendings
	eventually(t, 20*time.Second, "the end of the measurement", func() error {
		if time.Now().Before(until) {
			return errors.New("not yet")
		}
		return nil
	})
	if now := index(); now != last {
		t.Errorf("%d entries were written to the Raft log in 8 s", now-last)
	}
	if n1.View().Consul.HeldAt.Sub(held) < 6*time.Second {
		t.Error("the lock was not confirmed meanwhile")
	}
	// A mending each 3.3 s confirms the lock and tells two checks; the watch confirms once in 10 s.
	seconds := int(time.Since(began)/time.Second) + 1
	for operation, most := range map[string]int{"txn": seconds/3 + 3, "session renew": seconds/5 + 2, "agent check": 2 * (seconds/3 + 2), "agent health": seconds/3 + 2} {
		if n := asked.now(operation); n > most || n == 0 {
			t.Errorf("%s was asked %d times in %d s, at most %d are needed", operation, n, seconds, most)
		}
	}
	if vouched.View().Consul.HeldAt.Sub(heldVouched) < 3*time.Second {
		t.Error("the lock whose lease the members vouch for was not confirmed meanwhile")
	}
}

// counter counts requests by operation.
type counter struct {
	mu  sync.Mutex
	all map[string]int
}

func (c *counter) add(operation string, _ time.Duration, _ error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[string]int{}
	}
	c.all[operation]++
}

func (c *counter) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.all)
}

func (c *counter) now(operation string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[operation]
}
