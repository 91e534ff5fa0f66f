package guard

import (
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"golang.org/x/sys/unix"
)

// GuardPID is the pid of the guard the client is connected to, or 0.
func (c *Client) GuardPID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return 0
	}
	return c.link.guard.Pid
}

// SetSentinels makes the process a guard that has nothing but its sentinels.
func SetSentinels(killAt ha.Instant) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	s, err := newSentinels()
	if err != nil {
		return err
	}
	return s.set(killAt)
}

// MoveLog does what is done to the log of a running server when it is too long.
func MoveLog(c Command) error {
	l, err := openServerLog(c)
	if err != nil {
		return err
	}
	defer l.file.Close()
	return l.moveContent()
}
