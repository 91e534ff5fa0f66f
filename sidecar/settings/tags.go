package settings

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/parameters"
)

// tagName is what another program's tag may be called: it is a key of Consul's metadata
// and part of a query.
var tagName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// taken are names that mean something to pgsidecar or to Patroni, and are no own tags.
var taken = []string{"failover_priority", "nostream", "member", "term", "timeline", "api", "version", "cluster", "prefix"}

// CheckTag returns what is wrong with another program's tag.
func CheckTag(name, value string) error {
	known := append(tagKeys(), taken...)
	switch {
	case !tagName.MatchString(name):
		return fmt.Errorf("%s: a tag's name has lower-case letters, digits, _ and -, at most 63, and begins with a letter", name)
	case len(value) > 512 || strings.ContainsAny(value, "\n\r\x00"):
		return fmt.Errorf("%s: a tag's value is one line of at most 512 bytes", name)
	}
	for _, other := range known {
		if other == name {
			return fmt.Errorf("%s: this name has a meaning of its own", name)
		}
		if parameters.Distance(name, other) <= 2 {
			return fmt.Errorf("%s: pgsidecar does not act on it. Did you mean %s? A tag for other programs needs a name that differs more", name, other)
		}
	}
	return nil
}

// tagKeys are the tags that pgsidecar acts on.
func tagKeys() []string {
	var keys []string
	for f := range reflect.TypeFor[TagSettings]().Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" {
			keys = append(keys, name)
		}
	}
	return keys
}

// known is TagSettings without methods.
type known TagSettings

// UnmarshalJSON reads the tags that pgsidecar acts on, and takes all others for those of
// other programs: text, numbers and truth values, kept as text.
func (t *TagSettings) UnmarshalJSON(text []byte) error {
	if err := json.Unmarshal(text, (*known)(t)); err != nil {
		return err
	}
	fields, err := Object(text)
	if err != nil {
		return err
	}
	for _, key := range tagKeys() {
		delete(fields, key)
	}
	t.Own = nil
	for name, value := range fields {
		switch value.(type) {
		case nil:
			continue
		case string, bool, json.Number:
		default:
			return fmt.Errorf("tag %s: it is text, a number, true or false", name)
		}
		if t.Own == nil {
			t.Own = map[string]string{}
		}
		t.Own[name] = fmt.Sprint(value)
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (t TagSettings) MarshalJSON() ([]byte, error) {
	text, err := json.Marshal(known(t))
	if err != nil || len(t.Own) == 0 {
		return text, err
	}
	fields, err := Object(text)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(fields)
	for name, value := range t.Own {
		all[name] = value
	}
	return json.Marshal(all)
}
