package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"sync"
	"time"
)

// Stored are the settings as Consul has them.
type Stored struct {
	Raw   []byte // JSON; nil: there are none
	Index uint64 // of Consul's key: it grows with each change
	Settings
	// Err is what is wrong with them, ErrSettings: somebody has written the key by
	// hand, or a newer version knows more. Settings are what is right of them, or,
	// where nothing can be read, what was last right.
	Err error
	// Unread: nothing of them could be read, now or before; Settings are empty, and
	// nobody knows what they ought to be.
	Unread bool
	// CopiedAt: they are the member's own copy, as Consul has not answered with them since
	// it was started, and they were known to hold then. Zero: they are Consul's.
	CopiedAt time.Time
}

// Reader reads stored settings, once for each change. Its zero value is ready.
type Reader struct {
	// Wrong is called with each change that something is wrong with; nil: nobody
	// wants to know.
	Wrong func(error)

	mu   sync.Mutex
	last Stored
}

// Read returns what is stored under the index. It parses only what differs from
// what it was last given.
func (r *Reader) Read(raw []byte, index uint64) Stored {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !bytes.Equal(raw, r.last.Raw) {
		before := r.last
		r.last = Stored{Raw: bytes.Clone(raw)}
		if r.last.Settings, r.last.Err = Parse(raw); r.last.Err != nil {
			r.last.Settings, r.last.Unread = salvage(raw, before)
			if r.Wrong != nil {
				r.Wrong(r.last.Err)
			}
		}
	}
	r.last.Index = index
	return r.last
}

// salvage returns what is right of settings with which something is wrong.
func salvage(raw []byte, before Stored) (set Settings, unread bool) {
	var kind *json.UnmarshalTypeError
	if err := json.Unmarshal(raw, &set); err != nil && !errors.As(err, &kind) {
		return before.Settings, before.Raw == nil || before.Unread // it is no JSON, or a time is none
	}
	if set.Durability.check() != nil {
		set.Durability = before.Durability
	}
	if set.Failover.check() != nil {
		set.Failover = before.Failover
	}
	if set.Objective.check() != nil {
		set.Objective = before.Objective
	}
	maps.DeleteFunc(set.Tags, func(member string, t TagSettings) bool { return t.check(member) != nil })
	maps.DeleteFunc(set.Slots, func(name string, s Slot) bool { return s.check(name) != nil })
	return set, false
}
