package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
)

var (
	// ErrHeld: another member holds the key. The text says which, and since when.
	ErrHeld = errors.New("another member is at it")
	// errLost is the cause of the end of a context of Alone.
	errLost = errors.New("the Consul session of this work has ended")
)

// aloneTTL is how soon after a member's death another may begin its work, at the
// earliest; Consul takes up to twice that.
const aloneTTL = 15 * time.Second

// Alone runs f while this member holds a key of the cluster, by a session of its own
// that has nothing to do with the leader's lock. It returns ErrHeld if another member
// has it. f's context ends when the session does, which nobody then renews: f must end
// soon after. value is for anyone who reads the key (Held). The key goes with the session.
func (c *Client) Alone(ctx context.Context, name string, value []byte, f func(ctx context.Context) error) error {
	id, err := c.ownSession(ctx, name)
	if err != nil {
		return err
	}
	defer func() {
		// Without ctx's end, or the key would stay for as long as the session lives.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
		defer cancel()
		if err := c.endSession(end, id); err != nil {
			c.log.Warn("a session stays until its TTL has passed", "session", id, "error", err)
		}
	}()
	pair := &api.KVPair{Key: c.keys + name, Value: value, Session: id}
	held := false
	err = c.do(ctx, request{need: c.needKeys("write"), timeout: commitTimeout, run: func(ctx context.Context, consul *api.Client) (err error) {
		held, _, err = consul.KV().Acquire(pair, (&api.WriteOptions{}).WithContext(ctx))
		return err
	}})
	if err != nil {
		return fmt.Errorf("take %s: %w", name, err)
	}
	if !held {
		now, err := c.Held(ctx, name)
		return errors.Join(fmt.Errorf("%w: %s", ErrHeld, now), err)
	}
	work, cancel := context.WithCancelCause(ctx)
	renewing := make(chan struct{})
	go func() { // ends with work
		defer close(renewing)
		c.keepOwn(work, id, cancel)
	}()
	err = f(work)
	cancel(nil)
	<-renewing
	return err
}

// keepOwn renews a session until ctx ends, or calls lost when it has not been renewed
// for its TTL.
func (c *Client) keepOwn(ctx context.Context, id string, lost context.CancelCauseFunc) {
	renewed := time.Now()
	for {
		pause(ctx, aloneTTL/3, nil)
		if ctx.Err() != nil {
			return
		}
		alive := false
		err := c.do(ctx, request{need: needSession, run: func(ctx context.Context, consul *api.Client) error {
			entry, _, err := consul.Session().Renew(id, (&api.WriteOptions{}).WithContext(ctx))
			alive = entry != nil
			return err
		}})
		switch {
		case err == nil && alive:
			renewed = time.Now()
		case err == nil, time.Since(renewed) > aloneTTL:
			lost(errLost)
			return
		}
	}
}

func (c *Client) ownSession(ctx context.Context, name string) (id string, err error) {
	err = c.do(ctx, request{need: needSession, run: func(ctx context.Context, consul *api.Client) (err error) {
		id, _, err = consul.Session().CreateNoChecks(&api.SessionEntry{
			Name: "pgsidecar " + c.opts.Cluster + "/" + c.opts.Member + " " + name, TTL: aloneTTL.String(),
			LockDelay: lockDelay, Behavior: api.SessionBehaviorDelete,
		}, (&api.WriteOptions{}).WithContext(ctx))
		return err
	}})
	if err != nil {
		return "", fmt.Errorf("create session: %w", err)
	}
	return id, nil
}

func (c *Client) endSession(ctx context.Context, id string) error {
	return c.do(ctx, request{need: needSession, run: func(ctx context.Context, consul *api.Client) error {
		_, err := consul.Session().Destroy(id, (&api.WriteOptions{}).WithContext(ctx))
		return err
	}})
}

// Held returns the value of a key that Alone took; nil: nobody holds it.
func (c *Client) Held(ctx context.Context, name string) ([]byte, error) {
	value, err := c.Get(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("read who holds %s: %w", name, err)
	}
	return value, nil
}

// Get reads a key of the cluster; nil: it is not there.
func (c *Client) Get(ctx context.Context, name string) ([]byte, error) {
	var pair *api.KVPair
	err := c.do(ctx, request{need: c.needKeys("read"), run: func(ctx context.Context, consul *api.Client) (err error) {
		pair, _, err = consul.KV().Get(c.keys+name, (&api.QueryOptions{}).WithContext(ctx))
		return err
	}})
	if err != nil || pair == nil {
		return nil, err
	}
	return pair.Value, nil
}

// Put writes a key of the cluster that nobody compares.
func (c *Client) Put(ctx context.Context, name string, value []byte) error {
	pair := &api.KVPair{Key: c.keys + name, Value: value}
	err := c.do(ctx, request{need: c.needKeys("write"), timeout: commitTimeout, run: func(ctx context.Context, consul *api.Client) error {
		_, err := consul.KV().Put(pair, (&api.WriteOptions{}).WithContext(ctx))
		return err
	}})
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
