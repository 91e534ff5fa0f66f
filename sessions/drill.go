package sessions

import (
	"context"
	"fmt"

	"github.com/hashicorp/consul/api"
)

// PutLastDrill keeps what the last drill showed, in place of the one before.
func (c *Client) PutLastDrill(ctx context.Context, json []byte) error {
	pair := &api.KVPair{Key: c.keys + "drill/last", Value: json}
	err := c.do(ctx, request{need: c.needKeys("write"), timeout: commitTimeout, run: func(ctx context.Context, consul *api.Client) error {
		_, err := consul.KV().Put(pair, (&api.WriteOptions{}).WithContext(ctx))
		return err
	}})
	if err != nil {
		return fmt.Errorf("keep the last drill: %w", err)
	}
	return nil
}

// LastDrill returns what PutLastDrill, or a drill in a lab, has kept; nil: no
// drill has been done.
func (c *Client) LastDrill(ctx context.Context) ([]byte, error) {
	var pair *api.KVPair
	err := c.do(ctx, request{need: c.needKeys("read"), run: func(ctx context.Context, consul *api.Client) (err error) {
		pair, _, err = consul.KV().Get(c.keys+"drill/last", (&api.QueryOptions{}).WithContext(ctx))
		return err
	}})
	if err != nil {
		return nil, fmt.Errorf("read the last drill: %w", err)
	}
	if pair == nil {
		return nil, nil
	}
	return pair.Value, nil
}
