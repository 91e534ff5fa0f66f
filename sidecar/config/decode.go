package config

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// reader turns syntax into values. It remembers where each value was set, so
// that check can point at it.
type reader struct {
	faults
	dir       string // of the file: relative paths are relative to it
	env       Environment
	functions *hcl.EvalContext
	at        map[string]hcl.Range // "failover.lease" → the attribute
	bad       map[int]bool         // lines in which no value could be read
}

// field is one attribute: its name, and what takes its value. take returns
// what was expected, or "".
type field struct {
	name   string
	secret bool // must be a call of env or file
	take   func(v cty.Value) (expected string)
}

// block is one kind of block. labelled ones may be repeated.
type block struct {
	name     string
	labelled bool
	read     func(b *hclsyntax.Body, path, label string)
}

// body reads a body: exactly these fields and blocks, in the file's order.
func (r *reader) body(b *hclsyntax.Body, path string, fields []field, blocks []block) {
	inOrder := slices.SortedFunc(maps.Values(b.Attributes), func(a, b *hclsyntax.Attribute) int {
		return cmp.Compare(a.SrcRange.Start.Byte, b.SrcRange.Start.Byte)
	})
	for _, a := range inOrder {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == a.Name })
		if i < 0 {
			r.unknownAttribute(a, path, fields, blocks)
			continue
		}
		r.at[join(path, a.Name)] = a.SrcRange
		r.places(a, join(path, a.Name))
		r.attribute(a, fields[i])
	}
	seen := map[string]int{} // block and label → line
	for _, inner := range b.Blocks {
		i := slices.IndexFunc(blocks, func(k block) bool { return k.name == inner.Type })
		if i < 0 {
			r.unknownBlock(inner, path, fields, blocks)
			continue
		}
		kind, label := blocks[i], ""
		switch {
		case kind.labelled && len(inner.Labels) == 1:
			label = inner.Labels[0]
		case kind.labelled:
			r.add(inner.TypeRange, `expected one name: %s "name" { … }`, kind.name)
			continue
		case len(inner.Labels) > 0:
			r.add(inner.LabelRanges[0], "block %s has no name; expected %s { … }", kind.name, kind.name)
			continue
		}
		here := join(join(path, inner.Type), label)
		if line, again := seen[here]; again {
			r.add(inner.TypeRange, "block %s is here a second time; the first is in line %d", strings.TrimSpace(inner.Type+" "+label), line)
			continue
		}
		seen[here] = inner.TypeRange.Start.Line
		r.at[here] = inner.TypeRange
		kind.read(inner.Body, here, label)
	}
}

// places remembers where each value of a table is.
func (r *reader) places(a *hclsyntax.Attribute, path string) {
	object, is := a.Expr.(*hclsyntax.ObjectConsExpr)
	if !is {
		return
	}
	for _, item := range object.Items {
		if key, diags := item.KeyExpr.Value(r.functions); !diags.HasErrors() && key.Type() == cty.String && !key.IsNull() && key.IsKnown() {
			r.at[join(path, key.AsString())] = hcl.RangeBetween(item.KeyExpr.Range(), item.ValueExpr.Range())
		}
	}
}

func (r *reader) unknownAttribute(a *hclsyntax.Attribute, path string, fields []field, blocks []block) {
	for _, k := range blocks {
		if k.name == a.Name {
			r.add(a.NameRange, "%s is a block; expected %s { … }, without an equals sign", a.Name, a.Name)
			return
		}
	}
	r.add(a.NameRange, "unknown key %q%s%s", a.Name, inBlock(path), didYouMean(a.Name, names(fields, nil)))
}

func (r *reader) unknownBlock(b *hclsyntax.Block, path string, fields []field, blocks []block) {
	for _, f := range fields {
		if f.name == b.Type {
			r.add(b.TypeRange, "%s is not a block; expected %s = …", b.Type, b.Type)
			return
		}
	}
	if len(blocks) == 0 {
		r.add(b.TypeRange, "unknown block %q; there are no blocks%s", b.Type, inBlock(path))
		return
	}
	r.add(b.TypeRange, "unknown block %q%s%s", b.Type, inBlock(path), didYouMean(b.Type, names(nil, blocks)))
}

