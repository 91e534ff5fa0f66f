package templates

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"
)

// functions are consul-template's functions during one rendering: the names and
// the order of arguments are its own (consul-template 0.41, docs/templating-language.md).
type functions struct {
	ctx      context.Context
	env      Env
	template *template.Template
	// pending is the first thing asked for that was never read. The rendering
	// continues with an empty value, so that all that it wants is requested in one go;
	// what it gives is thrown away.
	pending error
}

// later takes ErrNotReady out of err, and keeps it.
func (f *functions) later(err error) error {
	if !errors.Is(err, ErrNotReady) {
		return err
	}
	if f.pending == nil {
		f.pending = err
	}
	return nil
}

// placeholders are the functions' names and types, for parsing.
func placeholders() template.FuncMap { return (&functions{}).table() }

func (f *functions) table() template.FuncMap {
	m := template.FuncMap{
		guardFunction: oneLine,
		"key":         f.key, "keyExists": f.keyExists, "keyOrDefault": f.keyOrDefault,
		"ls": f.list, "safeLs": f.list, "tree": f.tree, "safeTree": f.tree,
		"service": f.service, "services": f.services,
		"env": f.getenv, "mustEnv": f.mustEnv, "envOrDefault": f.envOrDefault,
		"wait":      wait,
		"timestamp": f.timestamp, "executeTemplate": f.executeTemplate,
	}
	maps.Copy(m, encoding())
	maps.Copy(m, text())
	maps.Copy(m, lists())
	return m
}

// wait ends the rendering: the last good file is to stay until what the reason
// names is there.
func wait(reason string) (string, error) { return "", fmt.Errorf("%s: %w", reason, ErrNotReady) }

func (f *functions) catalog() (Catalog, error) {
	if f.env.Catalog == nil {
		return nil, fmt.Errorf("no connection to Consul here: %w", ErrNotReady)
	}
	return f.env.Catalog, nil
}

func (f *functions) key(path string) (string, error) {
	c, err := f.catalog()
	if err != nil {
		return "", err
	}
	v, err := c.Key(f.ctx, path)
	if err != nil {
		return "", f.later(fmt.Errorf("key %q: %w", path, err))
	}
	return v, nil
}

