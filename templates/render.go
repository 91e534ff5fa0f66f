package templates

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
	"time"
)

//go:embed files/*.tmpl files/consul-template
var builtin embed.FS

// Page is what a template is executed with: the topology's fields stand beside
// the settings, so that a template says .Primary, .Members, .HAProxy.Socket.
type Page struct {
	Topology
	HAProxy   HAProxySettings
	PgBouncer PgBouncerSettings
}

// Settings are a file's settings that do not come from Consul.
type Settings struct {
	HAProxy   HAProxySettings
	PgBouncer PgBouncerSettings
}

// NewPage joins a topology and settings, with the settings' defaults filled in.
// It returns ErrUnsafe if a setting cannot stand in a configuration file.
func NewPage(t Topology, s Settings) (Page, error) {
	h, err := s.HAProxy.withDefaults(t.Service)
	if err != nil {
		return Page{}, err
	}
	b, err := s.PgBouncer.withDefaults()
	if err != nil {
		return Page{}, err
	}
	return Page{Topology: t, HAProxy: h.across(t.RoundTrip), PgBouncer: b}, nil
}

// Builtin lists the templates that are part of this program, by the names that
// NewTemplate takes.
func Builtin() []string {
	names, err := fs.Glob(builtin, "files/*.tmpl")
	if err != nil {
		return nil // only for a bad pattern
	}
	for i := range names {
		names[i] = strings.TrimSuffix(path.Base(names[i]), ".tmpl")
	}
	return names
}

// BuiltinText returns the text of a built-in template; "haproxy" is
// "haproxy.cfg", and so on. It returns an error that is fs.ErrNotExist for a name that Builtin does not list.
func BuiltinText(name string) (string, error) {
	for _, known := range Builtin() {
		if name == strings.TrimSuffix(known, path.Ext(known)) {
			name = known
			break
		}
	}
	b, err := builtin.ReadFile("files/" + name + ".tmpl")
	if err != nil {
		return "", fmt.Errorf("built-in template %q (there are %s): %w", name, strings.Join(Builtin(), ", "), fs.ErrNotExist)
	}
	return string(b), nil
}

// ForConsulTemplate lists the files that give the same routing to those who run
// HashiCorp's consul-template, or Nomad's template blocks, instead of this
// program: templates in that program's language, and its configuration.
func ForConsulTemplate() []string {
	entries, err := fs.ReadDir(builtin, "files/consul-template")
	if err != nil {
		return nil // they are part of the program
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// ForConsulTemplateText returns the text of one of them. It returns an error
// that is fs.ErrNotExist for a name that ForConsulTemplate does not list.
func ForConsulTemplateText(name string) (string, error) {
	b, err := builtin.ReadFile("files/consul-template/" + name)
	if err != nil {
		return "", fmt.Errorf("file for consul-template %q (there are %s): %w", name, strings.Join(ForConsulTemplate(), ", "), fs.ErrNotExist)
	}
	return string(b), nil
}

// Template is a parsed template. It may be rendered by several goroutines.
type Template struct{ tmpl *template.Template }

// Delimiters of a template's actions; the zero value is {{ and }}.
type Delimiters struct{ Left, Right string }

// ParseTemplate reads a template in consul-template's syntax. Whatever an
// action prints is checked: a value with a line break or another control
// character makes Render return ErrUnsafe, unless it comes from a function
// whose purpose it is to give lines (see Block).
func ParseTemplate(name, text string, d Delimiters) (*Template, error) {
	t := template.New(name).Delims(d.Left, d.Right).Option("missingkey=error").Funcs(placeholders())
	t, err := t.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("parse template: %w", err)
	}
	for _, part := range t.Templates() {
		if part.Tree != nil && part.Root != nil {
			guardList(part.Root)
		}
	}
	return &Template{tmpl: t}, nil
}

// Mentions reports whether the template has one of these fields in it.
func (t *Template) Mentions(fields ...string) bool {
	for _, part := range t.tmpl.Templates() {
		if part.Tree == nil || part.Root == nil {
			continue
		}
		text := part.Root.String()
		if slices.ContainsFunc(fields, func(f string) bool { return strings.Contains(text, "."+f) }) {
			return true
		}
	}
	return false
}

// Render executes the template. The context bounds what it reads from Consul.
// A template that asks for what was never read gets ErrNotReady, and writes
// nothing.
func (t *Template) Render(ctx context.Context, page Page, env Env) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, renderTimeout)
	defer cancel()
	clone, err := t.tmpl.Clone()
	if err != nil {
		return nil, fmt.Errorf("copy template: %w", err)
	}
	var out bytes.Buffer
	f := &functions{ctx: ctx, env: env, template: clone}
	err = clone.Funcs(f.table()).Execute(&limitedBuffer{Buffer: &out}, page)
	if f.pending != nil {
		err = f.pending // the rest follows from it
	}
	if err != nil {
		return nil, fmt.Errorf("render template: %w", err)
	}
	return out.Bytes(), nil
}

// renderTimeout is how long one rendering may wait for Consul's answers.
const renderTimeout = 10 * time.Second

// maxRendered is what one file may have, in bytes: a loop without an end must
// not take the memory that PostgreSQL needs.
const maxRendered = 16 << 20

type limitedBuffer struct{ *bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxRendered {
		return 0, fmt.Errorf("file would be larger than %d bytes", maxRendered)
	}
	return b.Buffer.Write(p)
}

// Block is text that may have several lines: what toJSONPretty, toYAML,
// indent, executeTemplate and multiline give.
type Block string

// guardFunction is appended to the pipeline of every printing action, as
// html/template appends its escapers.
const guardFunction = "_one_line"

func guardList(list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			if len(n.Pipe.Decl) == 0 && !guarded(n.Pipe) {
				id := parse.NewIdentifier(guardFunction).SetPos(n.Pos)
				n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Pos, Args: []parse.Node{id}})
			}
		case *parse.IfNode:
			guardList(n.List)
			guardList(n.ElseList)
		case *parse.RangeNode:
			guardList(n.List)
			guardList(n.ElseList)
		case *parse.WithNode:
			guardList(n.List)
			guardList(n.ElseList)
		case *parse.ListNode:
			guardList(n)
		}
	}
}

func guarded(p *parse.PipeNode) bool {
	return slices.ContainsFunc(p.Cmds, func(c *parse.CommandNode) bool {
		id, ok := c.Args[0].(*parse.IdentifierNode)
		return ok && id.Ident == guardFunction
	})
}

// oneLine is guardFunction. It gives its argument back unchanged, so that it
// is printed as ever.
func oneLine(v any) (any, error) {
	var text string
	switch v := v.(type) {
	case Block, int, int64, uint64, bool:
		return v, nil
	case string:
		text = v
	default:
		text = fmt.Sprint(v)
	}
	if !OneLine(text) {
		return nil, fmt.Errorf("a value with a line break: %w", ErrUnsafe)
	}
	return v, nil
}
