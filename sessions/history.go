package sessions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/consul/api"
)

// historyKept is how many accounts of terms stay in Consul, and how many changes
// of the settings beside them: some hundred KiB at most.
const historyKept = 200

// PutHistory writes what happened in a term, replacing what was written for it
// before. Keys sort by term; the oldest beyond historyKept go.
func (c *Client) PutHistory(ctx context.Context, term uint64, json []byte) error {
	pair := &api.KVPair{Key: fmt.Sprintf("%shistory/%020d", c.keys, term), Value: json}
	err := c.do(ctx, request{need: c.needKeys("write"), timeout: commitTimeout, run: func(ctx context.Context, consul *api.Client) error {
		_, err := consul.KV().Put(pair, (&api.WriteOptions{}).WithContext(ctx))
		return err
	}})
	if err != nil {
		return fmt.Errorf("write history of term %d: %w", term, err)
	}
	return c.prune(ctx, c.keys+"history/")
}

// prune removes the oldest keys of a folder, those beyond historyKept.
func (c *Client) prune(ctx context.Context, folder string) error {
	var keys []string
	err := c.do(ctx, request{need: c.needKeys("read"), run: func(ctx context.Context, consul *api.Client) (err error) {
		keys, _, err = consul.KV().Keys(folder, "", (&api.QueryOptions{}).WithContext(ctx))
		return err
	}})
	if err != nil {
		return fmt.Errorf("look for old history: %w", err)
	}
	slices.Sort(keys)
	for _, key := range keys[:max(len(keys)-historyKept, 0)] {
		err := c.do(ctx, request{need: c.needKeys("write"), run: func(ctx context.Context, consul *api.Client) error {
			_, err := consul.KV().Delete(key, (&api.WriteOptions{}).WithContext(ctx))
			return err
		}})
		if err != nil {
			return fmt.Errorf("remove old history: %w", err)
		}
	}
	return nil
}

// History returns what PutHistory wrote for the last terms, the newest first.
// A limit of zero or less asks for all.
func (c *Client) History(ctx context.Context, limit int) ([][]byte, error) {
	return c.newest(ctx, "history/", limit)
}

// newest returns the values of a folder's last keys.
func (c *Client) newest(ctx context.Context, folder string, limit int) ([][]byte, error) {
	var pairs api.KVPairs
	err := c.do(ctx, request{need: c.needKeys("read"), run: func(ctx context.Context, consul *api.Client) (err error) {
		pairs, _, err = consul.KV().List(c.keys+folder, (&api.QueryOptions{}).WithContext(ctx))
		return err
	}})
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	var values [][]byte
	for _, pair := range slices.Backward(pairs) {
		if limit > 0 && len(values) == limit {
			break
		}
		values = append(values, pair.Value)
	}
	return values, nil
}

// PutChange writes who changed the settings, and what; at is in nanoseconds since
// 1970 and sorts the changes. The oldest beyond historyKept go.
func (c *Client) PutChange(ctx context.Context, at int64, json []byte) error {
	pair := &api.KVPair{Key: fmt.Sprintf("%schanges/%020d", c.keys, at), Value: json}
	err := c.do(ctx, request{need: c.needKeys("write"), timeout: commitTimeout, run: func(ctx context.Context, consul *api.Client) error {
		_, err := consul.KV().Put(pair, (&api.WriteOptions{}).WithContext(ctx))
		return err
	}})
	if err != nil {
		return fmt.Errorf("write the change of the settings into the history: %w", err)
	}
	return c.prune(ctx, c.keys+"changes/")
}

// Changes returns what PutChange wrote, the newest first. A limit of zero or
// less asks for all.
func (c *Client) Changes(ctx context.Context, limit int) ([][]byte, error) {
	return c.newest(ctx, "changes/", limit)
}

// PutSettings replaces the config key if its index still is the one given
// (View.SettingsIndex; zero: if there is none), and puts it into the view. It
// returns ErrConflict if someone else was faster, ErrUnknownOutcome,
// ErrUnreachable and ErrPermission.
func (c *Client) PutSettings(ctx context.Context, json []byte, index uint64) error {
	key, need := c.keys+"config", c.needKeys("write")
	ops := api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: key, Value: json, Index: index}},
		{KV: &api.KVTxnOp{Verb: api.KVGet, Key: key}},
	}
	err := c.do(ctx, request{need: need, timeout: commitTimeout, once: true, run: func(ctx context.Context, consul *api.Client) error {
		ok, resp, _, err := consul.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return err
		}
		if !ok {
			return refused(resp.Errors, need)
		}
		if len(resp.Results) != len(ops) {
			return denied(c.needKeys("read"), "the key was left out of the answer")
		}
		c.setSettings(json, resp.Results[len(ops)-1].KV.ModifyIndex, false)
		return nil
	}})
	if errors.Is(err, ErrConflict) || errors.Is(err, ErrUnknownOutcome) {
		err = c.settledSettings(ctx, json, err)
	}
	if err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// settledSettings reads the config key after a write without a clear outcome,
// and returns nil if it is as written.
func (c *Client) settledSettings(ctx context.Context, json []byte, failure error) error {
	var pair *api.KVPair
	err := c.do(ctx, request{need: c.needKeys("read"), run: func(ctx context.Context, consul *api.Client) (err error) {
		pair, _, err = consul.KV().Get(c.keys+"config", (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
		return err
	}})
	switch {
	case err != nil:
		return fmt.Errorf("%w; read again: %w", failure, err)
	case pair == nil:
		return failure
	}
	c.setSettings(pair.Value, pair.ModifyIndex, false)
	if bytes.Equal(pair.Value, json) {
		return nil
	}
	return failure
}
