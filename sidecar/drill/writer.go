package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Writer inserts numbered rows through one route, each in a transaction of its
// own, and remembers which were acknowledged. A row whose outcome is unknown is
// never sent again.
type Writer struct {
	Route   Route
	Run     int64 // tells the rows of this drill from others'
	First   int   // the number of its first worker, so that writers do not share any
	Workers int   // connections; 0: 4
	// Member names the server at an address (host:port); nil: the address.
	Member func(address string) string
	// Primaries and Frontier are told of every acknowledgement; nil: nobody is.
	Primaries *Primaries
	Frontier  *Frontier
	// Traced counts answers by time, for Curve.
	Traced bool
	// Direct says that the route leads to one server, whatever its role: a
	// connection on which it refuses to write is kept. See Direct.
	Direct   bool
	Interval time.Duration // between two writes of a worker; 0: none

	log *ackLog // is told of every acknowledgement; nil: none is kept

	mu sync.Mutex // guards outcomes
	outcomes

	cancel context.CancelFunc
	wait   sync.WaitGroup
}

// routeWorkers is the usual number of connections of a writer.
const routeWorkers = 4

// outcomes is what became of the rows that a writer has sent.
type outcomes struct {
	acked   map[int]*rows // by worker
	sent    map[int]int64 // by worker: the highest number sent
	errors  map[string]int
	pauses  pauses
	steps   steps
	count   int
	changed chan struct{} // closed and replaced at each acknowledgement that someone waits for
	reigns  map[string]time.Time
}

// insert says where and on which timeline the row was written. The timeline is
// the first eight hexadecimal digits of the WAL file's name.
const insert = `INSERT INTO drill.writes (run, worker, seq) VALUES ($1, $2, $3)
 RETURNING coalesce(host(inet_server_addr()), '') || ':' || coalesce(inet_server_port(), 0),
           substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)`

// Start begins to write.
func (w *Writer) Start() {
	ctx, cancel := context.WithCancel(context.Background()) // ended by Stop
	w.cancel = cancel
	w.acked, w.sent = map[int]*rows{}, map[int]int64{}
	w.errors, w.reigns = map[string]int{}, map[string]time.Time{}
	w.changed = make(chan struct{})
	w.pauses.start(time.Now())
	w.steps = steps{from: time.Now()}
	workers := cmp.Or(w.Workers, routeWorkers)
	for i := range workers {
		number := w.First + i
		w.acked[number] = new(rows)
		// Connections that hang do so from the same moment on; different
		// patience spreads the new attempts.
		patience := cmp.Or(w.Route.Patience, statementTimeout) * time.Duration(i+1) / time.Duration(workers)
		w.wait.Go(func() { w.work(ctx, number, patience) })
	}
}

// Stop ends the writing and waits for that. A pause that goes on ends here.
func (w *Writer) Stop() {
	w.mu.Lock()
	w.pauses.stop(time.Now())
	w.mu.Unlock()
	w.cancel()
	w.wait.Wait()
}

// work is one connection: it writes until something fails, and connects again.
func (w *Writer) work(ctx context.Context, worker int, patience time.Duration) {
	h := hand{number: worker, least: patience, pace: w.Route.pace()}
	for ctx.Err() == nil {
		err := w.connected(ctx, &h)
		if ctx.Err() != nil {
			return
		}
		w.failed(err)
		sleep(ctx, h.before())
	}
}

// hand is one worker: its number, what it gives a write at least, the last row that it sent.
type hand struct {
	pace
	number int
	least  time.Duration
	seq    int64
}

// connected is the life of one connection. It returns the error that ended it.
func (w *Writer) connected(ctx context.Context, h *hand) error {
	connecting, cancel := context.WithTimeout(ctx, h.patience(cmp.Or(w.Route.Patience, connectTimeout)))
	defer cancel()
	conn, err := w.Route.Connect(connecting)
	if err != nil {
		return err
	}
	defer closeNow(conn)
	for {
		h.seq++
		w.mu.Lock()
		w.sent[h.number] = h.seq
		w.mu.Unlock()
		ack, err := write(ctx, conn, h.patience(h.least), w.Run, h.number, h.seq)
		switch {
		case err == nil:
			h.answer()
			w.note(h.number, h.seq, ack)
		case w.Direct && !conn.IsClosed() && ctx.Err() == nil:
			h.answer() // a refusal is one
			w.failed(err)
		default:
			return err
		}
		sleep(ctx, w.Interval)
	}
}

func (w *Writer) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errors[kind(err)]++
	if w.Traced {
		w.steps.failed(time.Now())
	}
}

