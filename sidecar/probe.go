package sidecar

import (
	"context"
	"errors"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// hungTime is how long writes may take too long before the disk counts as hung: a
// slow server is not a dead one.
const hungTime = 10 * time.Second

// probe writes, and notes in v how that went.
func (s *Sidecar) probe(ctx context.Context, v *ha.Server) {
	err := s.opts.Server.Probe(ctx)
	now := s.opts.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch occupied := errors.Is(err, ErrOccupied); {
	case !occupied:
		s.occupiedAt = 0
	case s.occupiedAt == 0:
		s.occupiedAt = now
	}
	if s.occupiedAt != 0 && now.Sub(s.occupiedAt) < hungTime {
		return // nothing was learnt, and nothing is wrong yet
	}
	s.opts.Recorder.Check("write", err)
	if err == nil {
		if s.unwritableAt != 0 && v.Writable == ha.No {
			s.log.Info("the server takes writes again")
		}
		s.unwritableAt = 0
		v.Writable, v.FaultyAt, v.WriteProblem = ha.Yes, 0, ""
		return
	}
	if s.unwritableAt == 0 {
		s.unwritableAt = now
		if s.occupiedAt != 0 {
			s.unwritableAt = s.occupiedAt // what is under way may itself wait for the disk
		}
		s.log.Error("the server takes no writes", "error", err)
	}
	hung := (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrOccupied)) && now.Sub(s.unwritableAt) >= hungTime
	v.Writable, v.FaultyAt, v.WriteProblem = ha.No, 0, err.Error()
	if hung || errors.Is(err, ErrMachine) {
		v.FaultyAt = s.unwritableAt
	}
}