func (f *functions) keyExists(path string) (bool, error) {
	_, err := f.key(path)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (f *functions) keyOrDefault(path, value string) (string, error) {
	v, err := f.key(path)
	if errors.Is(err, ErrNotFound) || err == nil && v == "" {
		return value, nil
	}
	return v, err
}

func (f *functions) tree(prefix string) ([]KeyPair, error) {
	c, err := f.catalog()
	if err != nil {
		return nil, err
	}
	pairs, err := c.List(f.ctx, prefix)
	if err != nil {
		return nil, f.later(fmt.Errorf("keys below %q: %w", prefix, err))
	}
	return pairs, nil
}

// list is tree without what lies deeper.
func (f *functions) list(prefix string) ([]KeyPair, error) {
	pairs, err := f.tree(prefix)
	return slices.DeleteFunc(pairs, func(p KeyPair) bool { return strings.Contains(p.Key, "/") }), err
}

// service takes consul-template's "tag.name|filter"; of the filters it knows
// passing (the default) and any.
func (f *functions) service(query string, more ...string) ([]Instance, error) {
	query, filter, _ := strings.Cut(query, "|")
	if len(more) > 0 {
		filter = more[0]
	}
	if filter != "" && filter != "passing" && filter != "any" {
		return nil, fmt.Errorf("service filter %q is not known: use passing or any", filter)
	}
	tag, name, tagged := strings.Cut(query, ".")
	if !tagged {
		tag, name = "", query
	}
	c, err := f.catalog()
	if err != nil {
		return nil, err
	}
	instances, err := c.Instances(f.ctx, name, filter == "any")
	if err != nil {
		return nil, f.later(fmt.Errorf("service %q: %w", name, err))
	}
	if !tagged {
		return instances, nil
	}
	return slices.DeleteFunc(slices.Clone(instances), func(i Instance) bool { return !slices.Contains(i.Tags, tag) }), nil
}

func (f *functions) services() ([]ServiceName, error) {
	c, err := f.catalog()
	if err != nil {
		return nil, err
	}
	list, err := c.Services(f.ctx)
	if err != nil {
		return nil, f.later(fmt.Errorf("services: %w", err))
	}
	return list, nil
}

func (f *functions) getenv(name string) string { return f.env.getenv(name) }

func (f *functions) mustEnv(name string) (string, error) {
	if v := f.env.getenv(name); v != "" {
		return v, nil
	}
	return "", fmt.Errorf("environment variable %s is not set", name)
}

func (f *functions) envOrDefault(name, value string) string {
	if v := f.env.getenv(name); v != "" {
		return v
	}
	return value
}

func (f *functions) timestamp(layout ...string) string {
	now := f.env.now().UTC()
	switch {
	case len(layout) == 0:
		return now.Format(time.RFC3339)
	case layout[0] == "unix":
		return strconv.FormatInt(now.Unix(), 10)
	default:
		return now.Format(layout[0])
	}
}

func (f *functions) executeTemplate(name string, data ...any) (Block, error) {
	var dot any
	if len(data) > 0 {
		dot = data[0]
	}
	var out bytes.Buffer
	if err := f.template.ExecuteTemplate(&limitedBuffer{Buffer: &out}, name, dot); err != nil {
		return "", err
	}
	return Block(out.String()), nil
}

// encoding are the functions that turn values into text and back.
func encoding() template.FuncMap {
	decode := func(e *base64.Encoding) func(string) (string, error) {
		return func(s string) (string, error) {
			b, err := e.DecodeString(s)
			return string(b), err
		}
	}
	return template.FuncMap{
		"base64Encode":    func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"base64URLEncode": func(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) },
		"base64Decode":    decode(base64.StdEncoding),
		"base64URLDecode": decode(base64.URLEncoding),
		"sha256Hex":       func(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) },
		"md5sum":          func(s string) string { h := md5.Sum([]byte(s)); return hex.EncodeToString(h[:]) },
		"parseBool":       strconv.ParseBool,
		"parseFloat":      func(s string) (float64, error) { return strconv.ParseFloat(s, 64) },
		"parseInt":        func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) },
		"parseUint":       func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) },
		"parseJSON":       parseJSON,
		"toJSON":          func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
		"toJSONPretty":    func(v any) (Block, error) { b, err := json.MarshalIndent(v, "", "  "); return Block(b), err },
	}
}

// text are the functions on strings.
func text() template.FuncMap {
	return template.FuncMap{
		"multiline":       func(s string) Block { return Block(s) },
		"join":            func(sep string, list []string) string { return strings.Join(list, sep) },
		"split":           split,
		"toLower":         strings.ToLower,
		"toUpper":         strings.ToUpper,
		"trimSpace":       strings.TrimSpace,
		"trim":            func(cut, s string) string { return strings.Trim(s, cut) },
		"trimPrefix":      func(cut, s string) string { return strings.TrimPrefix(s, cut) },
		"trimSuffix":      func(cut, s string) string { return strings.TrimSuffix(s, cut) },
		"replaceAll":      func(from, to, s string) string { return strings.ReplaceAll(s, from, to) },
		"regexMatch":      regexp.MatchString,
		"regexReplaceAll": regexReplaceAll,
		"indent":          indent,
	}
}

// lists are the functions on lists and numbers.
func lists() template.FuncMap {
	return template.FuncMap{
		"contains":       func(v, list any) (bool, error) { return in(list, v) },
		"in":             in,
		"containsAny":    containsAny,
		"containsAll":    containsAll,
		"containsNone":   func(want, list []string) bool { return !containsAny(want, list) },
		"containsNotAll": func(want, list []string) bool { return !containsAll(want, list) },
		"byTag":          byTag,
		"byPort":         byPort,
		"loop":           loop,
		"add":            arithmetic(func(b, a int64) (int64, error) { return a + b, nil }),
		"subtract":       arithmetic(func(b, a int64) (int64, error) { return a - b, nil }),
		"multiply":       arithmetic(func(b, a int64) (int64, error) { return a * b, nil }),
		"divide":         arithmetic(divide),
		"modulo":         arithmetic(modulo),
		"minimum":        arithmetic(func(b, a int64) (int64, error) { return min(a, b), nil }),
		"maximum":        arithmetic(func(b, a int64) (int64, error) { return max(a, b), nil }),
	}
}

