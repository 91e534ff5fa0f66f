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

// NewHeartbeat makes the drill's table and begins to write. The cluster must be
// whole.
func NewHeartbeat(ctx context.Context, l *lab.Lab) (*Heartbeat, error) {
	r := &rehearsal{primaries: new(Primaries), run: rand.Int64(), Options: Options{Lab: l, Routes: []string{"haproxy"}, Workers: 1,
		Deadline: time.Minute, Progress: func(string) {}}}
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

// String says how the writing goes: the rate since the last call, and the
// longest pause in the last minute.
func (h *Heartbeat) String() string {
	n, now := h.w.Acked(), time.Now()
	rate := float64(n-h.last) / now.Sub(h.at).Seconds()
	h.last, h.at = n, now
	return fmt.Sprintf("%.0f writes/s on %s, longest pause in the last minute %d ms", rate, h.Primary(),
		h.w.Longest(now.Add(-time.Minute), time.Time{}).Length().Milliseconds())
}

// DNS returns what Consul's DNS says now.
func (h *Heartbeat) DNS() string {
	answers := h.r.dns.Answers()
	for i := len(answers) - 1; i >= 0; i-- {
		if answers[i].Type == "SRV" {
			if len(answers[i].Addresses) == 0 {
				return "no primary"
			}
			return "primary is at " + strings.Join(answers[i].Addresses, " and ")
		}
	}
	return "no answer yet"
}
