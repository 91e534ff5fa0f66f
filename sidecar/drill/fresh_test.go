package drill_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// TestFreshViews loses a replica's host. Consul, the record and the primary still say
// of it what they knew before: the cluster is not whole for that, and a person who is
// to work on its server waits for it.
func TestFreshViews(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	l := cluster(t, lab.Options{Isolated: true})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	lost, c := find(t, "standby-lost"), casting(ctx, t, l)
	soon := func() (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, 2*time.Second) }
	if err := lost.Fault(ctx, c); err != nil {
		t.Fatal(err)
	}
	whole, cancel := soon()
	if err := l.WaitReady(whole); err == nil {
		t.Errorf("the cluster is whole, and %s is away", c.Replicas[0])
	}
	cancel()
	byHand := []string{"replica-restarted", "replica-promoted"}
	for _, name := range byHand {
		work, cancel := soon()
		if err := find(t, name).Fault(work, c); err == nil || !strings.Contains(err.Error(), "wait for the server") {
			t.Errorf("%s, and the server is away: %v", name, err)
		}
		cancel()
	}
	if err := lost.Undo(ctx, c); err != nil {
		t.Fatal(err)
	}
	for _, name := range byHand {
		if err := find(t, name).Fault(ctx, c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := l.WaitReady(ctx); err != nil {
			t.Error(err)
		}
	}
}

func find(t *testing.T, name string) drill.Scenario {
	t.Helper()
	s, err := drill.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// casting gives the parts by the record.
func casting(ctx context.Context, t *testing.T, l *lab.Lab) drill.Cast {
	t.Helper()
	r, err := l.Record(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := drill.Cast{Lab: l, Primary: r.Leader}
	for _, m := range l.Plan().Members() {
		if m.Name != r.Leader {
			c.Replicas = append(c.Replicas, m.Name)
		}
	}
	return c
}
