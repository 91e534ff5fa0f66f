package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// TestPoolAtALostHost: the primary's host answers nothing any more, while queries of
// PgBouncer's clients are under way there. Each of them is told so in a bounded time, not
// after the many minutes that TCP alone takes, and PgBouncer serves at the new primary.
func TestPoolAtALostHost(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	if os.Geteuid() != 0 {
		t.Skip("hosts that can be cut off need root")
	}
	l := newSwitchLabOf(t, lab.Options{PgBouncer: true, Isolated: true})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	const clients = 10
	type answer struct {
		err  error
		took time.Duration
	}
	began := make(chan time.Time, clients)
	answers := make(chan answer, clients)
	cut := make(chan time.Time, clients)
	for range clients {
		conn, err := l.connect(ctx, lab.ApplicationRole, l.Plan().App().Ports.Pool)
		l.must(err)
		t.Cleanup(func() { conn.Close(context.Background()) }) //nolint:errcheck // it is broken
		go func() {
			began <- time.Now()
			_, err := conn.Exec(ctx, "select pg_sleep(600)")
			answers <- answer{err, time.Since(<-cut)}
		}()
	}
	for range clients {
		<-began
	}
	record, err := l.Record(ctx)
	l.must(err)
	asked := func() int { // of the queries, at the primary itself
		conn, err := l.connect(ctx, lab.SuperuserRole, l.Plan().App().Ports.Primary)
		l.must(err)
		defer conn.Close(ctx) //nolint:errcheck // nothing is lost with it
		n := 0
		l.must(conn.QueryRow(ctx, "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'").Scan(&n))
		return n
	}
	for asked() < clients {
		if ctx.Err() != nil {
			t.Fatal("the queries did not reach the primary")
		}
	}
	l.must(l.LinkDown(ctx, record.Leader))
	for range clients {
		cut <- time.Now()
	}
	next, err := l.WaitRecord(ctx, func(r ha.Record) bool { return r.Leader != record.Leader && r.Phase == ha.PhaseLeading })
	l.must(err)
	t.Logf("%s leads in the place of %s", next.Leader, record.Leader)
	for range clients {
		select {
		case a := <-answers:
			t.Logf("after %s: %v", a.took.Round(100*time.Millisecond), a.err)
			if a.err == nil || a.took > 40*time.Second {
				t.Errorf("a query that was under way: %v after %s", a.err, a.took)
			}
		case <-ctx.Done():
			t.Fatal("a client still waits for the lost host")
		}
	}
	conn, err := l.connect(ctx, lab.ApplicationRole, l.Plan().App().Ports.Pool)
	l.must(err)
	defer conn.Close(ctx) //nolint:errcheck // nothing is lost with it
	standby := true
	l.must(conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&standby))
	if standby {
		t.Error("PgBouncer leads to a replica")
	}
	l.must(l.LinkUp(ctx, record.Leader))
}
