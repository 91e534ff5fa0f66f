package member

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/parameters"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// oldestWithFailoverSlots is the first PostgreSQL whose standbys copy logical slots.
const oldestWithFailoverSlots = 170000

// errNoFailoverSlots is why older servers have none.
var errNoFailoverSlots = errors.New("failover_slots needs PostgreSQL 17: before it a standby has no copy of a logical slot. " +
	"After a failover make the slot anew, and let its consumer copy its data again")

// CheckSettings checks cluster-wide settings before they are stored. version is
// the server's server_version_num; 0: not known.
func CheckSettings(raw []byte, version int) (settings.Settings, error) {
	set, err := settings.Parse(raw)
	if err != nil {
		return set, err
	}
	if err := postgres.Check(postgres.Settings{Parameters: set.Parameters, HBA: set.HBA, Ident: set.Ident}); err != nil {
		return set, err
	}
	mode := ha.ModeQuorum
	if set.Durability != nil && set.Durability.Mode != "" {
		mode = set.Durability.Mode
	}
	if err := parameters.CheckAll(set.Parameters, mode == ha.ModeQuorum); err != nil {
		return set, err
	}
	for _, line := range set.HBA {
		if err := config.CheckHBA(line); err != nil {
			return set, fmt.Errorf("hba %q: %w", line, err)
		}
		if config.SecretInHBA(line) {
			return set, errors.New("an hba line has a password in it, and everybody may read these settings; put the line into each member's pg.hcl")
		}
	}
	for _, line := range set.Ident {
		if len(strings.Fields(line)) < 3 {
			return set, fmt.Errorf("ident %q: expected a map, a system user and a role, such as \"people alice app\"", line)
		}
	}
	if set.FailoverSlots && version != 0 && version < oldestWithFailoverSlots {
		return set, errNoFailoverSlots
	}
	if set.FailoverSlots && mode == ha.ModeQuorum && set.Parameters["synchronized_standby_slots"] != "" {
		return set, errors.New("parameter synchronized_standby_slots: set by pgsidecar itself: with failover_slots it follows the voters")
	}
	return set, nil
}

// sorted are a map's keys, so that what is said of them is said in order.
func sorted[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// checkTimeout refuses a failure_timeout of the settings that pg.hcl could not have
// beside this lease: one delayed heartbeat would be a failover.
func checkTimeout(text string, lease time.Duration) error {
	if text == "" {
		return nil
	}
	timeout, err := time.ParseDuration(text)
	if err == nil {
		err = config.CheckFailureTimeout(timeout, lease)
	}
	if err != nil {
		return fmt.Errorf("failover.%w", err)
	}
	return nil
}