// attribute evaluates one attribute and hands its value to its field.
func (r *reader) attribute(a *hclsyntax.Attribute, f field) {
	if word := hcl.ExprAsKeyword(a.Expr); word != "" && word != "true" && word != "false" && word != "null" {
		r.add(a.Expr.Range(), "%s is not in quotes; expected %s = %q", word, a.Name, word)
		return
	}
	if call, ok := a.Expr.(*hclsyntax.FunctionCallExpr); f.secret && !(ok && (call.Name == "env" || call.Name == "file")) {
		r.add(a.NameRange, `a secret must not stand in this file; expected %s_file = "/path", or %s = env("NAME")`, a.Name, a.Name)
		return
	}
	v, diags := a.Expr.Value(r.functions)
	if diags.HasErrors() {
		r.addHCL(diags)
		return
	}
	expected := "a value"
	if !v.IsNull() && v.IsWhollyKnown() {
		expected = f.take(v)
	}
	if expected != "" {
		r.add(a.Expr.Range(), "%s: expected %s, got %s", a.Name, expected, r.got(a.Expr, v))
	}
}

// got describes a value for a diagnostic. What a function returned may be a
// secret, so only what the file itself says is repeated.
func (r *reader) got(e hclsyntax.Expression, v cty.Value) string {
	kind := v.Type().FriendlyName()
	switch {
	case v.IsNull():
		return "null"
	case len(e.Variables()) > 0 || hasCall(e):
		return "what its function returned, a " + kind
	case v.Type() == cty.String:
		return strconv.Quote(v.AsString())
	case v.Type() == cty.Number:
		return "the number " + v.AsBigFloat().Text('g', -1)
	case v.Type() == cty.Bool:
		return strconv.FormatBool(v.True())
	case v.Type().IsTupleType() || v.Type().IsListType():
		return "a list"
	default:
		return "a map"
	}
}

// hasCall reports whether an expression calls a function.
func hasCall(e hclsyntax.Expression) bool {
	found := false
	// The walker cannot fail; it only passes on our own diagnostics, none.
	_ = hclsyntax.VisitAll(e, func(n hclsyntax.Node) hcl.Diagnostics {
		if _, ok := n.(*hclsyntax.FunctionCallExpr); ok {
			found = true
		}
		return nil
	})
	return found
}

// text takes a string that is not empty.
func text(name string, to *string) field {
	return field{name: name, take: func(v cty.Value) string {
		if v.Type() != cty.String || v.AsString() == "" {
			return "a string"
		}
		*to = v.AsString()
		return ""
	}}
}

// textOrNone takes a string, which may be empty: what it is of is not used then, as with
// env("NAME", "") where the variable is not set.
func textOrNone(name string, to *string) field {
	return field{name: name, take: func(v cty.Value) string {
		if v.Type() != cty.String {
			return "a string"
		}
		*to = v.AsString()
		return ""
	}}
}

// secret takes what env or file returned.
func secret(name string, to *Secret) field {
	var s string
	f := text(name, &s)
	take := f.take
	f.secret, f.take = true, func(v cty.Value) string {
		expected := take(v)
		*to = NewSecret(s)
		return expected
	}
	return f
}

// path takes a file's name; a relative one is relative to the configuration
// file.
func (r *reader) path(name string, to *string) field {
	f := text(name, to)
	take := f.take
	f.take = func(v cty.Value) string {
		if expected := take(v); expected != "" {
			return "the path of a file"
		}
		*to = under(r.dir, *to)
		return ""
	}
	return f
}

// number takes a whole number that is not negative.
func number(name string, to *int) field {
	return field{name: name, take: func(v cty.Value) string {
		if v.Type() != cty.Number {
			return "a whole number, 0 or more"
		}
		n, exact := v.AsBigFloat().Int64()
		if exact != 0 || n < 0 || n > 1<<31-1 {
			return "a whole number, 0 or more"
		}
		*to = int(n)
		return ""
	}}
}

// claim takes true or false.
func claim(name string, to *bool) field {
	return field{name: name, take: func(v cty.Value) string {
		if v.Type() != cty.Bool {
			return "true or false"
		}
		*to = v.True()
		return ""
	}}
}

// duration takes text such as "2s" or "500ms".
func duration(name string, to *time.Duration) field {
	const expected = `a duration in quotes, such as "2s" or "500ms"`
	return field{name: name, take: func(v cty.Value) string {
		if v.Type() != cty.String {
			return expected
		}
		d, err := time.ParseDuration(v.AsString())
		if err != nil || d < 0 {
			return expected
		}
		*to = d
		return ""
	}}
}

// size takes text such as "16MB", or 0.
func size(name string, to *settings.Size) field {
	const expected = `a size in quotes, such as "16MB" or "1GB", or 0 for any`
	return field{name: name, take: func(v cty.Value) string {
		var text string
		switch v.Type() {
		case cty.String:
			text = v.AsString()
		case cty.Number:
			text = v.AsBigFloat().Text('f', -1)
		}
		n, err := settings.ParseSize(text)
		if err != nil {
			return expected
		}
		*to = n
		return ""
	}}
}

