package drill

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"
)

// schema is what a drill needs in the database. The table has no key on
// purpose: a row that appears twice is to be found, not refused. The index is
// for readers, who ask for single rows.
const schema = `
CREATE SCHEMA IF NOT EXISTS drill;
CREATE TABLE IF NOT EXISTS drill.writes (
    run bigint NOT NULL, worker int NOT NULL, seq bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX IF NOT EXISTS writes_by_number ON drill.writes (run, worker, seq);
CREATE TABLE IF NOT EXISTS drill.registers (
    run bigint NOT NULL, key bigint NOT NULL, value bigint NOT NULL, PRIMARY KEY (run, key));
GRANT USAGE ON SCHEMA drill TO %[1]s;
GRANT SELECT, INSERT ON drill.writes TO %[1]s;
GRANT SELECT, INSERT, UPDATE ON drill.registers TO %[1]s;`

// Prepare makes, on the primary and as superuser, the role and the tables that
// the writers use. It may be called again.
func Prepare(ctx context.Context, conn *pgx.Conn, role, password string) error {
	name := pgx.Identifier{role}.Sanitize()
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role).Scan(&exists); err != nil {
		return fmt.Errorf("look for the drill's role: %w", err)
	}
	if !exists {
		// Parameters are not possible here; format() on the server quotes.
		var create string
		err := conn.QueryRow(ctx, "SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)", role, password).Scan(&create)
		if err != nil {
			return fmt.Errorf("make the drill's role: %w", err)
		}
		if _, err := conn.Exec(ctx, create, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("make the drill's role: %w", err)
		}
	}
	if _, err := conn.Exec(ctx, fmt.Sprintf(schema, name), pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("make the drill's table: %w", err)
	}
	return nil
}

// rowBytes is the size of a row of drill.writes: four columns of 8, 4, 8 and 8
// bytes, padded.
const rowBytes = 32

// Verdict is what became of the rows.
type Verdict struct {
	Sent  int64 `json:"sent"`
	Acked int64 `json:"acked"`
	// Unknown rows are there, but their client was never told: allowed.
	Unknown int64 `json:"unknown"`
	// Lost rows were acknowledged and are not there. LostBytes is their size.
	Lost      int64 `json:"lost"`
	LostBytes int64 `json:"lost_bytes"`
	// Twice rows are there more than once; Strange ones were never sent.
	Twice   int64    `json:"twice"`
	Strange int64    `json:"strange"`
	Samples []string `json:"samples,omitempty"` // some of the bad ones, in words

	spans map[int][]span // of the lost ones, by worker
}

// Verify reads back all rows of the writers' run from the primary and compares
// them with what was acknowledged before this call. Rows that a writer sends
// meanwhile, if it goes on, count as of unknown outcome.
func Verify(ctx context.Context, conn *pgx.Conn, writers ...*Writer) (Verdict, error) {
	var v Verdict
	check := map[int]*checker{}
	var run int64
	for _, w := range writers {
		run = w.Run
		w.mu.Lock()
		for worker, acked := range w.acked {
			sent := w.sent[worker]
			if w.pauses.stopped.IsZero() {
				sent = math.MaxInt64
			}
			check[worker] = &checker{worker: worker, acked: slices.Clone(acked.ranges), sent: sent, verdict: &v}
			v.Sent += w.sent[worker]
			v.Acked += acked.count()
		}
		w.mu.Unlock()
	}
	found, err := conn.Query(ctx, "SELECT worker, seq FROM drill.writes WHERE run = $1 ORDER BY worker, seq", run)
	if err != nil {
		return Verdict{}, fmt.Errorf("read the rows back: %w", err)
	}
	defer found.Close()
	for found.Next() {
		var worker int
		var seq int64
		if err := found.Scan(&worker, &seq); err != nil {
			return Verdict{}, fmt.Errorf("read the rows back: %w", err)
		}
		if c := check[worker]; c != nil {
			c.present(seq)
			continue
		}
		v.Strange++
		v.sample("row %d of worker %d, whom nobody knows", seq, worker)
	}
	if err := found.Err(); err != nil {
		return Verdict{}, fmt.Errorf("read the rows back: %w", err)
	}
	for _, c := range check {
		c.end()
	}
	v.LostBytes = v.Lost * rowBytes
	return v, nil
}

func (v *Verdict) sample(format string, args ...any) {
	if len(v.Samples) < 20 {
		v.Samples = append(v.Samples, fmt.Sprintf(format, args...))
	}
}

// checker walks one worker's acknowledged numbers beside the rows that are
// there, both in rising order.
type checker struct {
	worker  int
	acked   []span // what is acknowledged and not seen yet
	sent    int64
	last    int64
	verdict *Verdict
}

func (c *checker) present(seq int64) {
	if seq == c.last {
		c.verdict.Twice++
		c.verdict.sample("row %d of worker %d is there twice", seq, c.worker)
		return
	}
	c.last = seq
	if seq > c.sent {
		c.verdict.Strange++
		c.verdict.sample("row %d of worker %d was never sent", seq, c.worker)
		return
	}
	for len(c.acked) > 0 && c.acked[0].last < seq {
		c.lost(c.acked[0])
		c.acked = c.acked[1:]
	}
	if len(c.acked) == 0 || c.acked[0].first > seq {
		c.verdict.Unknown++
		return
	}
	next := &c.acked[0]
	if next.first < seq {
		c.lost(span{next.first, seq - 1})
	}
	next.first = seq + 1
	if next.first > next.last {
		c.acked = c.acked[1:]
	}
}

func (c *checker) end() {
	for _, s := range c.acked {
		c.lost(s)
	}
}

func (c *checker) lost(s span) {
	c.verdict.Lost += s.last - s.first + 1
	if c.verdict.spans == nil {
		c.verdict.spans = map[int][]span{}
	}
	c.verdict.spans[c.worker] = append(c.verdict.spans[c.worker], s)
	c.verdict.sample("rows %d to %d of worker %d were acknowledged and are lost", s.first, s.last, c.worker)
}
