package sessions

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// reading is the pair of state and leader key as one transaction saw it.
type reading struct {
	sent       ha.Instant // when its request was sent
	before     uint64     // Client.readings at that moment
	raw        []byte     // nil: there is no state key
	stateIndex uint64
	lock       ha.Lock
}

func (c *Client) needKeys(policy string) string {
	return fmt.Sprintf("key_prefix %q { policy = %q }", c.keys, policy)
}

// begin starts a reading: its time counts from before the request is sent.
func (c *Client) begin() *reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &reading{sent: c.opts.Now(), before: c.readings}
}

// bothKeys reads the two keys in one transaction. A key that is not there makes "get"
// fail, and "get-or-empty" is of Consul 1.15; the tree of a key's name is the key, and
// whatever begins with its name, or nothing.
func (c *Client) bothKeys() api.TxnOps {
	return api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVGetTree, Key: c.keys + "state"}},
		{KV: &api.KVTxnOp{Verb: api.KVGetTree, Key: c.keys + "leader"}},
	}
}

// fill takes what bothKeys returned; results also has what was written before.
func (c *Client) fill(r *reading, results api.TxnResults) {
	r.raw, r.stateIndex, r.lock = nil, 0, ha.Lock{}
	for _, result := range results {
		switch pair := result.KV; {
		case pair == nil:
		case pair.Key == c.keys+"state":
			// A write's result has the index and no value; the reading's comes last.
			r.raw, r.stateIndex = pair.Value, pair.ModifyIndex
		case pair.Key == c.keys+"leader":
			r.lock = ha.Lock{Holder: string(pair.Value), Session: pair.Session, Index: pair.ModifyIndex}
		}
	}
}

