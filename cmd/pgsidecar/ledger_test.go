package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// ledger writes rows at a steady pace through HAProxy, each in a transaction of its own
// and with the server's time, and remembers when each was sent and acknowledged. A row
// whose outcome is unknown is not sent again.
type ledger struct {
	*saved
	way    *pgx.ConnConfig
	pace   time.Duration // of each of the workers
	pad    int           // bytes of noise in each row, by 32
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	rows    map[rowID]fate
	last    time.Time // of the last acknowledgement
	longest time.Duration
	errors  int
}

type rowID struct{ worker, seq int }

// fate is what became of a row; a zero acked: it is not known.
type fate struct{ sent, acked time.Time }

// ledgerWorkers are the connections that write.
const ledgerWorkers = 4

// newLedger makes its table, and begins to write so many rows a second.
func newLedger(s *saved, member string, aSecond, pad int) *ledger {
	s.t.Helper()
	password, err := os.ReadFile(s.Plan().PasswordFile(lab.ApplicationRole))
	s.must(err)
	s.sql(s.connect(member), "create role drill login password '"+strings.TrimSpace(string(password))+"'",
		"create table ledger(worker int, seq int, at timestamptz not null, pad text, primary key (worker, seq))", "grant insert on ledger to drill")
	way, err := s.ConnConfig(lab.ApplicationRole, member)
	s.must(err)
	way.Host, way.Port = s.Plan().App().Address, uint16(s.Plan().App().Ports.Primary)
	l := &ledger{saved: s, way: way, pace: time.Second * ledgerWorkers / time.Duration(aSecond), pad: pad / 32, rows: map[rowID]fate{}, last: time.Now()}
	ctx, cancel := context.WithCancel(context.Background()) // ended by stop
	l.cancel = cancel
	s.t.Cleanup(l.stop)
	for worker := range ledgerWorkers {
		l.wait.Go(func() { l.write(ctx, worker) })
	}
	return l
}

// stop ends the writing. It may be called again.
func (l *ledger) stop() {
	l.cancel()
	l.wait.Wait()
}

// write is one worker, over all of its connections.
func (l *ledger) write(ctx context.Context, worker int) {
	tick := time.NewTicker(l.pace)
	defer tick.Stop()
	var conn *pgx.Conn
	for seq := 1; ; {
		select {
		case <-ctx.Done():
			if conn != nil {
				conn.Close(context.Background())
			}
			return
		case <-tick.C:
		}
		bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
		if conn == nil {
			conn, _ = pgx.ConnectConfig(bounded, l.way.Copy()) // nil: the next tick tries again
		}
		if conn != nil {
			if err := l.insert(bounded, conn, rowID{worker, seq}); err != nil {
				conn.Close(bounded)
				conn = nil
			}
			seq++
		}
		cancel()
	}
}

// insert sends one row, and notes what became of it.
func (l *ledger) insert(ctx context.Context, conn *pgx.Conn, id rowID) error {
	f := fate{sent: time.Now()}
	_, err := conn.Exec(ctx, "insert into ledger select $1, $2, clock_timestamp(), string_agg(md5(random()::text), '') from generate_series(1, $3::int)", id.worker, id.seq, l.pad)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		f.acked = time.Now()
		l.longest, l.last = max(l.longest, f.acked.Sub(l.last)), f.acked
	} else {
		l.errors++
	}
	l.rows[id] = f
	return err
}

// acked counts the rows that were acknowledged, and tells of the longest pause between two
// of them, and of the errors that the writers saw.
func (l *ledger) acked() (rows int, longest time.Duration, errors int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.rows {
		if !f.acked.IsZero() {
			rows++
		}
	}
	return rows, l.longest, l.errors
}

// read is the time of each row that a member has.
func (l *ledger) read(member string) map[rowID]time.Time {
	l.t.Helper()
	rows, err := l.connect(member).Query(l.within(time.Minute), "select worker, seq, at from ledger")
	l.must(err)
	found := map[rowID]time.Time{}
	var id rowID
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&id.worker, &id.seq, &at}, func() error {
		found[id] = at
		return nil
	})
	l.must(err)
	return found
}

// compare says what is wrong with the rows of a server that was restored to a moment. Each
// row that was acknowledged before it must be there, none that was sent after it, and none
// that never was; between, while the row was on its way, both are right.
func compare(found map[rowID]time.Time, sent map[rowID]fate, moment time.Time) (wrong []string) {
	missing, early, strange := 0, 0, 0
	for id, f := range sent {
		if _, there := found[id]; !there && !f.acked.IsZero() && f.acked.Before(moment) {
			missing++
		}
	}
	for id, at := range found {
		switch f, known := sent[id]; {
		case !known:
			strange++
		case f.sent.After(moment) || at.After(moment):
			early++
		}
	}
	for what, n := range map[string]int{"acknowledged before it and missing": missing, "sent after it and there": early, "never sent and there": strange} {
		if n > 0 {
			wrong = append(wrong, fmt.Sprintf("rows %s: %d", what, n))
		}
	}
	return slices.Sorted(slices.Values(wrong))
}

// check compares what a member has, restored to a moment, with what was written.
func (l *ledger) check(member string, moment time.Time) {
	l.t.Helper()
	found := l.read(member)
	l.mu.Lock()
	sent := maps.Clone(l.rows)
	l.mu.Unlock()
	var before, onTheWay, inDoubt int
	for _, f := range sent {
		switch {
		case f.sent.After(moment):
		case f.acked.IsZero():
			inDoubt++
		case f.acked.Before(moment):
			before++
		default:
			onTheWay++
		}
	}
	l.t.Logf("restored to %s: %d rows; acknowledged before it: %d, on their way then: %d, sent before it and never answered: %d",
		moment.Format("15:04:05.000000"), len(found), before, onTheWay, inDoubt)
	for _, wrong := range compare(found, sent, moment) {
		l.t.Errorf("restored to %s: %s", moment.Format("15:04:05.000000"), wrong)
	}
}

// TestCompare: what is missing, came later, or never was, is told.
func TestCompare(t *testing.T) {
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	sent := map[rowID]fate{{1, 1}: {at(1), at(2)}, {1, 2}: {at(4), at(6)}, {1, 3}: {at(3), time.Time{}}, {1, 4}: {at(7), at(8)}}
	for _, c := range []struct {
		found map[rowID]time.Time
		wrong int
	}{
		{map[rowID]time.Time{{1, 1}: at(1)}, 0},
		{map[rowID]time.Time{{1, 1}: at(1), {1, 2}: at(4), {1, 3}: at(3)}, 0}, // on their way
		{map[rowID]time.Time{}, 1},
		{map[rowID]time.Time{{1, 1}: at(1), {1, 4}: at(7)}, 1},
		{map[rowID]time.Time{{1, 1}: at(1), {1, 2}: at(6)}, 1}, // its own time says so
		{map[rowID]time.Time{{1, 1}: at(1), {2, 1}: at(1)}, 1},
		{map[rowID]time.Time{{2, 1}: at(1), {1, 4}: at(7)}, 3},
	} {
		if wrong := compare(c.found, sent, at(5)); len(wrong) != c.wrong {
			t.Errorf("%v: %q, want %d", c.found, wrong, c.wrong)
		}
	}
}
