package drill

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// Heartbeat is a light writer through HAProxy and a DNS poller, for a live view
// of a lab.
type Heartbeat struct {
	r    *rehearsal
	w    *Writer
	last int
	at   time.Time
}

// NewHeartbeat makes the drill's table, begins to write, and returns when the
// first writes are acknowledged: then it is known who is primary. The cluster must
// be whole. Of two sites, the writer is a client at neither, which knows the members of both.
func NewHeartbeat(ctx context.Context, l *lab.Lab) (*Heartbeat, error) {
	r := &rehearsal{primaries: new(Primaries), run: rand.Int64(), Options: Options{Lab: l, Routes: []string{"haproxy"}, Workers: 1,
		Deadline: time.Minute, Progress: func(string) {}}}
	if l.Other() != nil {
		r.Routes = []string{fromWitness}
	}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	h := &Heartbeat{r: r, w: r.routes[0], at: time.Now()}
	h.w.Interval, h.w.Traced = 5*time.Millisecond, false
	r.direct, r.readers = nil, nil // one writer is enough to look at
	r.dns.Interval = 50 * time.Millisecond
	if err := r.dns.Start(); err != nil {
		return nil, err
	}
	h.w.Start()
	ctx, cancel := context.WithTimeout(ctx, r.Deadline)
	defer cancel()
	if err := h.w.WaitAcked(ctx, 10); err != nil {
		h.Stop()
		return nil, fmt.Errorf("%w (errors: %s)", err, inWords(h.w.Errors()))
	}
	return h, nil
}

// Stop ends it.
func (h *Heartbeat) Stop() { h.r.stop() }

// Primary returns the member that acknowledged the last first write.
func (h *Heartbeat) Primary() string {
	reigns := h.r.primaries.Reigns()
	if len(reigns) == 0 {
		return ""
	}
	return reigns[len(reigns)-1].Member
}

// Beat is how the writing went since the last one.
type Beat struct {
	Writes   int // acknowledged, a second
	Primary  string
	Timeline uint32
	// Pauses are those that have ended since the moment asked for.
	Pauses []Pause
}

// Beat returns how the writing went since the last call, and the pauses that
// ended after a moment.
func (h *Heartbeat) Beat(after time.Time) Beat {
	n, now := h.w.Acked(), time.Now()
	b := Beat{Writes: int(float64(n-h.last)/now.Sub(h.at).Seconds() + 0.5), Pauses: h.w.pausesAfter(after)}
	h.last, h.at = n, now
	if reigns := h.r.primaries.Reigns(); len(reigns) > 0 {
		last := reigns[len(reigns)-1]
		b.Primary, b.Timeline = last.Member, last.Timeline
	}
	return b
}

// DropTable drops the table that is written to, and returns the server's time just before.
func (h *Heartbeat) DropTable(ctx context.Context) (before time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.r.Deadline)
	defer cancel()
	conn, err := h.r.primary(ctx)
	if err != nil {
		return before, err
	}
	defer closeNow(conn)
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&before); err != nil {
		return before, fmt.Errorf("ask for the time: %w", err)
	}
	if _, err := conn.Exec(ctx, "DROP TABLE drill.writes"); err != nil {
		return before, fmt.Errorf("drop the table: %w", err)
	}
	return before, nil
}

// DNS returns what Consul's DNS says now.
func (h *Heartbeat) DNS() string {
	answers := h.r.dns.Answers()
	for i := len(answers) - 1; i >= 0; i-- {
		if answers[i].Type == "SRV" {
			if len(answers[i].Addresses) == 0 {
				return "nobody"
			}
			return strings.Join(h.r.names(answers[i].Addresses), " and ")
		}
	}
	return "no answer yet"
}

// names writes addresses with the names of their members.
func (r *rehearsal) names(addresses []string) []string {
	var all []string
	for _, a := range addresses {
		for _, m := range r.members() {
			if m.PostgresAddress() == a {
				a = m.Name + " (" + a + ")"
			}
		}
		all = append(all, a)
	}
	return all
}
