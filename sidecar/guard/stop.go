package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// Stop stops the server, fast (SIGINT) or immediate (SIGQUIT, and SIGKILL after
// a second), and returns when no process of it is left. When ctx ends first the
// shutdown goes on as it was; a second Stop may make it immediate. It returns
// nil at once when there is no server. A guard that does not answer at all when an
// immediate stop is due is killed, which ends the server: then it returns ErrLost.
func (c *Client) Stop(ctx context.Context, immediate bool) error {
	if !immediate {
		return c.call(ctx, request{Op: opStop})
	}
	ended := make(chan error, 1)
	go func() { ended <- c.call(ctx, request{Op: opStop, Immediate: true}) }()
	patience := time.NewTimer(2 * immediateTimeout)
	defer patience.Stop()
	select {
	case err := <-ended:
		return err
	case <-patience.C:
	}
	// A process of the server's may be held in the kernel: the guard says so then.
	ask, cancel := context.WithTimeout(ctx, immediateTimeout)
	defer cancel()
	if err := c.call(ask, request{Op: opStatus}); errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		c.options.Logger.Error("the guard does not answer, and is killed; its server ends with it")
		if err := c.Kill(); err != nil {
			return err
		}
	}
	return <-ended
}

// Kill ends the guard with SIGKILL, and the server with it: the way out when
// the guard does not answer. The client then starts another, which sweeps.
func (c *Client) Kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return ErrLost
	}
	if err := c.link.guard.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill guard: %w", err)
	}
	return nil
}
