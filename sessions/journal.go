package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
)

// outagesKept is how long a month of outages stays in Consul.
const outagesKept = 3 * 366 * 24 * time.Hour

// journalTries is how often a journal is changed again that another member has changed
// meanwhile. Each time somebody has been faster, and has done what it wanted.
const journalTries = 20

// PutOutages changes the journal of one month, such as "2026-11", by what change makes
// of it; there may be none yet. Months that are too old go. It returns ErrConflict if
// others were faster each time, ErrUnreachable, ErrPermission, and what change does.
func (c *Client) PutOutages(ctx context.Context, month string, change func(journal []byte) ([]byte, error)) error {
	key := c.keys + "outages/" + month
	var err error
	for range journalTries {
		if err = c.changeKey(ctx, key, change); !errors.Is(err, ErrConflict) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("write outages of %s: %w", month, err)
	}
	return c.pruneOutages(ctx)
}

// changeKey reads a key and replaces it, if nobody else has meanwhile.
func (c *Client) changeKey(ctx context.Context, key string, change func([]byte) ([]byte, error)) error {
	pair, err := c.get(ctx, key)
	if err != nil {
		return err
	}
	next := &api.KVPair{Key: key}
	var before []byte
	if pair != nil {
		before, next.ModifyIndex = pair.Value, pair.ModifyIndex
	}
	if next.Value, err = change(before); err != nil {
		return err
	}
	return c.do(ctx, request{need: c.needKeys("write"), timeout: commitTimeout, run: func(ctx context.Context, consul *api.Client) error {
		done, _, err := consul.KV().CAS(next, (&api.WriteOptions{}).WithContext(ctx))
		if err == nil && !done {
			err = ErrConflict
		}
		return err
	}})
}

// get reads a key consistently; nil: there is none.
func (c *Client) get(ctx context.Context, key string) (pair *api.KVPair, err error) {
	err = c.do(ctx, request{need: c.needKeys("read"), run: func(ctx context.Context, consul *api.Client) (err error) {
		pair, _, err = consul.KV().Get(key, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
		return err
	}})
	return pair, err
}

func (c *Client) pruneOutages(ctx context.Context) error {
	oldest := c.keys + "outages/" + time.Now().Add(-outagesKept).UTC().Format("2006-01")
	var keys []string
	err := c.do(ctx, request{need: c.needKeys("read"), run: func(ctx context.Context, consul *api.Client) (err error) {
		keys, _, err = consul.KV().Keys(c.keys+"outages/", "", (&api.QueryOptions{}).WithContext(ctx))
		return err
	}})
	for _, key := range keys {
		if err != nil || key >= oldest {
			break
		}
		err = c.do(ctx, request{need: c.needKeys("write"), run: func(ctx context.Context, consul *api.Client) error {
			_, err := consul.KV().Delete(key, (&api.WriteOptions{}).WithContext(ctx))
			return err
		}})
	}
	if err != nil {
		return fmt.Errorf("remove old outages: %w", err)
	}
	return nil
}

// Outages returns the journals of all months, the newest first.
func (c *Client) Outages(ctx context.Context) ([][]byte, error) {
	journals, err := c.newest(ctx, "outages/", 0)
	if err != nil {
		return nil, fmt.Errorf("read outages: %w", err)
	}
	return journals, nil
}
