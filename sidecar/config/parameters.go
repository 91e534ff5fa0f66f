package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// owned returns, for a parameter of PostgreSQL that pgsidecar sets itself, where
// its value comes from; "" for all others.
func owned(key string) string {
	switch key {
	case "listen_addresses", "port":
		return "it comes from postgres listen"
	case "data_directory":
		return "it comes from postgres data_dir"
	case "config_file", "ident_file":
		return "it is in data_dir"
	case "hba_file":
		return "it is in data_dir; its lines come from postgres hba"
	case "primary_conninfo":
		return "it follows the primary"
	case "primary_slot_name":
		return "it follows the member's name"
	case "synchronous_standby_names":
		return "it follows the cluster's voters; see durability"
	case "cluster_name":
		return "it is the member's name, by which the primary knows it"
	case "hot_standby":
		return "members are looked at by SQL, so it is on"
	case "promote_trigger_file":
		return "only pgsidecar promotes"
	}
	if strings.HasPrefix(key, "recovery_target") {
		return "a member recovers to the end of the latest timeline"
	}
	return ""
}

// refusedParameter returns why a parameter must not be set so, or "". Key and
// value are in lower case.
func refusedParameter(key, value string, mode ha.Mode) string {
	if why := owned(key); why != "" {
		return "set by pgsidecar itself: " + why
	}
	off := slices.Contains([]string{"off", "false", "no", "0", "f", "n"}, value)
	switch {
	case key == "fsync" && off:
		return "a crash would leave a member that nobody may follow; expected on"
	case key == "full_page_writes" && off:
		return "pg_rewind needs it; expected on"
	case key == "wal_level" && value == "minimal":
		return `replicas need more; expected "replica" or "logical"`
	case key == "max_wal_senders" && value == "0":
		return "replicas need some; expected 2 for each member"
	case key == "synchronous_commit" && (off || value == "local" || value == "remote_write") && mode == ha.ModeQuorum:
		return `mode "quorum" promises that standbys have flushed each acknowledged commit; expected on, or mode = "async"`
	}
	return ""
}

// CheckParameter returns why a parameter must not have a value in the mode; the
// cluster-wide settings are held to it as the file is.
func CheckParameter(key, value string, mode ha.Mode) error {
	if why := refusedParameter(strings.ToLower(key), strings.ToLower(value), mode); why != "" {
		return fmt.Errorf("parameter %s: %s", key, why)
	}
	return nil
}

// sortedKeys returns a map's keys in order, so that diagnostics are.
func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
