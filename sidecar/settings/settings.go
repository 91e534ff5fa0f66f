// Package settings has the cluster-wide settings: what may be set, what is
// wrong with a change, and what holds where a member's own configuration says
// something else. They are one JSON object in Consul.
package settings

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

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Settings are the cluster-wide dynamic settings, kept as JSON in Consul. What
// is absent is as the member's own configuration says.
type Settings struct {
	Version    int                 `json:"version,omitempty"`
	Paused     *Pause              `json:"paused,omitempty"`
	Durability *DurabilitySettings `json:"durability,omitempty"`
	Failover   *FailoverSettings   `json:"failover,omitempty"`
	Service    *ServiceSettings    `json:"service,omitempty"`
	Objective  *ObjectiveSettings  `json:"objective,omitempty"`
	// Runbook is the address of the written procedure, for people who are called.
	Runbook string `json:"runbook,omitempty"`
	// StandbyOf is the other site's cluster, if there is one.
	StandbyOf  *Site             `json:"standby_of,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
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
	// Restarts are planned for a time, by the member's name; each member does its own.
	Restarts map[string]PlannedRestart `json:"restarts,omitempty"`
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
	SyncPriority  *int    `json:"sync_priority,omitempty"`
	// Own are other programs' tags (see ownTags).
	Own map[string]string `json:"-"`
}

// PlannedSwitchover is a switchover at a time.
type PlannedSwitchover struct {
	At   time.Time `json:"at"`
	From string    `json:"from,omitempty"`
	To   string    `json:"to,omitempty"` // empty: the best
	// Until is how long it is tried; zero: for a minute. Drain is after how long open
	// transactions are ended, in Go's notation; empty: they are not.
	Until time.Time `json:"until,omitzero"`
	Drain string    `json:"drain,omitempty"`
}

// PlannedRestart is a restart of one member's server at a time, if the conditions
// hold then.
type PlannedRestart struct {
	At              time.Time `json:"at"`
	Role            string    `json:"role,omitempty"`             // primary or replica
	Pending         bool      `json:"pending,omitempty"`          // only if a parameter waits for it
	PostgresVersion string    `json:"postgres_version,omitempty"` // only if the server is older
	Timeout         string    `json:"timeout,omitempty"`          // of the wait for it, in Go's notation
}

// ErrSettings is returned for dynamic settings that must not be stored.
var ErrSettings = errors.New("wrong settings")

// Parse reads settings and checks them. It returns ErrSettings, with what is
// wrong: an unknown key too.
func Parse(raw []byte) (Settings, error) {
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

// check returns what is wrong with settings by themselves.
func (set Settings) check() error {
	err := errors.Join(set.Durability.check(), set.Failover.check(), set.Service.check(), set.Objective.check(), checkRunbook(set.Runbook), set.StandbyOf.Check())
	for member, tags := range set.Tags {
		err = errors.Join(err, tags.check(member))
	}
	for name, slot := range set.Slots {
		err = errors.Join(err, slot.check(name))
	}
	return err
}

// CheckStandbys refuses a number of standbys that no commit can wait for.
func CheckStandbys(n int) error {
	if n < 1 || n > 16 {
		return fmt.Errorf(`standbys %d: mode "quorum" needs 1 to 16; to wait for nobody, set mode = "async"`, n)
	}
	return nil
}

// CheckZones refuses a number of zones that so many standbys cannot reach.
func CheckZones(zones, standbys int) error {
	switch {
	case zones < 0 || zones > 8:
		return fmt.Errorf("zones %d: expected 1 (any zone) to 8", zones)
	case zones > standbys+1:
		return fmt.Errorf("zones %d: the primary and standbys = %d are in %d zones at most; expected standbys = %d or more", zones, standbys, standbys+1, zones-1)
	}
	return nil
}

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrSettings, fmt.Errorf(format, args...))
}

func (d *DurabilitySettings) check() error {
	switch {
	case d == nil:
	case d.Mode != "" && d.Mode != ha.ModeQuorum && d.Mode != ha.ModeAsync:
		return wrong("durability.mode %q: it is quorum or async", d.Mode)
	case d.Standbys != nil && CheckStandbys(*d.Standbys) != nil:
		return wrong("durability.%w", CheckStandbys(*d.Standbys))
	case d.MaxVoters != nil && *d.MaxVoters < 0:
		return wrong("durability.max_voters %d: it is 0 or more", *d.MaxVoters)
	case d.MaxVoters != nil && *d.MaxVoters > 0 && d.Standbys != nil && *d.MaxVoters < *d.Standbys:
		return wrong("durability.max_voters %d: it cannot be less than standbys (%d)", *d.MaxVoters, *d.Standbys)
	case d.Zones != nil && CheckZones(*d.Zones, or(d.Standbys, 16)) != nil:
		return wrong("durability.%w", CheckZones(*d.Zones, or(d.Standbys, 16)))
	}
	return nil
}

func (f *FailoverSettings) check() error {
	if f == nil {
		return nil
	}
	if f.MaxLag != "" {
		if _, err := ParseSize(f.MaxLag); err != nil {
			return wrong("failover.max_lag %q: %w", f.MaxLag, err)
		}
	}
	if f.FailureTimeout == "" {
		return nil
	}
	if d, err := time.ParseDuration(f.FailureTimeout); err != nil || d < 100*time.Millisecond {
		return wrong("failover.failure_timeout %q: it is a duration like \"2s\", of 100ms or more", f.FailureTimeout)
	}
	return nil
}

func (t TagSettings) check(member string) error {
	if t.ReplicateFrom != nil && *t.ReplicateFrom == member {
		return wrong("tags.%s.replicatefrom: a member cannot follow itself", member)
	}
	if t.SyncPriority != nil && *t.SyncPriority < 1 {
		return wrong("tags.%s.sync_priority %d: it is 1 or more; a member that is never a voter has nosync", member, *t.SyncPriority)
	}
	for name, value := range t.Own {
		if err := CheckTag(name, value); err != nil {
			return wrong("tags.%s.%w", member, err)
		}
	}
	return nil
}

// siteName and datacenterName are what Consul's DNS can look up.
var (
	siteName       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	datacenterName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)
)

// slotName is what PostgreSQL allows (documentation, 27.2.6.1).
var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

func (s Slot) check(name string) error {
	fail := func(why string) error { return wrong("slots.%s: %s", name, why) }
	switch {
	case !slotName.MatchString(name):
		return fail("a slot's name has lower-case letters, digits and underscores, at most 63")
	case strings.HasPrefix(name, "pgsidecar_"):
		return fail("names that begin with pgsidecar_ are the members' own")
	case s.Type == "logical":
		return fail("a logical slot is not made here: one that is made anew after a failover would leave out, unnoticed, what came " +
			"between. With PostgreSQL 17 or later set failover_slots=true, and let its consumer make it with failover = true")
	case s.Type != "physical":
		return fail("its type is physical")
	}
	return nil
}

// SameServer reports whether both ask the same of PostgreSQL.
func (set Settings) SameServer(other Settings) bool {
	return set.mode() == other.mode() && maps.Equal(set.Parameters, other.Parameters) && slices.Equal(set.HBA, other.HBA) &&
		slices.Equal(set.Ident, other.Ident) && maps.Equal(set.Slots, other.Slots) && set.FailoverSlots == other.FailoverSlots
}

// mode is the durability's, if the settings say any: PostgreSQL is configured by it.
func (set Settings) mode() ha.Mode {
	if set.Durability == nil {
		return ""
	}
	return set.Durability.Mode
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
	Zones     *int    `json:"zones,omitempty"`
}

// FailoverSettings override the failover block. Durations are in Go's notation.
type FailoverSettings struct {
	Automatic *bool `json:"automatic,omitempty"`
	// FailureTimeout may be at most half the lease. The lease itself is not
	// here: others wait for its end, so it must not change while they run.
	FailureTimeout string `json:"failure_timeout,omitempty"`
	// MaxLag is a size, such as "16MB"; "0": any lag.
	MaxLag        string `json:"max_lag,omitempty"`
	RefusedIsDead *bool  `json:"refused_is_dead,omitempty"`
}
