package sessions

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// Word is which of two sites may take writes, as a third Consul keeps it for them: one key
// for the data that both have.
type Word struct {
	Half int    `json:"half"`           // which of the two sites, as their timelines tell them apart
	Free bool   `json:"free,omitempty"` // it was given back
	Term uint64 `json:"term,omitempty"` // of that site, in which it was renewed or given back last
	// Epoch, Cluster and Member are for people: whose it is, and who renewed it last.
	Epoch   uint64 `json:"epoch"`
	Cluster string `json:"cluster"`
	Member  string `json:"member"`
}

// Witness is a third Consul: a datacenter that this member's own Consul reaches, or the
// address of an agent or a server there.
type Witness struct {
	client     *Client
	at         *address
	datacenter string
	key        string
}

// Witness returns the Consul that has the name, for the data with the system identifier.
// It asks nothing.
func (c *Client) Witness(name, systemID string) (*Witness, error) {
	w := &Witness{client: c, key: c.opts.Prefix + "/sites/" + systemID}
	if !strings.Contains(name, "://") {
		w.datacenter = name
		return w, nil
	}
	o := c.opts
	o.Datacenter = ""
	var err error
	w.at, err = newAddress(name, o, func(next http.RoundTripper) http.RoundTripper {
		return &recorder{next: next, token: c.token, requested: o.Requested}
	})
	if err != nil {
		return nil, fmt.Errorf("set up the witness %q: %w", name, err)
	}
	return w, nil
}

// readWait is how long Read waits for a change.
const readWait = 500 * time.Millisecond

// Read returns the word, and its index for Write; index zero: nobody ever had it. With
// after it waits, not for long, until the index is another one.
func (w *Witness) Read(ctx context.Context, after uint64) (word Word, index uint64, err error) {
	var pair *api.KVPair
	err = w.ask(ctx, "read", func(ctx context.Context, consul *api.Client) error {
		q := &api.QueryOptions{Datacenter: w.datacenter, RequireConsistent: true, WaitIndex: after}
		if after > 0 {
			q.WaitTime = readWait
		}
		pair, _, err = consul.KV().Get(w.key, q.WithContext(ctx))
		return err
	})
	if err != nil || pair == nil {
		return word, 0, err
	}
	if err := json.Unmarshal(pair.Value, &word); err != nil {
		return word, 0, fmt.Errorf("read the key %s of the witness: %w", w.key, err)
	}
	return word, pair.ModifyIndex, nil
}

// Write replaces the word that has the index, and reports whether it had it still. The new
// one has another index, also where it says the same.
func (w *Witness) Write(ctx context.Context, word Word, index uint64) (done bool, err error) {
	// Consul takes the same value for no change and leaves the index as it is: the other site
	// would see a word that nobody renews.
	raw, err := json.Marshal(struct {
		Word
		Replaces uint64 `json:"replaces"` // the index
	}{word, index})
	if err != nil {
		return false, fmt.Errorf("write the word: %w", err)
	}
	err = w.ask(ctx, "write", func(ctx context.Context, consul *api.Client) error {
		q := &api.WriteOptions{Datacenter: w.datacenter}
		done, _, err = consul.KV().CAS(&api.KVPair{Key: w.key, Value: raw, ModifyIndex: index}, q.WithContext(ctx))
		return err
	})
	return done, err
}

func (w *Witness) ask(ctx context.Context, policy string, run func(ctx context.Context, consul *api.Client) error) error {
	a, where := w.at, " at the witness"
	if a == nil {
		_, a, _ = w.client.route.pick()
		where = " in datacenter " + w.datacenter
	}
	return w.client.ask(ctx, a, request{need: fmt.Sprintf("key %q { policy = %q }", w.key, policy) + where, timeout: siteTimeout, run: run})
}
