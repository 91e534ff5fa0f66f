package sidecar

import (
	"context"
	"errors"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// hungTime is how long writes may take too long before the disk counts as hung for
// certain: a slow server is not a dead one.
const hungTime = 10 * time.Second

// busyBytes is what a server writes between two looks, at least, that is asked with each
// whether it still takes writes: somebody waits for them. A probe writes less, also the first
// after a checkpoint, with a page of 8 kB.
const busyBytes = 16 << 10

// busy reports whether the server has written much since the look before.
func busy(before, now ha.Position) bool {
	return now.TLI == before.TLI && now.LSN >= before.LSN+busyBytes
}

// attempt is one write probe.
type attempt struct {
	err     error
	at, end ha.Instant
	stood   time.Duration // of the time between, in which this process did not run
}

// probe writes, and notes in p how that went.
func (s *Sidecar) probe(ctx context.Context, p *ha.Probes) {
	a := attempt{at: s.opts.Now()}
	stood := watchStandstill(s.opts.Now)
	a.err = s.opts.Server.Probe(ctx)
	a.end, a.stood = s.opts.Now(), stood()
	made, news := s.facts.takeProbe(p, a)
	if made {
		s.opts.Recorder.Check("write", a.err)
	}
	switch {
	case news && a.err == nil:
		s.log.Info("the server takes writes again")
	case news:
		s.log.Error("the server takes no writes", "error", a.err)
	}
}

// takeProbe notes in p what came of a write probe. It reports whether it says
// anything (one that could not be made does not, for a while), and whether that
// is news.
func (f *facts) takeProbe(p *ha.Probes, a attempt) (made, news bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch occupied := errors.Is(a.err, ErrOccupied); {
	case !occupied:
		f.occupiedAt = 0
	case f.occupiedAt == 0:
		f.occupiedAt = a.end
	}
	if f.occupiedAt != 0 && a.end.Sub(f.occupiedAt) < hungTime {
		return false, false // nothing was learnt, and nothing is wrong yet
	}
	if a.err == nil {
		news = f.unwritableAt != 0 && p.Writable == ha.No
		f.wrote.Add(a.end.Sub(a.at)+f.unwritten, a.end) // those before may have waited for the same
		f.unwritableAt, f.unwritten = 0, 0
		p.Writable, p.FaultyAt, p.WritesHang, p.WriteProblem = ha.Yes, 0, false, ""
		return true, news
	}
	if f.unwritableAt == 0 {
		news = true
		f.unwritableAt = a.end
		if f.occupiedAt != 0 {
			f.unwritableAt = f.occupiedAt // what is under way may itself wait for the disk
		}
	}
	late := errors.Is(a.err, context.DeadlineExceeded)
	if late {
		f.unwritten += a.end.Sub(a.at) - a.stood
	}
	hung := (late || errors.Is(a.err, ErrOccupied)) && a.end.Sub(f.unwritableAt) >= hungTime
	p.Writable, p.FaultyAt, p.WriteProblem = ha.No, 0, a.err.Error()
	p.WritesHang = hung || late && f.hangAfter > 0 && f.unwritten >= max(2*f.hangAfter, usualAnswers*f.wrote.At(a.end))
	if hung || errors.Is(a.err, ErrMachine) {
		p.FaultyAt = f.unwritableAt
	}
	return true, news
}
