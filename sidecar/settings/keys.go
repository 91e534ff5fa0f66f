package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// settingKeys are the settings that may be set one by one, by their keys with
// dots, as Settings has them. A map's key ends with a dot: names follow.
func settingKeys() map[string]reflect.Type {
	keys := map[string]reflect.Type{}
	var walk func(prefix string, t reflect.Type)
	walk = func(prefix string, t reflect.Type) {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.Kind() {
		case reflect.Struct:
			for f := range t.Fields() {
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				// The others have commands of their own.
				if key := prefix + name; key != "version" && key != "paused" && key != "switchover" && key != "restarts" {
					walk(key+".", f.Type)
				}
			}
		case reflect.Map:
			keys[prefix] = t.Elem()
		default:
			keys[strings.TrimSuffix(prefix, ".")] = t
		}
	}
	walk("", reflect.TypeFor[Settings]())
	return keys
}

// Names are the keys for people, sorted.
func Names() []string {
	var names []string
	for key, kind := range settingKeys() {
		if !strings.HasSuffix(key, ".") {
			names = append(names, key+"="+kindName(kind))
			continue
		}
		if kind.Kind() != reflect.Struct {
			names = append(names, key+"NAME="+kindName(kind))
			continue
		}
		for f := range kind.Fields() {
			field, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if field == "-" { // tags of other programs
				field = "TAG"
			}
			_, _, of := fieldOf(kind, "NAME."+field)
			names = append(names, key+"NAME."+field+"="+kindName(of))
		}
	}
	slices.Sort(names)
	return names
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true|false"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "NUMBER"
	case reflect.String:
		return "TEXT"
	}
	return "JSON"
}

// ParseWords turns words like durability.standbys=2 into a merge patch.
func ParseWords(words []string) ([]byte, error) {
	keys := settingKeys()
	patch := map[string]any{}
	for _, word := range words {
		key, text, is := strings.Cut(word, "=")
		if !is {
			return nil, fmt.Errorf("%q: expected KEY=VALUE, or KEY= to remove the setting", word)
		}
		kind, path := keys[key], strings.Split(key, ".")
		if kind == nil || strings.HasSuffix(key, ".") {
			// A parameter's own name may have dots.
			group, name, _ := strings.Cut(key, ".")
			if kind = keys[group+"."]; kind == nil || name == "" {
				return nil, unknownSetting(key)
			}
			path = []string{group, name}
			if owner, field, of := fieldOf(kind, name); of != nil {
				path, kind = []string{group, owner, field}, of
			}
		}
		value, err := settingValue(kind, text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", word, err)
		}
		at := patch
		for _, step := range path[:len(path)-1] {
			inner, ok := at[step].(map[string]any)
			if !ok {
				inner = map[string]any{}
				at[step] = inner
			}
			at = inner
		}
		at[path[len(path)-1]] = value
	}
	return json.Marshal(patch)
}

// fieldOf splits a name like n1.nofailover, whose first part may have dots, where
// values of the kind have fields; its type is nil where they have not that one.
func fieldOf(kind reflect.Type, name string) (owner, field string, of reflect.Type) {
	i := strings.LastIndexByte(name, '.')
	if kind.Kind() != reflect.Struct || i <= 0 {
		return "", "", nil
	}
	for f := range kind.Fields() {
		if key, _, _ := strings.Cut(f.Tag.Get("json"), ","); key == name[i+1:] {
			of = f.Type
			if of.Kind() == reflect.Pointer {
				of = of.Elem()
			}
			return name[:i], key, of
		}
	}
	if kind == reflect.TypeFor[TagSettings]() {
		return name[:i], name[i+1:], reflect.TypeFor[string]() // a tag of other programs
	}
	return "", "", nil
}

// unknownSetting says which settings there are, or which command is meant.
func unknownSetting(key string) error {
	switch group, _, _ := strings.Cut(key, "."); group {
	case "paused":
		return fmt.Errorf("%s is not set like this; type pgsidecar pause, or pgsidecar resume", key)
	case "switchover":
		return fmt.Errorf("%s is not set like this; type pgsidecar switchover --at TIME", key)
	case "restarts":
		return fmt.Errorf("%s is not set like this; type pgsidecar restart MEMBER --at TIME", key)
	}
	return fmt.Errorf("there is no setting %q; there are:\n  %s", key, strings.Join(Names(), "\n  "))
}

// settingValue reads a value of the kind that the setting has. An empty text
// is null, which removes the setting.
func settingValue(kind reflect.Type, text string) (any, error) {
	if text == "" {
		return nil, nil
	}
	switch kindName(kind) {
	case "true|false":
		value, err := strconv.ParseBool(text)
		if err != nil {
			return nil, errors.New("expected true or false")
		}
		return value, nil
	case "NUMBER":
		value, err := strconv.Atoi(text)
		if err != nil {
			return nil, errors.New("expected a whole number")
		}
		return value, nil
	case "TEXT":
		return text, nil
	}
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		if kind.Kind() == reflect.Slice {
			return nil, errors.New(`expected JSON: a list of lines, such as '["first line", "second line"]'`)
		}
		return nil, fmt.Errorf("expected JSON: %w", err)
	}
	return value, nil
}
