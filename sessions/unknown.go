package sessions

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// encode writes a record. What the state key has beyond what this program knows, which
// a newer one put there, is kept: an older leader must not take it away in the middle
// of an upgrade. known is the key as it was read at the index that the change expects;
// nil: that is not known.
func encode(record ha.Record, known []byte) ([]byte, error) {
	written, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("write record: %w", err)
	}
	return keepUnknown(written, known, reflect.TypeFor[ha.Record]()), nil
}

// keepUnknown adds to an object the fields of an older form of it that a type has no
// field for, and does so within the objects that it has fields for.
func keepUnknown(written, old []byte, t reflect.Type) []byte {
	var from, to map[string]json.RawMessage
	if json.Unmarshal(old, &from) != nil || json.Unmarshal(written, &to) != nil || from == nil || to == nil {
		return written
	}
	changed := false
	for name, value := range from {
		field, known := fieldOf(t, name)
		switch {
		case !known:
			to[name], changed = value, true
		case to[name] != nil && field.Kind() == reflect.Struct:
			if kept := keepUnknown(to[name], value, field); string(kept) != string(to[name]) {
				to[name], changed = kept, true
			}
		}
	}
	if !changed {
		return written
	}
	merged, err := json.Marshal(to)
	if err != nil {
		return written // which is valid
	}
	return merged
}

// fieldOf returns the type of the field that a struct, or one that it embeds, has for a
// name in JSON.
func fieldOf(t reflect.Type, name string) (reflect.Type, bool) {
	for _, f := range reflect.VisibleFields(t) {
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag != "" && strings.EqualFold(tag, name) {
			return f.Type, true
		}
	}
	return nil, false
}
