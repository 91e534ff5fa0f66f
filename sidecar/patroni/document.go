package patroni

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// document is a pg.hcl while it is written: blocks in a fixed order, keys in theirs.
type document struct{ top *blockOf }

// blockOf is one block.
type blockOf struct {
	header string // such as `hook "vip"`; empty: the file itself
	keys   []pair
	blocks []*blockOf
}

// pair is one key with its value as HCL has it.
type pair struct{ key, value, comment string }

// blockOrder is that of pgsidecar config init.
var blockOrder = []string{"consul", "service", "postgres", "api", "peers", "durability", "failover", "tags", "bootstrap", "hook", "log"}

func newDocument() *document { return &document{top: &blockOf{}} }

// block returns a block by its headers, and makes it if need be.
func (d *document) block(headers ...string) *blockOf {
	at := d.top
	for _, h := range headers {
		i := slices.IndexFunc(at.blocks, func(b *blockOf) bool { return b.header == h })
		if i < 0 {
			at.blocks = append(at.blocks, &blockOf{header: h})
			i = len(at.blocks) - 1
		}
		at = at.blocks[i]
	}
	return at
}

// set writes a key; a later value takes the place of an earlier one.
func (b *blockOf) set(key, value string) { b.setWith(key, value, "") }

// text writes a string.
func (b *blockOf) text(key, value string) { b.set(key, quote(value)) }

func (b *blockOf) setWith(key, value, comment string) {
	i := slices.IndexFunc(b.keys, func(p pair) bool { return p.key == key })
	if i < 0 {
		b.keys = append(b.keys, pair{})
		i = len(b.keys) - 1
	}
	b.keys[i] = pair{key, value, comment}
}

// has reports whether a key is written.
func (b *blockOf) has(key string) bool {
	return slices.ContainsFunc(b.keys, func(p pair) bool { return p.key == key })
}

// String is the file.
func (d *document) String() string {
	slices.SortStableFunc(d.top.blocks, func(a, b *blockOf) int { return place(a.header) - place(b.header) })
	var out strings.Builder
	d.top.print(&out, "")
	return out.String()
}

func place(header string) int {
	first, _, _ := strings.Cut(header, " ")
	return slices.Index(blockOrder, first)
}

func (b *blockOf) print(out *strings.Builder, indent string) {
	widest := 0
	for _, p := range b.keys {
		if !strings.Contains(p.value, "\n") {
			widest = max(widest, len(p.key))
		}
	}
	for _, p := range b.keys {
		pad := strings.Repeat(" ", max(0, widest-len(p.key)))
		if strings.Contains(p.value, "\n") {
			pad = ""
		}
		fmt.Fprintf(out, "%s%s%s = %s", indent, p.key, pad, strings.ReplaceAll(p.value, "\n", "\n"+indent))
		if p.comment != "" {
			out.WriteString(" # " + p.comment)
		}
		out.WriteString("\n")
	}
	for _, sub := range b.blocks {
		if len(sub.keys)+len(sub.blocks) == 0 {
			continue
		}
		if indent == "" || len(b.keys) > 0 || sub != b.blocks[0] {
			out.WriteString("\n")
		}
		fmt.Fprintf(out, "%s%s {\n", indent, sub.header)
		sub.print(out, indent+"  ")
		out.WriteString(indent + "}\n")
	}
}

// quote writes a string as HCL does (HCL native syntax specification, Template
// Expressions).
func quote(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`, "${", "$${", "%{", "%%{").Replace(s)
	return `"` + s + `"`
}

// quoteAll writes a list of strings, one to a line if there are several.
func quoteAll(all []string) string {
	if len(all) == 1 {
		return "[" + quote(all[0]) + "]"
	}
	var out strings.Builder
	out.WriteString("[\n")
	for _, s := range all {
		out.WriteString("  " + quote(s) + ",\n")
	}
	return out.String() + "]"
}

func truthOf(is bool) string { return strconv.FormatBool(is) }
