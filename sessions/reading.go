package sessions

import (
	"context"
	"sync"
)

// Follow is Run for those who are no member, such as a proxy: it keeps the view
// until ctx is done, makes no session and registers nothing. A new record is in the
// view as soon as a blocking query brings it, before it is confirmed. Its token needs
// only to read: the cluster's keys, the service, and the nodes.
func (c *Client) Follow(ctx context.Context, notify func()) error {
	c.mu.Lock()
	c.notify, c.follows = notify, true
	c.mu.Unlock()
	kick(c.confirmNow)

	var all sync.WaitGroup
	all.Go(func() { c.keepConfirming(ctx) })
	all.Go(func() { c.returnHome(ctx) })
	for _, w := range c.watches() {
		all.Go(func() { c.follow(ctx, w) })
	}
	all.Wait()

	c.mu.Lock()
	c.notify = nil
	c.mu.Unlock()
	return nil
}
