package sidecar

import (
	"context"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// leased is a guard that notes what lease it was asked to hold.
type leased struct {
	Guard
	until ha.Instant
}

func (g *leased) Lease(_ context.Context, until ha.Instant) error {
	g.until = until
	return nil
}

func (g *leased) Status() GuardStatus { return GuardStatus{Armed: true, LeaseUntil: g.until} }

// TestLeaseSuffices: the guard is not asked for a lease that is little longer than
// the long one that it holds, so that the heartbeats and Consul's answer of one
// round make one request; it is asked for every other, lest a lease runs short
// while nothing is wrong (S5).
func TestLeaseSuffices(t *testing.T) {
	const now = ha.Instant(time.Hour)
	policy := DefaultPolicy()
	policy.Lease = 20 * time.Second
	for _, c := range []struct {
		name        string
		armed       bool
		left, grows time.Duration
		asked       bool
	}{
		{"long, grows by little", true, 15*time.Second + 1, 3*time.Second - 1, false},
		{"long, stays", true, 18 * time.Second, 0, false},
		{"long, grows by much", true, 16 * time.Second, 3 * time.Second, true},
		{"three quarters are left", true, 15 * time.Second, 2 * time.Second, true},
		{"short", true, time.Second, 2 * time.Second, true},
		{"over", true, -time.Second, 2 * time.Second, true},
		{"none", false, 18 * time.Second, time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := &leased{}
			s := &Sidecar{opts: Options{Guard: g, Now: func() ha.Instant { return now }}, policy: policy}
			s.server.Armed, s.server.LeaseUntil = c.armed, now.Add(c.left)
			until := now.Add(c.left + c.grows)
			s.act(t.Context(), ha.Action{Kind: ha.Lease, Until: until})
			s.tasks.Wait()
			if asked := g.until == until; asked != c.asked {
				t.Errorf("the guard was asked: %v, want %v", asked, c.asked)
			}
		})
	}
}