// readable returns ErrPermission if a key is missing from a reading because the token
// may not read it: a transaction leaves it out without saying so, and no record means
// that a cluster may be founded. A query for one key is refused instead.
func (c *Client) readable(ctx context.Context, r *reading) error {
	for _, key := range []struct {
		name  string
		index uint64
	}{{"state", r.stateIndex}, {"leader", r.lock.Index}} {
		if key.index != 0 {
			continue
		}
		err := c.do(ctx, request{need: c.needKeys("read"), run: func(ctx context.Context, consul *api.Client) error {
			_, meta, err := consul.KV().Get(c.keys+key.name, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
			if err != nil {
				return err
			}
			return indexed(meta.LastIndex, nil)
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// Confirm reads record and lock together and consistently: Consul's leader
// asks a majority of the servers whether it still is the leader before it
// answers. It sets SeenAt, and HeldAt and HeldTerm if Session holds the lock,
// to the time before the request was sent. It returns ErrUnreachable or
// ErrPermission.
func (c *Client) Confirm(ctx context.Context) error {
	_, err := c.confirm(ctx)
	if errors.Is(err, ErrPermission) {
		c.reached(false)
	}
	c.fault(areaCluster, err)
	return err
}

func (c *Client) confirm(ctx context.Context) (*reading, error) {
	var r *reading
	err := c.do(ctx, request{need: c.needKeys("read"), exists: true, run: func(ctx context.Context, consul *api.Client) error {
		r = c.begin()
		q := (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
		ok, resp, _, err := consul.Txn().Txn(c.bothKeys(), q)
		if err != nil {
			return err
		}
		if !ok {
			return refused(resp.Errors, c.needKeys("read"))
		}
		c.fill(r, resp.Results)
		return nil
	}})
	if err == nil {
		err = c.readable(ctx, r)
	}
	if err != nil {
		return nil, fmt.Errorf("read record and lock: %w", err)
	}
	c.accept(r)
	return r, nil
}

// accept puts a reading into the view. Readings are linearizable, so one that
// was requested after the last was accepted is newer, whatever its indexes say
// (keys may be deleted, and Consul be restored from a snapshot). Of two that
// overlap the one with the lower indexes is dropped, and the keys read again.
func (c *Client) accept(r *reading) {
	overlap, dropped, backwards, lost := false, false, false, false
	c.update(func() {
		v := &c.view.Consul
		backwards = r.stateIndex < c.stateIndex
		overlap = r.before != c.readings
		if overlap && (backwards || r.lock.Index < v.Lock.Index) {
			dropped = true
			return
		}
		lost = v.Session != "" && v.Lock.Session == v.Session && r.lock.Session != v.Session
		c.readings++
		if r.stateIndex != c.stateIndex || !bytes.Equal(r.raw, c.raw) {
			c.take(r)
		}
		v.Lock = r.lock
		v.SeenAt = max(v.SeenAt, r.sent)
		if v.Session != "" && r.lock.Session == v.Session && r.sent >= v.HeldAt {
			v.HeldAt, v.HeldTerm = r.sent, v.Record.Term
		}
	})
	if overlap {
		kick(c.confirmNow)
	}
	if backwards && !dropped {
		c.log.Warn("cluster record went backwards: deleted, or Consul was restored", "index", r.stateIndex)
	}
	if lost {
		kick(c.renewNow) // the session may have ended
	}
}

// hear takes a record that is newer than the one in the view out of a blocking query,
// for a client that follows: its HAProxy is to be told without a second round trip, for
// which Consul's leader would ask a majority. What a server answers was committed, and
// of one key the higher index is the later value; so it may be late, as what is in the
// view may be, and never takes a newer one's place. No lease and no decision comes of
// it: SeenAt and the lock stay as they were read. A reading that is under way and has
// an older record is dropped (accept).
func (c *Client) hear(pair *api.KVPair) {
	news := func() bool {
		return c.follows && c.view.Consul.SeenAt != 0 && pair.ModifyIndex > c.stateIndex
	}
	c.mu.Lock()
	wanted := news()
	c.mu.Unlock()
	if !wanted {
		return
	}
	r := &reading{raw: pair.Value, stateIndex: pair.ModifyIndex}
	c.update(func() {
		if !news() {
			return // a consistent reading was faster
		}
		c.readings++
		c.take(r)
	})
}

// take puts the state key into the view. The caller holds c.mu.
func (c *Client) take(r *reading) {
	v := &c.view.Consul
	v.Record, v.Broken = parse(r)
	v.BrokenIndex, v.Newer = 0, false
	if v.Broken != "" {
		v.BrokenIndex, v.Newer = r.stateIndex, newer(r.raw)
	}
	c.stateIndex, c.raw = r.stateIndex, r.raw
}

// newer reports whether a newer program wrote the state key: its record may not parse
// as this one's at all.
func newer(raw []byte) bool { return version(raw) > ha.RecordVersion }

func version(raw []byte) int {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return 0
	}
	return head.Version
}

// parse reads the state key. Of a record that may not be acted on it returns
// only what is wrong with it.
func parse(r *reading) (ha.Record, string) {
	if r.stateIndex == 0 {
		return ha.Record{}, ""
	}
	if newer(r.raw) {
		return ha.Record{}, (ha.Record{Version: version(r.raw)}).Validate().Error()
	}
	var record ha.Record
	if err := json.Unmarshal(r.raw, &record); err != nil {
		return ha.Record{}, fmt.Sprintf("%s: it is not a record in JSON: %s", ha.ErrRecord, err)
	}
	if err := record.Validate(); err != nil {
		return ha.Record{}, err.Error()
	}
	record.Index = r.stateIndex
	return record, ""
}

// commitTimeout is how long one address may take to commit: Consul's servers
// sync a disk for it.
const commitTimeout = 2 * time.Second

// delayAttempts bounds how often a lock is requested within a lock delay.
const delayAttempts = 5

// Commit applies a change in one transaction. When it returns nil the change
// is in Consul and in the view. When it returns ErrConflict, ErrNoSession or
// ErrUnknownOutcome record and lock have been read again, unless the error
// says that this failed too. It also returns ErrPermission, ErrUnreachable
// (nothing was sent), ha.ErrRecord for a record that others would refuse, and
// ErrOtherCluster instead of founding a cluster under another's service name.
//
// A change whose answer was lost is a success if what it wanted is what Consul
// then has: only one member may write a record that names it as leader, and it
// commits one change at a time.
func (c *Client) Commit(ctx context.Context, change ha.Change) error {
	value, ops, err := c.operations(change)
	if err != nil {
		return fmt.Errorf("prepare %s: %w", change.What, err)
	}
	if err := c.mayFound(ctx, change); err != nil {
		return fmt.Errorf("commit %s: %w", change.What, err)
	}
	for attempt := 1; ; attempt++ {
		err = c.commit(ctx, ops)
		if !errors.Is(err, errLockDelay) || attempt == delayAttempts {
			break
		}
		pause(ctx, 2*lockDelay, nil)
	}
	if errors.Is(err, ErrConflict) || errors.Is(err, ErrNoSession) || errors.Is(err, ErrUnknownOutcome) {
		r, again := c.confirm(ctx)
		switch {
		case again != nil:
			err = fmt.Errorf("%w; %w", err, again)
		case bytes.Equal(r.raw, value) && done(change, r.lock):
			err = nil
		}
	}
	if errors.Is(err, ErrNoSession) {
		kick(c.renewNow)
	}
	if err != nil && !errors.Is(err, ErrConflict) {
		kick(c.confirmNow) // and again until it succeeds
	}
	if errors.Is(err, ErrPermission) {
		c.reached(false)
	}
	if err != nil {
		err = fmt.Errorf("commit %s: %w", change.What, err)
	}
	if err == nil || !errors.Is(err, ErrConflict) {
		c.fault(areaCluster, err)
	}
	return err
}

// done reports whether the lock is as the change wanted it.
func done(change ha.Change, lock ha.Lock) bool {
	switch change.Lock {
	case ha.LockTake:
		return lock.Session == change.Session && lock.Holder == change.Holder
	case ha.LockRelease:
		return lock.Session == ""
	default:
		return lock.Session == change.Session
	}
}

// operations writes a change as Consul's transaction, and returns the new
// value of the state key too. The state's compare-and-swap comes first, the
// two keys as they then are come last.
func (c *Client) operations(change ha.Change) ([]byte, api.TxnOps, error) {
	if change.Session == "" {
		return nil, nil, ErrNoSession
	}
	if err := change.Record.Validate(); err != nil {
		return nil, nil, err
	}
	value, err := encode(change.Record, c.rawAt(change.Record.Index))
	if err != nil {
		return nil, nil, err
	}
	leader := c.keys + "leader"
	// Index 0 asks that the key does not exist.
	ops := api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: c.keys + "state", Value: value, Index: change.Record.Index}}}
	lock := &api.KVTxnOp{Key: leader, Session: change.Session}
	switch change.Lock {
	case ha.LockTake:
		prior := change.Prior
		if prior.Index != 0 && prior.Session != "" && prior.Session != change.Session {
			ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVDeleteCAS, Key: leader, Index: prior.Index}})
		}
		lock.Verb, lock.Value = api.KVLock, []byte(change.Holder)
	case ha.LockRelease:
		lock.Verb, lock.Value = api.KVUnlock, []byte(change.Holder)
	case ha.LockKeep:
		lock.Verb = api.KVCheckSession
	}
	ops = append(ops, &api.TxnOp{KV: lock})
	return value, append(ops, c.bothKeys()...), nil
}

