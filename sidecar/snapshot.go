package sidecar

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Snapshot is the last decision and what it was made from.
type Snapshot struct {
	Observation ha.Observation
	State       ha.State
	Report      ha.Report
	Problem     string // the last error of Consul, for people
	// Behind is since when each replica lacks log that the leader has, by its name;
	// one that lacks nothing, or is not known, is not there.
	Behind map[string]ha.Instant
}

// published is the newest snapshot, and who waits for the next.
type published struct {
	last atomic.Pointer[Snapshot]

	mu      sync.Mutex
	decided chan struct{} // closed with the next decision; guarded by mu
}

// show makes a decision known. Only the loop calls it.
func (p *published) show(snap *Snapshot) {
	p.last.Store(snap)
	p.mu.Lock()
	if p.decided != nil {
		close(p.decided)
		p.decided = nil
	}
	p.mu.Unlock()
}

// next is closed with the next decision.
func (p *published) next() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.decided == nil {
		p.decided = make(chan struct{})
	}
	return p.decided
}

// Snapshot returns the last decision; nil before the first.
func (s *Sidecar) Snapshot() *Snapshot { return s.published.last.Load() }

// Next is closed with the next decision.
func (s *Sidecar) Next() <-chan struct{} { return s.published.next() }

// Await returns the first snapshot, from the present one on, of which done says
// true. It returns the cause of ctx's end.
func (s *Sidecar) Await(ctx context.Context, done func(*Snapshot) bool) (*Snapshot, error) {
	for {
		next := s.published.next() // before the snapshot, so that none is missed
		if snap := s.Snapshot(); snap != nil && done(snap) {
			return snap, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-next:
		}
	}
}
