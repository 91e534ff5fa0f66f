package guard

// GuardPID is the pid of the guard the client is connected to, or 0.
func (c *Client) GuardPID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return 0
	}
	return c.link.guard.Pid
}
