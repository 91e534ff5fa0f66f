package sidecar

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Settings are the cluster-wide dynamic settings, kept as JSON in Consul. What
// is absent is as the member's own configuration says.
type Settings struct {
	Version    int                 `json:"version,omitempty"`
	Paused     *Pause              `json:"paused,omitempty"`
	Durability *DurabilitySettings `json:"durability,omitempty"`
	Failover   *FailoverSettings   `json:"failover,omitempty"`
	Parameters map[string]string   `json:"parameters,omitempty"`
	// HBA and Ident, if there are any, go before those of the configuration file.
	HBA   []string `json:"hba,omitempty"`
	Ident []string `json:"ident,omitempty"`
	// Slots are replication slots for other programs, by their names. They are on
	// every member, so that they survive a change of leader.
	Slots map[string]Slot `json:"slots,omitempty"`
	// FailoverSlots lets PostgreSQL 17 and later copy logical slots that were made
	// with failover = true to the standbys.
	FailoverSlots bool `json:"failover_slots,omitempty"`
	// Tags are members' peculiarities, by the member's name, over those of its
	// configuration file.
	Tags map[string]TagSettings `json:"tags,omitempty"`
	// Switchover is planned for a time; the leader does it then.
	Switchover *PlannedSwitchover `json:"switchover,omitempty"`
}

// Slot is a permanent replication slot. There are only physical ones: a logical
// slot that is made anew after a failover would leave out, unnoticed, what came
// between; see FailoverSlots.
type Slot struct {
	Type string `json:"type"` // physical
}

// TagSettings are one member's tags; nil: as its configuration file says.
type TagSettings struct {
	NoFailover    *bool   `json:"nofailover,omitempty"`
	Priority      *int    `json:"priority,omitempty"`
	NoSync        *bool   `json:"nosync,omitempty"`
	NoLoadBalance *bool   `json:"noloadbalance,omitempty"`
	CloneFrom     *bool   `json:"clonefrom,omitempty"`
	ReplicateFrom *string `json:"replicatefrom,omitempty"`
}

// PlannedSwitchover is a switchover at a time.
type PlannedSwitchover struct {
	At   time.Time `json:"at"`
	From string    `json:"from,omitempty"`
	To   string    `json:"to,omitempty"` // empty: the best
}

// ErrSettings is returned for dynamic settings that must not be stored.
var ErrSettings = errors.New("wrong settings")

// ParseSettings reads settings and checks them. It returns ErrSettings, with
// what is wrong: an unknown key too.
func ParseSettings(raw []byte) (Settings, error) {
	var set Settings
	if len(bytes.TrimSpace(raw)) == 0 {
		return set, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&set); err != nil {
		return set, fmt.Errorf("%w: %w", ErrSettings, err)
	}
	return set, set.check()
}

func (set Settings) check() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrSettings}, args...)...)
	}
	if d := set.Durability; d != nil {
		switch {
		case d.Mode != "" && d.Mode != ha.ModeQuorum && d.Mode != ha.ModeAsync:
			return fail("durability.mode %q: it is quorum or async", d.Mode)
		case d.Standbys != nil && (*d.Standbys < 1 || *d.Standbys > 16):
			return fail("durability.standbys %d: it is from 1 to 16", *d.Standbys)
		case d.MaxVoters != nil && *d.MaxVoters < 0:
			return fail("durability.max_voters %d: it is 0 or more", *d.MaxVoters)
		case d.MaxVoters != nil && *d.MaxVoters > 0 && d.Standbys != nil && *d.MaxVoters < *d.Standbys:
			return fail("durability.max_voters %d: it cannot be less than standbys (%d)", *d.MaxVoters, *d.Standbys)
		}
	}
	if f := set.Failover; f != nil {
		if d, err := time.ParseDuration(f.FailureTimeout); f.FailureTimeout != "" && (err != nil || d < 100*time.Millisecond) {
			return fail("failover.failure_timeout %q: it is a duration like \"2s\", of 100ms or more", f.FailureTimeout)
		}
	}
	for member, tags := range set.Tags {
		if from := tags.ReplicateFrom; from != nil && *from == member {
			return fail("tags.%s.replicatefrom: a member cannot follow itself", member)
		}
	}
	return set.checkSlots()
}

// slotName is what PostgreSQL allows (documentation, 27.2.6.1).
var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

