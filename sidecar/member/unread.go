package member

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
)

// startingAsk is how often a server is asked that is starting by what postmaster.pid says: a
// full disk can keep the file from being written.
const startingAsk = 500 * time.Millisecond

// starting is a server that has said in postmaster.pid that it is starting.
type starting struct {
	pid     int
	askedAt time.Time // by a connection, or first known of
}

// refuses reports whether the server would only refuse a connection, by what its file says now.
// Each costs it a process, when it has most to do, and its log a line.
func (s *starting) refuses(file postgres.PIDFile, now time.Time) bool {
	switch {
	case !file.Starting:
		return false
	case s.pid != file.PID:
		*s = starting{file.PID, now}
	case now.Sub(s.askedAt) >= startingAsk:
		s.askedAt = now
		return false
	}
	return true
}

// refuses reports whether the server is starting, and is not to be asked now.
func (s *localServer) refuses() bool {
	file, err := s.files.PIDFile()
	s.mu.Lock()
	defer s.mu.Unlock()
	return err == nil && s.starting.refuses(file, time.Now())
}

// unread says what kind of failure it is that a look got no answer: a server that is
// starting, and perhaps starved, or one that is up and cannot be logged in to.
func (s *localServer) unread(err error) error {
	switch why := checks.Refusal(err); {
	case checks.Full(err):
		return fmt.Errorf("%w: %s", sidecar.ErrFull, why)
	case why != "":
		return fmt.Errorf("%w: %s", sidecar.ErrRefused, why)
	case errors.Is(err, checks.ErrNotReady) && s.files.Starved():
		return fmt.Errorf("%w: %w", sidecar.ErrStarved, err)
	case errors.Is(err, checks.ErrNotReady):
		return fmt.Errorf("%w: %w", sidecar.ErrNotReady, err)
	case !errors.Is(err, checks.ErrStopped):
		return err
	}
	lock, reading := s.files.PIDFile()
	if reading != nil || !lock.Ready {
		return fmt.Errorf("%w: %w", sidecar.ErrNotReady, err)
	}
	return fmt.Errorf("%w: postmaster.pid says that process %d is ready, with socket directory %s and port %d; nobody answers in %s at port %d: %w",
		sidecar.ErrSocket, lock.PID, cmp.Or(lock.Socket, "none"), lock.Port, s.files.SocketDir(), s.files.Port(), err)
}
