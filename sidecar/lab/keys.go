package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Keys names a part of what the cluster keeps in Consul.
type Keys string

// The parts.
const (
	AllKeys  Keys = ""       // everything, its settings and history too
	StateKey Keys = "state"  // the record
	LockKey  Keys = "leader" // the leader lock
)

// DeleteKeys deletes keys of the cluster in Consul, as a person does by mistake.
func (l *Lab) DeleteKeys(ctx context.Context, which Keys) error {
	client, err := l.ConsulClient(l.plan.App().Name)
	if err != nil {
		return err
	}
	write := new(api.WriteOptions).WithContext(ctx)
	path := l.plan.Prefix + "/" + l.plan.Cluster + "/" + string(which)
	if which == AllKeys {
		_, err = client.KV().DeleteTree(path, write)
	} else {
		_, err = client.KV().Delete(path, write)
	}
	if err != nil {
		return fmt.Errorf("delete %s in Consul: %w", path, err)
	}
	return nil
}

// SaveConsul returns a snapshot of all that Consul holds.
func (l *Lab) SaveConsul(ctx context.Context) ([]byte, error) {
	client, err := l.ConsulClient(l.plan.App().Name)
	if err != nil {
		return nil, err
	}
	snapshot, _, err := client.Snapshot().Save(new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("save a snapshot of Consul: %w", err)
	}
	defer snapshot.Close() // only read
	b, err := io.ReadAll(snapshot)
	if err != nil {
		return nil, fmt.Errorf("save a snapshot of Consul: %w", err)
	}
	return b, nil
}

// RestoreConsul puts Consul back to a snapshot.
func (l *Lab) RestoreConsul(ctx context.Context, snapshot []byte) error {
	client, err := l.ConsulClient(l.plan.App().Name)
	if err != nil {
		return err
	}
	if err := client.Snapshot().Restore(new(api.WriteOptions).WithContext(ctx), bytes.NewReader(snapshot)); err != nil {
		return fmt.Errorf("put Consul back to a snapshot: %w", err)
	}
	return nil
}

// Record returns the cluster's record as Consul has it; the zero one: there is none.
func (l *Lab) Record(ctx context.Context) (ha.Record, error) {
	return l.WaitRecord(ctx, func(ha.Record) bool { return true })
}

// WaitRecord returns the first record in Consul that is as wanted.
func (l *Lab) WaitRecord(ctx context.Context, wanted func(ha.Record) bool) (ha.Record, error) {
	client, err := l.ConsulClient(l.plan.App().Name)
	if err != nil {
		return ha.Record{}, err
	}
	var index uint64
	for {
		q := (&api.QueryOptions{WaitIndex: index, WaitTime: time.Minute}).WithContext(ctx)
		pair, meta, err := client.KV().Get(l.plan.Prefix+"/"+l.plan.Cluster+"/"+string(StateKey), q)
		if err != nil {
			if again := askAgain(ctx, err); again != nil {
				return ha.Record{}, fmt.Errorf("wait for the cluster's record: %w", again)
			}
			index = 0
			continue
		}
		var r ha.Record
		if pair != nil {
			if err := json.Unmarshal(pair.Value, &r); err != nil {
				return ha.Record{}, fmt.Errorf("read the cluster's record: %w", err)
			}
		}
		if wanted(r) {
			return r, nil
		}
		index = meta.LastIndex
	}
}