// rawAt returns the state key as it was at an index; nil: that is not what is known.
func (c *Client) rawAt(index uint64) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stateIndex != index {
		return nil
	}
	return c.raw
}

// commit sends the transaction once. What it read at its end goes into the
// view.
func (c *Client) commit(ctx context.Context, ops api.TxnOps) error {
	need := c.needKeys("write")
	var r *reading
	err := c.do(ctx, request{need: need, timeout: commitTimeout, once: true, exists: true, run: func(ctx context.Context, consul *api.Client) error {
		r = c.begin()
		ok, resp, _, err := consul.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return err
		}
		if !ok {
			return refused(resp.Errors, need)
		}
		// What was written is read at the end: an answer without it says nothing.
		if c.fill(r, resp.Results); r.stateIndex == 0 || r.raw == nil || r.lock.Index == 0 {
			return denied(need, "the keys were left out of the answer")
		}
		return nil
	}})
	if err == nil {
		c.accept(r)
	}
	return err
}

// refused explains a transaction that Consul answered and did not apply. Its
// reasons are text only (agent/consul/state/txn.go and kvs.go).
func refused(reasons api.TxnErrors, need string) error {
	var texts []string
	for _, reason := range reasons {
		texts = append(texts, reason.What)
	}
	text := strings.Join(texts, "; ")
	switch {
	case strings.Contains(text, "Permission denied"), strings.Contains(text, "ACL not found"):
		return denied(need, text)
	case strings.Contains(text, "invalid session"):
		return fmt.Errorf("%w: %s", ErrNoSession, text)
	case strings.Contains(text, "lock delay"):
		return fmt.Errorf("%w: %s", errLockDelay, text)
	}
	return fmt.Errorf("%w: %s", ErrConflict, text)
}