func split(sep, s string) []string {
	s = strings.TrimSpace(s)
	if s == "" {
		return []string{}
	}
	return strings.Split(s, sep)
}

var errZero = errors.New("division by zero")

func divide(b, a int64) (int64, error) {
	if b == 0 {
		return 0, errZero
	}
	return a / b, nil
}

func modulo(b, a int64) (int64, error) {
	if b == 0 {
		return 0, errZero
	}
	return a % b, nil
}

// arithmetic takes whole numbers of any type, as template constants and
// parsed numbers have different ones.
func arithmetic(op func(b, a int64) (int64, error)) func(b, a any) (int64, error) {
	return func(b, a any) (int64, error) {
		y, err := whole(b)
		if err != nil {
			return 0, err
		}
		x, err := whole(a)
		if err != nil {
			return 0, err
		}
		return op(y, x)
	}
}

func whole(v any) (int64, error) {
	switch r := reflect.ValueOf(v); {
	case r.CanInt():
		return r.Int(), nil
	case r.CanUint():
		return int64(r.Uint()), nil
	case r.CanFloat() && r.Float() == float64(int64(r.Float())):
		return int64(r.Float()), nil
	}
	return 0, fmt.Errorf("%v is not a whole number", v)
}

func regexReplaceAll(re, to, s string) (string, error) {
	r, err := regexp.Compile(re)
	if err != nil {
		return "", err
	}
	return r.ReplaceAllString(s, to), nil
}

func indent(spaces int, s any) (Block, error) {
	if spaces < 0 || spaces > 200 {
		return "", fmt.Errorf("indent by %d", spaces)
	}
	pad := strings.Repeat(" ", spaces)
	lines := strings.SplitAfter(fmt.Sprint(s), "\n")
	for i, l := range lines {
		if l != "" {
			lines[i] = pad + l
		}
	}
	return Block(strings.Join(lines, "")), nil
}

func parseJSON(s string) (any, error) {
	if s == "" {
		return map[string]any{}, nil
	}
	var v any
	err := json.Unmarshal([]byte(s), &v)
	return v, err
}

// in reports whether a list, map (by key) or string has v.
func in(list, v any) (bool, error) {
	r := reflect.ValueOf(list)
	switch r.Kind() {
	case reflect.Slice, reflect.Array:
		for i := range r.Len() {
			if fmt.Sprint(r.Index(i).Interface()) == fmt.Sprint(v) {
				return true, nil
			}
		}
		return false, nil
	case reflect.Map:
		for _, k := range r.MapKeys() {
			if fmt.Sprint(k.Interface()) == fmt.Sprint(v) {
				return true, nil
			}
		}
		return false, nil
	case reflect.String:
		return strings.Contains(r.String(), fmt.Sprint(v)), nil
	case reflect.Invalid:
		return false, nil
	}
	return false, fmt.Errorf("%T is no list", list)
}

func containsAny(want, list []string) bool {
	return slices.ContainsFunc(want, func(w string) bool { return slices.Contains(list, w) })
}

func containsAll(want, list []string) bool {
	return !slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(list, w) })
}

func byTag(instances []Instance) map[string][]Instance {
	m := map[string][]Instance{}
	for _, i := range instances {
		for _, t := range i.Tags {
			m[t] = append(m[t], i)
		}
	}
	return m
}

func byPort(instances []Instance) map[int][]Instance {
	m := map[int][]Instance{}
	for _, i := range instances {
		m[i.Port] = append(m[i.Port], i)
	}
	return m
}

// loop counts from 0 to its argument, or from the first to before the second.
func loop(bounds ...any) ([]int64, error) {
	if len(bounds) != 1 && len(bounds) != 2 {
		return nil, fmt.Errorf("loop wants one or two numbers")
	}
	from, err := int64(0), error(nil)
	if len(bounds) == 2 {
		if from, err = whole(bounds[0]); err != nil {
			return nil, err
		}
	}
	to, err := whole(bounds[len(bounds)-1])
	if err != nil {
		return nil, err
	}
	if to-from > 1<<20 {
		return nil, fmt.Errorf("loop of %d rounds", to-from)
	}
	var list []int64
	for i := from; i < to; i++ {
		list = append(list, i)
	}
	return list, nil
}