func (set Settings) checkSlots() error {
	for name, slot := range set.Slots {
		fail := func(why string) error { return fmt.Errorf("%w: slots.%s: %s", ErrSettings, name, why) }
		switch {
		case !slotName.MatchString(name):
			return fail("a slot's name has lower-case letters, digits and underscores, at most 63")
		case strings.HasPrefix(name, "pgsidecar_"):
			return fail("names that begin with pgsidecar_ are the members' own")
		case slot.Type == "logical":
			return fail("a logical slot is not made here: one that is made anew after a failover would leave out, unnoticed, what came " +
				"between. With PostgreSQL 17 or later set failover_slots=true, and let its consumer make it with failover = true")
		case slot.Type != "physical":
			return fail("its type is physical")
		}
	}
	return nil
}

// sameServer reports whether both ask the same of PostgreSQL.
func (set Settings) sameServer(other Settings) bool {
	return maps.Equal(set.Parameters, other.Parameters) && slices.Equal(set.HBA, other.HBA) &&
		slices.Equal(set.Ident, other.Ident) && maps.Equal(set.Slots, other.Slots) && set.FailoverSlots == other.FailoverSlots
}

// Pause is maintenance: nothing is decided about roles until it ends by itself.
type Pause struct {
	Until   time.Time `json:"until,omitzero"` // zero: until it is resumed
	Members []string  `json:"members,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

// DurabilitySettings override the durability block.
type DurabilitySettings struct {
	Mode      ha.Mode `json:"mode,omitempty"`
	Standbys  *int    `json:"standbys,omitempty"`
	Strict    *bool   `json:"strict,omitempty"`
	MaxVoters *int    `json:"max_voters,omitempty"`
}

// FailoverSettings override the failover block. Durations are in Go's notation.
type FailoverSettings struct {
	Automatic *bool `json:"automatic,omitempty"`
	// FailureTimeout may be at most half the lease. The lease itself is not
	// here: others wait for its end, so it must not change while they run.
	FailureTimeout string `json:"failure_timeout,omitempty"`
}

// overlay puts the dynamic settings over the member's own policy. Settings that
// cannot be read change nothing.
func overlay(p ha.Policy, raw []byte, member string, log hclog.Logger) ha.Policy {
	if len(raw) == 0 {
		return p
	}
	var set Settings
	if err := json.Unmarshal(raw, &set); err != nil {
		log.Debug("the dynamic settings cannot be read; the configuration file's hold", "error", err)
		return p
	}
	return set.Apply(p, member, time.Now())
}

// Apply returns the policy with these settings over it, as they hold for the
// member at the time.
func (set Settings) Apply(p ha.Policy, member string, now time.Time) ha.Policy {
	if pause := set.Paused; pause != nil && (pause.Until.IsZero() || now.Before(pause.Until)) && pause.concerns(member) {
		p.Paused = true
	}
	if d := set.Durability; d != nil {
		if d.Mode == ha.ModeQuorum || d.Mode == ha.ModeAsync {
			p.Mode = d.Mode
		}
		if d.Standbys != nil && *d.Standbys >= 0 {
			p.Standbys = *d.Standbys
		}
		if d.Strict != nil {
			p.Strict = *d.Strict
		}
		if d.MaxVoters != nil && *d.MaxVoters >= 0 {
			p.MaxVoters = *d.MaxVoters
		}
	}
	tags := set.Tags[member]
	p.NoFailover, p.NoSync = orOwn(tags.NoFailover, p.NoFailover), orOwn(tags.NoSync, p.NoSync)
	p.Priority, p.ReplicateFrom = orOwn(tags.Priority, p.Priority), orOwn(tags.ReplicateFrom, p.ReplicateFrom)
	if f := set.Failover; f != nil {
		if f.Automatic != nil {
			p.Automatic = *f.Automatic
		}
		if failure := duration(f.FailureTimeout, p.FailureTimeout); p.Lease >= 2*failure {
			p.FailureTimeout = failure
		}
	}
	return p
}

// orOwn is what the cluster's settings say, or else the member's own.
func orOwn[T any](set *T, own T) T {
	if set != nil {
		return *set
	}
	return own
}

func (p *Pause) concerns(member string) bool {
	for _, m := range p.Members {
		if m == member {
			return true
		}
	}
	return len(p.Members) == 0
}

func duration(text string, otherwise time.Duration) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return otherwise
	}
	return d
}
