package sidecar

import (
	"sync"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// configuration is what this member is configured to do: its own configuration
// file, and the cluster's settings over it.
type configuration struct {
	mu     sync.Mutex // guards what follows
	own    ha.Policy  // of the configuration file
	policy ha.Policy  // own, with the cluster's settings of the last decision over it
	// server are the cluster's settings that the server took up last; current is
	// false before it did, and after the configuration file has changed.
	server  settings.Settings
	current bool

	// refused is the maintenance's own: it has said that the settings cannot be
	// taken up.
	refused bool
}

// SetPolicy replaces the member's own part of the policy (a reload).
func (s *Sidecar) SetPolicy(p ha.Policy) {
	s.configuration.reload(p)
	s.registration.renew() // it tells tags
	s.notify()
}

// Reannounce has the registration made again: something of it that the cluster tells, and
// this package does not know of, has changed.
func (s *Sidecar) Reannounce() {
	s.registration.renew()
	s.notify()
}

func (c *configuration) reload(own ha.Policy) {
	c.mu.Lock()
	c.own, c.current = own, false
	c.mu.Unlock()
}

// overlay takes over the cluster's settings, and returns the policy with them.
func (c *configuration) overlay(set settings.Settings, o Options) ha.Policy {
	c.mu.Lock()
	defer c.mu.Unlock()
	o.Policy = c.own
	c.policy = o.EffectivePolicy(set, time.Now())
	return c.policy
}

// now is the policy of the last decision.
func (c *configuration) now() ha.Policy {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.policy
}

// has reports whether the server has these settings, as the configuration file is
// now.
func (c *configuration) has(set settings.Settings) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current && set.SameServer(c.server)
}

// stale has the settings taken up again.
func (c *configuration) stale() {
	c.mu.Lock()
	c.current = false
	c.mu.Unlock()
}

// begin notes that the server takes up settings now. A configuration file that is
// read again meanwhile is taken up after them.
func (c *configuration) begin() {
	c.mu.Lock()
	c.current = true
	c.mu.Unlock()
}

func (c *configuration) took(set settings.Settings) {
	c.mu.Lock()
	c.server = set
	c.mu.Unlock()
}