// sleep paces a load, which has no event to wait for.
func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// write inserts one row. Without an error it is acknowledged.
func write(ctx context.Context, conn *pgx.Conn, patience time.Duration, args ...any) (Ack, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var address, timeline string
	a := Ack{Sent: time.Now()}
	if err := conn.QueryRow(ctx, insert, args...).Scan(&address, &timeline); err != nil {
		return Ack{}, err
	}
	a.Acked, a.Member = time.Now(), address
	if _, err := fmt.Sscanf(timeline, "%X", &a.Timeline); err != nil {
		return Ack{}, fmt.Errorf("read timeline %q: %w", timeline, err)
	}
	return a, nil
}

// closeNow ends a connection without waiting for the other side.
func closeNow(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_ = conn.Close(ctx) // it is given up either way
}

func (w *Writer) note(worker int, seq int64, a Ack) {
	if w.Member != nil {
		a.Member = w.Member(a.Member)
	}
	if w.Primaries != nil {
		w.Primaries.Add(a)
	}
	if w.Frontier != nil {
		w.Frontier.advance(frontierRow{worker: worker, seq: seq, acked: a.Acked})
	}
	if w.log != nil {
		w.log.add(worker, seq, a)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked[worker].add(seq)
	if !w.pauses.stopped.IsZero() {
		return // remembered as acknowledged, but the clock has stopped
	}
	w.count++
	w.pauses.answer(a.Acked)
	if w.Traced {
		w.steps.acked(a.Acked, a.Acked.Sub(a.Sent))
	}
	reign := reignName(a.Member, a.Timeline)
	if _, known := w.reigns[reign]; !known {
		w.reigns[reign] = a.Acked
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

func reignName(member string, timeline uint32) string { return fmt.Sprintf("%s/%d", member, timeline) }

// firstOf returns when the first row that the reign took was acknowledged on
// this route; zero: none was.
func (w *Writer) firstOf(reign Reign) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reigns[reignName(reign.Member, reign.Timeline)]
}

// Acked returns how many rows were acknowledged until now.
func (w *Writer) Acked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// WaitAcked waits until rows sent after this call began, n of them, were
// acknowledged.
func (w *Writer) WaitAcked(ctx context.Context, n int) error {
	want := w.Acked() + n
	return w.waitFor(ctx, func() bool { return w.count >= want })
}

// WaitChange waits until a server other than the one of these reigns (as
// Reigned returned them), or the same on another timeline, has acknowledged a
// row.
func (w *Writer) WaitChange(ctx context.Context, before int) error {
	return w.waitFor(ctx, func() bool { return len(w.reigns) > before })
}

// Reigned returns how many different pairs of server and timeline have
// acknowledged rows on this route.
func (w *Writer) Reigned() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.reigns)
}

func (w *Writer) waitFor(ctx context.Context, done func() bool) error {
	for {
		w.mu.Lock()
		ok, changed := done(), w.changed
		w.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for writes by %s: %w", w.Route.Name, context.Cause(ctx))
		case <-changed:
		}
	}
}

// Longest returns the longest pause that ended after from, and not after to. The
// zero to is no limit, and then a pause that still goes on counts too.
func (w *Writer) Longest(from, to time.Time) Pause {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pauses.longest(from, to)
}

// pausesAfter returns the pauses that have ended after a moment.
func (w *Writer) pausesAfter(after time.Time) []Pause {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []Pause
	for _, p := range w.pauses.all {
		if p.To.After(after) {
			found = append(found, p)
		}
	}
	return found
}

// Curve returns how the writing went between two moments; it has no points
// unless the writer was Traced.
func (w *Writer) Curve(from, to time.Time) Curve {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.steps.curve(from, to)
}

// Errors returns how many errors the application saw, by kind.
func (w *Writer) Errors() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := make(map[string]int, len(w.errors))
	for k, n := range w.errors {
		m[k] = n
	}
	return m
}

// kind names an error as an operator would: PostgreSQL's condition code, or
// what the network did.
func kind(err error) string {
	var pg *pgconn.PgError
	var timeout net.Error
	switch {
	case errors.As(err, &pg):
		return pg.Code + " " + pg.Message
	case errors.Is(err, errNoAddress):
		return errNoAddress.Error()
	case errors.Is(err, errNoWriter):
		return errNoWriter.Error()
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(err.Error(), "conn closed"): // pgx has no sentinel for it
		return "connection closed"
	}
	return "other: " + err.Error()
}

// rows is a set of row numbers, kept as ranges: they are nearly consecutive, so
// a long drill needs little memory.
type rows struct{ ranges []span }

// span is the numbers from first to last, both included.
type span struct{ first, last int64 }

// add adds a number that is higher than all before.
func (r *rows) add(n int64) {
	if k := len(r.ranges); k > 0 && r.ranges[k-1].last == n-1 {
		r.ranges[k-1].last = n
		return
	}
	r.ranges = append(r.ranges, span{n, n})
}

// count returns how many numbers the set has.
func (r *rows) count() (n int64) {
	for _, s := range r.ranges {
		n += s.last - s.first + 1
	}
	return n
}
