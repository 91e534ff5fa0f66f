package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// patroniWords are settings of Patroni's without the same meaning here, and by what their
// part is played.
var patroniWords = map[string]string{
	"ttl":                     "failover.lease in each pg.hcl",
	"loop_wait":               "failover.failure_timeout",
	"retry_timeout":           "failover.failure_timeout",
	"primary_start_timeout":   "failover.failure_timeout",
	"master_start_timeout":    "failover.failure_timeout",
	"primary_stop_timeout":    "postgres.stop_timeout in each pg.hcl",
	"master_stop_timeout":     "postgres.stop_timeout in each pg.hcl",
	"primary_race_backoff":    "nothing: members agree by votes",
	"maximum_lag_on_syncnode": "nothing: any voters that are enough count, so commits wait for no slow one",
	"standby_cluster":         "nothing here",
	"member_slots_ttl":        "max_slot_wal_keep_size in parameters",
	"ignore_slots":            "nothing: only slots that begin with pgsidecar_ are touched, and those in slots",
	"max_timelines_history":   "nothing: 200 terms are kept",

	"postgresql.recovery_conf":                               "restore_command and the like in parameters",
	"postgresql.use_slots":                                   "nothing: members always have slots",
	"postgresql.use_pg_rewind":                               "nothing: what diverged is always rewound, and kept aside",
	"postgresql.remove_data_directory_on_rewind_failure":     "nothing: a rewind that fails is followed by a new copy",
	"postgresql.remove_data_directory_on_diverged_timelines": "nothing: what diverged is rewound, or copied anew",
	"failsafe_mode":                                          "nothing: members always confirm a primary while Consul is away",
	"check_timeline":                                         "nothing: it is always so",
}

// alwaysSo are those of them that may be true: it is always so.
var alwaysSo = []string{"failsafe_mode", "check_timeline", "postgresql.use_slots", "postgresql.use_pg_rewind",
	"postgresql.remove_data_directory_on_rewind_failure", "postgresql.remove_data_directory_on_diverged_timelines"}

// ownParameters are parameters that are always set so, and that Patroni's clients set too.
var ownParameters = map[string]string{"hot_standby": "on", "wal_log_hints": "on"}

// FromPatroni turns what Patroni's clients send into our settings. What means the same has
// our name then. What has no counterpart is refused with what plays its part, unless it
// is to be removed, or says what is always so: both change nothing.
func FromPatroni(patch []byte) ([]byte, error) {
	fields, err := Object(patch)
	if err != nil {
		return nil, err
	}
	if err := withoutCounterpart(fields, ""); err != nil {
		return nil, err
	}
	if err := translateDurability(fields); err != nil {
		return nil, err
	}
	if slots, is := fields["slots"].(map[string]any); is {
		physicalByDefault(slots)
	}
	if pause, is := fields["pause"]; is {
		delete(fields, "pause")
		fields["paused"] = nil
		if pause == true { // of all, until it is resumed, whatever was paused before
			fields["paused"] = PausePatch(Pause{})
		}
	}
	under, is := fields["postgresql"].(map[string]any)
	if !is {
		return json.Marshal(fields)
	}
	delete(fields, "postgresql")
	if err := withoutCounterpart(under, "postgresql."); err != nil {
		return nil, err
	}
	for key, value := range under {
		ours, known := map[string]string{"parameters": "parameters", "pg_hba": "hba", "pg_ident": "ident"}[key]
		if !known {
			return nil, fmt.Errorf("postgresql.%s is not known here; there are parameters, pg_hba and pg_ident", key)
		}
		if parameters, is := value.(map[string]any); is {
			asText(parameters)
		}
		fields[ours] = value
	}
	return json.Marshal(fields)
}

// withoutCounterpart takes out what changes nothing, and refuses what would.
func withoutCounterpart(fields map[string]any, prefix string) error {
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		ours, is := patroniWords[prefix+key]
		if !is {
			continue
		}
		value := fields[key]
		if value != nil && !(isTrue(value) && slices.Contains(alwaysSo, prefix+key)) {
			return fmt.Errorf("%s is a setting of Patroni; its part is played by %s", prefix+key, ours)
		}
		delete(fields, key)
	}
	return nil
}

func isTrue(value any) bool { return value == true || value == "true" || value == "on" }

// translateDurability renames what means the same.
func translateDurability(fields map[string]any) error {
	durability, failover := map[string]any{}, map[string]any{}
	if mode, is := fields["synchronous_mode"]; is {
		switch text := strings.ToLower(fmt.Sprint(mode)); {
		case mode == nil:
			durability["mode"] = nil
		case isTrue(mode) || text == "quorum":
			durability["mode"] = "quorum"
		case text == "false" || text == "off":
			durability["mode"] = "async"
		default:
			return fmt.Errorf("synchronous_mode %v: expected on, quorum or off", mode)
		}
	}
	if strict, is := fields["synchronous_mode_strict"]; is {
		durability["strict"] = strict
	}
	if count, is := fields["synchronous_node_count"]; is {
		durability["standbys"] = count
	}
	if lag, is := fields["maximum_lag_on_failover"]; is {
		switch text := fmt.Sprint(lag); {
		case lag == nil:
			failover["max_lag"] = nil
		case text == "0":
			return fmt.Errorf("maximum_lag_on_failover 0: who lacks nothing is known by votes; set durability.mode=quorum")
		case strings.Trim(text, "0123456789") == "":
			failover["max_lag"] = text + "B"
		default:
			failover["max_lag"] = text
		}
	}
	for _, key := range []string{"synchronous_mode", "synchronous_mode_strict", "synchronous_node_count", "maximum_lag_on_failover"} {
		delete(fields, key)
	}
	return errors.Join(into(fields, "durability", durability), into(fields, "failover", failover))
}

// into adds translated settings to a group that the same patch may have too.
func into(fields map[string]any, group string, translated map[string]any) error {
	if len(translated) == 0 {
		return nil
	}
	own, is := fields[group].(map[string]any)
	if !is {
		fields[group] = translated
		return nil
	}
	for key, value := range translated {
		if _, twice := own[key]; twice {
			return fmt.Errorf("%s.%s is set by Patroni's name too; expected one of them", group, key)
		}
		own[key] = value
	}
	return nil
}

// physicalByDefault gives slots the type that they have for Patroni where none is said.
func physicalByDefault(slots map[string]any) {
	for name, slot := range slots {
		switch s := slot.(type) {
		case nil: // it is to be removed
		case map[string]any:
			if _, has := s["type"]; !has {
				s["type"] = "physical"
			}
		case json.Number, bool:
			slots[name] = map[string]any{"type": "physical"}
		}
	}
}

// asText writes parameters' values as PostgreSQL reads them, and leaves out those that are
// always so.
func asText(parameters map[string]any) {
	for name, v := range parameters {
		if v == nil {
			continue
		}
		text := parameterText(v)
		if own, is := ownParameters[name]; is && strings.EqualFold(own, text) {
			delete(parameters, name)
			continue
		}
		parameters[name] = text
	}
}

// parameterText writes a parameter's value as PostgreSQL reads it.
func parameterText(v any) string {
	switch v {
	case true:
		return "on"
	case false:
		return "off"
	}
	return fmt.Sprint(v)
}
