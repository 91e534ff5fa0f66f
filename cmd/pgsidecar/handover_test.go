package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// What a switchover may take at the median, on a machine that does nothing else.
const (
	handoverGoal = 250 * time.Millisecond // without writes
	returnGoal   = 3 * time.Second        // from the request until the old primary streams
)

// handovers are switchovers under pgbench.
type handovers struct {
	pauses  []time.Duration // the longest time between two ends of transactions, of all clients together
	returns []time.Duration // from the request until the old primary streams from the new one
}

// underPgbench plays switchovers while pgbench writes through PgBouncer, which hides
// them from its clients: each transaction that pgbench counts is a row, and none may
// be missing.
func (l *switchLab) underPgbench(times int) handovers {
	l.t.Helper()
	ctx := l.t.Context()
	before := l.historyRows(ctx)
	// A rate that leaves the machine room: what is measured is the pause, not how
	// long transactions wait for a processor. Three milliseconds lie between two.
	load := l.run(context.WithoutCancel(ctx), "-n", "-N", "-M", "simple", "-c", "16", "-j", "2", "-R", "300", "-T", strconv.Itoa(4+times*5), "-l")
	settle := time.NewTimer(2 * time.Second)
	<-settle.C
	var h handovers
	var at []time.Time
	for range times {
		begun := time.Now()
		at = append(at, begun)
		h.returns = append(h.returns, l.handOver(ctx))
		if err := l.WaitReady(ctx); err != nil {
			l.t.Fatal(err)
		}
		settle.Reset(max(0, 4*time.Second-time.Since(begun)))
		<-settle.C
	}
	load.wait()
	ends := load.ended()
	for _, a := range at {
		h.pauses = append(h.pauses, longest(ends, a))
	}
	counted := regexp.MustCompile(`transactions actually processed: (\d+)`).FindStringSubmatch(load.said.String())
	if counted == nil {
		l.t.Fatalf("pgbench says no count: %s", load.said.String())
	}
	processed, err := strconv.Atoi(counted[1])
	l.must(err)
	if rows := l.historyRows(ctx) - before; rows != processed {
		l.t.Errorf("%d transactions were acknowledged, %d rows are there", processed, rows)
	}
	l.t.Logf("%d transactions, none lost; pauses %v; the old primary streams after %v", processed, h.pauses, h.returns)
	slices.Sort(h.pauses)
	slices.Sort(h.returns)
	return h
}

// historyRows are the rows that pgbench has made: one for each transaction.
func (l *switchLab) historyRows(ctx context.Context) (rows int) {
	l.t.Helper()
	conn, err := l.connect(ctx, lab.ApplicationRole, l.Plan().App().Ports.Pool)
	l.must(err)
	defer conn.Close(ctx)
	l.must(conn.QueryRow(ctx, "select count(*) from pgbench_history").Scan(&rows))
	return rows
}

// handOver asks for a switchover, and returns how long it took until the old
// primary streamed from the new one, as that one says.
func (l *switchLab) handOver(ctx context.Context) time.Duration {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	old := l.leader()
	begun := time.Now()
	l.must(l.Change(ctx, old, "/switchover", fmt.Appendf(nil, `{"leader":%q}`, old)))
	config, err := l.ConnConfig(lab.SuperuserRole, l.leader())
	l.must(err)
	conn, err := pgx.ConnectConfig(ctx, config)
	l.must(err)
	defer conn.Close(ctx)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var streams bool
		l.must(conn.QueryRow(ctx, "select exists (select from pg_stat_replication where application_name = $1 and state = 'streaming')", old).Scan(&streams))
		if streams {
			return time.Since(begun)
		}
		select {
		case <-ctx.Done():
			l.t.Fatalf("%s does not stream after a minute", old)
		case <-tick.C:
		}
	}
}

// leader is who holds the leader key in Consul.
func (l *switchLab) leader() string {
	l.t.Helper()
	consul, err := l.ConsulClient(l.Plan().App().Name)
	l.must(err)
	pair, _, err := consul.KV().Get(l.Plan().Prefix+"/"+l.Plan().Cluster+"/leader", nil)
	l.must(err)
	return string(pair.Value)
}

// TestSwitchoverUnderPgbench: no transaction that pgbench was told of is lost, and
// the old primary comes back. How long it takes is the benchmark's matter; here it
// is only bounded, as other things may run beside it.
func TestSwitchoverUnderPgbench(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	l := newSwitchLab(t)
	h := l.underPgbench(3)
	if worst := h.pauses[len(h.pauses)-1]; worst > 10*handoverGoal {
		t.Errorf("no transaction ended for %v", worst)
	}
	if worst := h.returns[len(h.returns)-1]; worst > 10*returnGoal {
		t.Errorf("the old primary streams after %v", worst)
	}
	if t.Failed() {
		l.showLogs()
	}
}

// BenchmarkSwitchoverUnderPgbench plays at least ten switchovers of three members
// under pgbench, and reports how long nobody could write, and how long the old
// primary was away.
func BenchmarkSwitchoverUnderPgbench(b *testing.B) {
	l := newSwitchLab(b)
	h := l.underPgbench(max(b.N, 10))
	for name, times := range map[string][]time.Duration{"pause": h.pauses, "return": h.returns} {
		b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "ms-"+name+"-median")
		b.ReportMetric(float64(times[len(times)-1].Microseconds())/1000, "ms-"+name+"-worst")
	}
	b.ReportMetric(float64(handoverGoal.Milliseconds()), "ms-pause-goal")
	b.ReportMetric(float64(returnGoal.Milliseconds()), "ms-return-goal")
	b.ReportMetric(0, "ns/op")
}