// perms takes the mode of a file as "0640".
func perms(name string, to *fs.FileMode) field {
	const expected = `a file mode in quotes, such as "0640"`
	return field{name: name, take: func(v cty.Value) string {
		if v.Type() != cty.String {
			return expected
		}
		m, err := strconv.ParseUint(v.AsString(), 8, 32)
		if err != nil || m > 0o777 || m == 0 { // nobody could read it
			return expected
		}
		*to = fs.FileMode(m)
		return ""
	}}
}

// choice takes one of some words.
func choice[T ~string](name string, to *T, words ...T) field {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(string(w))
	}
	return field{name: name, take: func(v cty.Value) string {
		if v.Type() == cty.String && slices.Contains(words, T(v.AsString())) {
			*to = T(v.AsString())
			return ""
		}
		return oneOf(quoted)
	}}
}

// choices takes a list of these words, or one of them.
func choices[T ~string](name string, to *[]T, words []T) field {
	var given []string
	f := list(name, &given)
	take := f.take
	f.take = func(v cty.Value) string {
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = strconv.Quote(string(w))
		}
		expected := "a list of " + strings.Join(quoted, ", ")
		if take(v) != "" {
			return expected
		}
		*to = nil
		for _, g := range given {
			if !slices.Contains(words, T(g)) {
				return expected
			}
			*to = append(*to, T(g))
		}
		return ""
	}
	return f
}

// list takes strings, or one string for a list of one.
func list(name string, to *[]string) field {
	const expected = "a list of strings"
	return field{name: name, take: func(v cty.Value) string {
		if v.Type() == cty.String {
			*to = []string{v.AsString()}
			return ""
		}
		if !v.Type().IsTupleType() && !v.Type().IsListType() {
			return expected
		}
		all := []string{}
		for _, e := range v.AsValueSlice() {
			if e.IsNull() || e.Type() != cty.String {
				return expected
			}
			all = append(all, e.AsString())
		}
		*to = all
		return ""
	}}
}

// table takes names with strings, numbers or booleans, all kept as text.
func table(name string, to *map[string]string) field {
	const expected = `names with values, such as { shared_buffers = "4GB" }`
	return field{name: name, take: func(v cty.Value) string {
		if !v.Type().IsObjectType() && !v.Type().IsMapType() {
			return expected
		}
		all := map[string]string{}
		for key, e := range v.AsValueMap() {
			switch {
			case e.IsNull():
				return expected
			case e.Type() == cty.String:
				all[key] = e.AsString()
			case e.Type() == cty.Number:
				all[key] = e.AsBigFloat().Text('f', -1)
			case e.Type() == cty.Bool:
				all[key] = map[bool]string{true: "on", false: "off"}[e.True()]
			default:
				return expected
			}
		}
		*to = all
		return ""
	}}
}

// networks takes a list of networks and addresses.
func networks(name string, to *[]netip.Prefix) field {
	var given []string
	f := list(name, &given)
	take := f.take
	f.take = func(v cty.Value) string {
		const expected = `a list of networks or addresses, such as ["10.0.0.0/8", "192.0.2.7"]`
		if take(v) != "" {
			return expected
		}
		*to = nil
		for _, text := range given {
			network, err := netip.ParsePrefix(text)
			if address, bad := netip.ParseAddr(text); bad == nil {
				network, err = netip.PrefixFrom(address.WithZone(""), address.BitLen()), nil
			}
			if err != nil {
				return expected
			}
			*to = append(*to, network.Masked())
		}
		return ""
	}
	return f
}

// address takes host:port, where a go-sockaddr template may stand for either.
func (r *reader) address(name string, to *string) field {
	f := text(name, to)
	take := f.take
	f.take = func(v cty.Value) string {
		if expected := take(v); expected != "" {
			return "an address, host:port"
		}
		resolved, err := resolve(r.env, *to)
		if err != nil {
			return "an address (" + err.Error() + ")"
		}
		*to = resolved
		return ""
	}
	return f
}

// names returns what a body may hold.
func names(fields []field, blocks []block) []string {
	var all []string
	for _, f := range fields {
		all = append(all, f.name)
	}
	for _, b := range blocks {
		all = append(all, b.name)
	}
	return all
}

func join(path, name string) string {
	if path == "" || name == "" {
		return path + name
	}
	return path + "." + name
}

func inBlock(path string) string {
	if path == "" {
		return ""
	}
	return fmt.Sprintf(" in block %s", strings.ReplaceAll(path, ".", " "))
}
