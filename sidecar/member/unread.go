package member

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar"
)

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
