package sessions

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// lockDelay is the smallest that Consul keeps: the Go client drops a zero, and
// the agent then puts 15 s. It is no safety rule here (sidecar/ha's leases
// are), and would only delay a failover.
const lockDelay = time.Millisecond

const needSession = `session_prefix "" { policy = "write" }`

// renewals is how often a session is renewed within its TTL. Consul ends it one to two
// TTLs after the last renewal that it has answered, so that one that fails is made up
// for in time.
const renewals = 2

// keepSession creates the session and renews it twice within its TTL; when
// it has ended it creates the next at once. Renewals are no Raft writes.
func (c *Client) keepSession(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		id, err := c.renew(ctx)
		c.fault(areaSession, err)
		switch {
		case id != "":
			failures = 0
			c.live(ctx, id)
		case err != nil:
			failures++
			pause(ctx, backoff(failures), nil)
		default: // released
			pause(ctx, c.opts.TTL, c.renewNow)
		}
	}
}

// live renews one session until it has ended, and owns the query that waits
// for that.
func (c *Client) live(ctx context.Context, id string) {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() { c.follow(ctx, c.sessionWatch(id)) })

	failures := 0
	for ctx.Err() == nil {
		if failures > 0 {
			pause(ctx, backoff(failures), nil)
		} else {
			pause(ctx, c.opts.TTL/renewals, c.renewNow)
		}
		current, err := c.renew(ctx)
		c.fault(areaSession, err)
		if current != id {
			return
		}
		failures++
		if err == nil {
			failures = 0
		}
	}
}

// renew renews the session, or creates one if there is none, and returns its
// id. After ReleaseSession it does nothing.
func (c *Client) renew(ctx context.Context) (string, error) {
	c.mu.Lock()
	id, released := c.view.Consul.Session, c.released
	c.mu.Unlock()
	if released {
		return "", nil
	}
	if id != "" {
		alive := false
		err := c.do(ctx, request{need: needSession, run: func(ctx context.Context, consul *api.Client) error {
			entry, _, err := consul.Session().Renew(id, (&api.WriteOptions{}).WithContext(ctx))
			alive = entry != nil
			return err
		}})
		if err != nil {
			return id, fmt.Errorf("renew session: %w", err)
		}
		if alive {
			return id, nil
		}
		c.log.Warn("session has ended", "session", id)
		c.forget(id)
	}
	return c.createSession(ctx)
}

// createSession makes a session that lives by its TTL alone: with Consul's
// default check, serfHealth, a flap of the gossip would depose a primary.
// When it ends the leader key keeps its value, so that those who only read the
// name do not see it go while its holder takes the lock again.
// If the answer is lost a session is left behind that holds nothing.
func (c *Client) createSession(ctx context.Context) (string, error) {
	id := ""
	err := c.do(ctx, request{need: needSession, run: func(ctx context.Context, consul *api.Client) (err error) {
		id, _, err = consul.Session().CreateNoChecks(&api.SessionEntry{
			Name:      "pgsidecar " + c.opts.Cluster + "/" + c.opts.Member,
			TTL:       c.opts.TTL.String(),
			LockDelay: lockDelay,
			Behavior:  api.SessionBehaviorRelease,
		}, (&api.WriteOptions{}).WithContext(ctx))
		return err
	}})
	if err != nil {
		return "", fmt.Errorf("create session: %w", err)
	}
	c.log.Info("session created", "session", id)
	c.update(func() { c.view.Consul.Session = id })
	kick(c.confirmNow)
	return id, nil
}

// forget drops a session that has ended.
func (c *Client) forget(id string) {
	c.update(func() {
		if c.view.Consul.Session == id {
			c.view.Consul.Session = ""
		}
	})
	kick(c.renewNow)
}

// ReleaseSession ends the session, and with it the lock if it is still held.
// No other is created after it: it is for a clean stop, when the server is
// down. An ended session is no error.
func (c *Client) ReleaseSession(ctx context.Context) error {
	c.mu.Lock()
	id := c.view.Consul.Session
	c.released = true
	c.mu.Unlock()
	if id == "" {
		return nil
	}
	err := c.do(ctx, request{need: needSession, run: func(ctx context.Context, consul *api.Client) error {
		_, err := consul.Session().Destroy(id, (&api.WriteOptions{}).WithContext(ctx))
		return err
	}})
	if err != nil {
		return fmt.Errorf("destroy session: %w", err)
	}
	c.forget(id)
	return nil
}

// sessionWatch wakes keepSession at the moment the session ends.
func (c *Client) sessionWatch(id string) watch {
	return watch{
		area: areaSession,
		need: `session_prefix "" { policy = "read" }`,
		wait: longWait,
		query: func(ctx context.Context, consul *api.Client, q *api.QueryOptions) (uint64, func(bool), error) {
			entry, meta, err := consul.Session().Info(id, q.WithContext(ctx))
			if err != nil {
				return 0, nil, err
			}
			return meta.LastIndex, func(bool) {
				if entry == nil {
					kick(c.renewNow)
				}
			}, nil
		},
	}
}

// leaseConfirm is how often a holder reads the lock that its lease lives on: several
// times within the shortest sensible lease.
const leaseConfirm = time.Second

// keepConfirming reads record and lock whenever a watch woke it, every second
// while the lease lives on that, and after a failure until it succeeds.
func (c *Client) keepConfirming(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		switch {
		case failures > 0:
			pause(ctx, min(backoff(failures), leaseConfirm), c.confirmNow)
		case c.asksForLease():
			pause(ctx, leaseConfirm, c.confirmNow)
		default:
			select {
			case <-ctx.Done():
			case <-c.confirmNow:
			}
		}
		if ctx.Err() != nil {
			return
		}
		c.began(&c.confirmAt, c.opts.Now())
		err := c.Confirm(ctx)
		if err != nil {
			c.began(&c.confirmAt, 0)
		}
		if err != nil && !errors.Is(err, ErrPermission) {
			failures++
		} else if err != nil {
			failures = 6 // a policy is not mended in milliseconds
		} else {
			failures = 0
		}
	}
}

// began notes when a goroutine began what it does again and again.
func (c *Client) began(at *ha.Instant, when ha.Instant) {
	c.mu.Lock()
	*at = when
	c.mu.Unlock()
}
