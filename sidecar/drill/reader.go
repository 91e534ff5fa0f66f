package drill

import (
	"cmp"
	"context"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Frontier is the newest acknowledged row of a drill, no matter who wrote it and by
// which route. The zero value is ready.
type Frontier struct {
	mu     sync.Mutex
	newest frontierRow
}

type frontierRow struct {
	worker int
	seq    int64
	acked  time.Time // zero: there is none yet
}

func (f *Frontier) advance(row frontierRow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if row.acked.After(f.newest.acked) {
		f.newest = row
	}
}

func (f *Frontier) row() frontierRow {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.newest
}

// Reader reads, again and again through one route, the newest row that was
// acknowledged before the read began. A read that does not find it is stale. On
// a route to replicas that is allowed, and how far they were behind is measured;
// on a route to the primary a server answered that is not the primary any more.
type Reader struct {
	Route    Route
	Run      int64
	Frontier *Frontier
	Interval time.Duration // between two reads; 0: 10 ms

	mu     sync.Mutex
	pauses pauses
	reads  int
	stale  int
	behind time.Duration
	errors map[string]int

	cancel context.CancelFunc
	done   chan struct{}
}

// missedFor is how long a reader asks for a row that it missed. What is longer
// away may be lost, and then is Verify's matter.
const missedFor = 2 * time.Second

// Start begins to read.
func (r *Reader) Start() {
	ctx, cancel := context.WithCancel(context.Background()) // ended by Stop
	r.cancel, r.done = cancel, make(chan struct{})
	r.errors = map[string]int{}
	r.pauses.start(time.Now())
	go func() {
		defer close(r.done)
		p := r.Route.pace()
		for ctx.Err() == nil {
			err := r.connected(ctx, &p)
			if ctx.Err() != nil {
				return
			}
			r.mu.Lock()
			r.errors[kind(err)]++
			r.mu.Unlock()
			sleep(ctx, max(p.before(), cmp.Or(r.Interval, readInterval)))
		}
	}()
}

const readInterval = 10 * time.Millisecond

// Stop ends the reading and waits for that.
func (r *Reader) Stop() {
	r.mu.Lock()
	r.pauses.stop(time.Now())
	r.mu.Unlock()
	r.cancel()
	<-r.done
}

// connected is the life of one connection, which is kept as a pool keeps it. It
// returns the error that ended it.
func (r *Reader) connected(ctx context.Context, p *pace) error {
	connecting, cancel := context.WithTimeout(ctx, p.patience(cmp.Or(r.Route.Patience, connectTimeout)))
	defer cancel()
	conn, err := r.Route.Connect(connecting)
	if err != nil {
		return err
	}
	defer closeNow(conn)
	var missed frontierRow
	for {
		row := missed
		if row.acked.IsZero() || time.Since(row.acked) > missedFor {
			row = r.Frontier.row()
		}
		reading, cancel := context.WithTimeout(ctx, p.patience(cmp.Or(r.Route.Patience, statementTimeout)))
		found, err := r.read(reading, conn, row)
		cancel()
		if err != nil {
			return err
		}
		p.answer()
		missed = frontierRow{}
		if !found {
			missed = row
		}
		sleep(ctx, cmp.Or(r.Interval, readInterval))
	}
}

// read asks for a row, and counts the answer. Without a row yet, it asks for one
// that cannot be, and finds it.
func (r *Reader) read(ctx context.Context, conn *pgx.Conn, row frontierRow) (found bool, err error) {
	sent := time.Now()
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM drill.writes WHERE run = $1 AND worker = $2 AND seq = $3)",
		r.Run, row.worker, row.seq).Scan(&found)
	if err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pauses.answer(time.Now())
	r.reads++
	if found || row.acked.IsZero() {
		return true, nil
	}
	r.stale++
	r.behind = max(r.behind, sent.Sub(row.acked))
	return false, nil
}

// ReadReport is what an application saw that read through one route.
type ReadReport struct {
	Name    string `json:"name"`
	Replica bool   `json:"replica"` // the route leads to replicas, which may be behind
	Reads   int    `json:"reads"`
	// Stale reads did not find a row that was acknowledged before they were
	// sent. BehindMs is how long ago that had been, at most.
	Stale    int            `json:"stale"`
	BehindMs float64        `json:"behind_ms"`
	PauseMs  float64        `json:"pause_ms"` // longest time without an answer, from the fault on
	Errors   map[string]int `json:"errors"`
}

// Report returns what was read, with the longest pause since a moment.
func (r *Reader) Report(since time.Time) ReadReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ReadReport{Name: r.Route.Name, Replica: r.Route.Replica, Reads: r.reads, Stale: r.stale, BehindMs: ms(r.behind),
		PauseMs: ms(r.pauses.longest(since, time.Time{}).Length()), Errors: maps.Clone(r.errors)}
}
