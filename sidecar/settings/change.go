package settings

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

// Change is the account of one change of the settings.
type Change struct {
	At     time.Time `json:"at"`
	Member string    `json:"member"` // who stored it
	By     string    `json:"by"`     // who asked: token, or the certificate's name
	Diff   string    `json:"diff"`   // lines with - that went, with + that came
}

// OrEmpty is an empty object for settings that are not there.
func OrEmpty(settings []byte) []byte {
	if len(settings) == 0 {
		return []byte("{}")
	}
	return settings
}

// ChangedKeys has a line with - for each setting that went, and one with + for
// each that came, sorted by their keys.
func ChangedKeys(before, after []byte) string {
	old, next := flat(before), flat(after)
	keys := slices.Sorted(maps.Keys(old))
	for key := range next {
		if _, is := old[key]; !is {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	var lines []string
	for _, key := range keys {
		was, is := old[key], next[key]
		if was == is {
			continue
		}
		if was != "" {
			lines = append(lines, "- "+key+" = "+was)
		}
		if is != "" {
			lines = append(lines, "+ "+key+" = "+is)
		}
	}
	return strings.Join(lines, "\n")
}

// flat is an object's values as JSON, by their keys with dots.
func flat(text []byte) map[string]string {
	values := map[string]string{}
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		if fields, is := v.(map[string]any); is && (len(fields) > 0 || prefix == "") {
			for key, inner := range fields {
				walk(strings.TrimPrefix(prefix+"."+key, "."), inner)
			}
			return
		}
		if b, err := json.Marshal(v); err == nil {
			values[prefix] = string(b)
		}
	}
	if fields, err := Object(OrEmpty(text)); err == nil {
		walk("", fields)
	}
	return values
}
