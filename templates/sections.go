package templates

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"text/template"
	"text/template/parse"
)

// A file that lists a thousand services changes in one of them at a time. So
// what {{ range service … }} and {{ range tree … }} printed last time is printed
// again where their list is the same and their body depends on nothing else: such
// a range becomes a template of its own, called through sectionFunction.

// sectionFunction stands in the place of a range whose output is kept.
const sectionFunction = "_section"

// listFunctions give lists of Consul's, which a range may go over.
var listFunctions = []string{"service", "ls", "safeLs", "tree", "safeTree"}

// section is what one range printed, and for which list.
type section struct {
	list any
	text Block
}

// sections are those of one rendering: of each range, in the order in which it
// was executed.
type sections map[int][]section

// kept hands the sections of the last rendering to the next one. A rendering at
// the same time gets none.
type kept struct {
	mu   sync.Mutex
	last sections
}

func (k *kept) take() sections {
	k.mu.Lock()
	defer k.mu.Unlock()
	last := k.last
	k.last = nil
	return last
}

func (k *kept) put(s sections) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = s
}

// section is sectionFunction.
func (f *functions) section(id int, list any) (Block, error) {
	if f.sections == nil {
		f.sections = sections{}
	}
	n := len(f.sections[id])
	if last := f.last[id]; n < len(last) && sameList(last[n].list, list) {
		f.sections[id] = append(f.sections[id], last[n])
		return last[n].text, nil
	}
	var out bytes.Buffer
	if err := f.template.ExecuteTemplate(&limitedBuffer{Buffer: &out}, sectionName(f.template.Name(), id), list); err != nil {
		f.failed = err // what it is wrapped in says less
		return "", err
	}
	s := section{list, Block(out.String())}
	f.sections[id] = append(f.sections[id], s)
	return s.text, nil
}

func sameList(a, b any) bool {
	switch a := a.(type) {
	case []Instance:
		b, ok := b.([]Instance)
		return ok && slices.EqualFunc(a, b, Instance.equal)
	case []KeyPair:
		b, ok := b.([]KeyPair)
		return ok && slices.Equal(a, b)
	}
	return false
}

func (i Instance) equal(j Instance) bool {
	return i.ID == j.ID && i.Name == j.Name && i.Node == j.Node && i.NodeAddress == j.NodeAddress && i.Address == j.Address &&
		i.Port == j.Port && i.Status == j.Status && slices.Equal(i.Tags, j.Tags) && maps.Equal(i.ServiceMeta, j.ServiceMeta)
}

func sectionName(template string, id int) string { return template + " range " + strconv.Itoa(id) }

// splitter gives ranges a template of their own.
type splitter struct {
	tmpl *template.Template
	pure map[string]bool // functions whose result depends on their arguments only
	next int
}

// separateRanges takes the ranges that can be kept out of a template and all that it
// defines.
func separateRanges(t *template.Template) error {
	s := splitter{tmpl: t, pure: map[string]bool{}}
	for _, table := range []template.FuncMap{encoding(), text(), lists()} {
		for name := range table {
			s.pure[name] = true
		}
	}
	for _, name := range []string{guardFunction, "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "len", "index", "slice", "print", "printf", "println"} {
		s.pure[name] = true
	}
	for _, part := range t.Templates() {
		if part.Tree != nil && part.Root != nil {
			if err := s.list(part.Tree, part.Root); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *splitter) list(tree *parse.Tree, list *parse.ListNode) error {
	if list == nil {
		return nil
	}
	for i, n := range list.Nodes {
		var inside []*parse.ListNode
		switch n := n.(type) {
		case *parse.RangeNode:
			if s.separable(n) {
				call, err := s.separate(tree, n)
				if err != nil {
					return err
				}
				list.Nodes[i] = call
				continue
			}
			inside = []*parse.ListNode{n.List, n.ElseList}
		case *parse.IfNode:
			inside = []*parse.ListNode{n.List, n.ElseList}
		case *parse.WithNode:
			inside = []*parse.ListNode{n.List, n.ElseList}
		}
		for _, l := range inside {
			if err := s.list(tree, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// separable reports whether a range goes over a list of Consul's, and depends on
// nothing but that.
func (s *splitter) separable(n *parse.RangeNode) bool {
	if len(n.Pipe.Decl) > 0 || n.ElseList != nil {
		return false
	}
	last := n.Pipe.Cmds[len(n.Pipe.Cmds)-1]
	id, ok := last.Args[0].(*parse.IdentifierNode)
	return ok && slices.Contains(listFunctions, id.Ident) && s.pureNode(n.List)
}

// separate makes the template, and returns the call of it.
func (s *splitter) separate(tree *parse.Tree, n *parse.RangeNode) (parse.Node, error) {
	id := s.next
	s.next++
	over := n.Pipe
	dot := &parse.CommandNode{NodeType: parse.NodeCommand, Pos: over.Pos, Args: []parse.Node{&parse.DotNode{NodeType: parse.NodeDot, Pos: over.Pos}}}
	n.Pipe = &parse.PipeNode{NodeType: parse.NodePipe, Pos: over.Pos, Line: over.Line, Cmds: []*parse.CommandNode{dot}}
	own := tree.Copy() // it keeps the text, of which errors name the line
	own.Root = &parse.ListNode{NodeType: parse.NodeList, Pos: n.Pos, Nodes: []parse.Node{n}}
	name := sectionName(s.tmpl.Name(), id)
	if s.tmpl.Lookup(name) != nil {
		return nil, fmt.Errorf("a template must not be named %q", name)
	}
	if _, err := s.tmpl.AddParseTree(name, own); err != nil {
		return nil, fmt.Errorf("separate a range: %w", err)
	}
	call := &parse.CommandNode{NodeType: parse.NodeCommand, Pos: over.Pos, Args: []parse.Node{
		parse.NewIdentifier(sectionFunction).SetPos(over.Pos),
		&parse.NumberNode{NodeType: parse.NodeNumber, Pos: over.Pos, IsInt: true, Int64: int64(id), Text: strconv.Itoa(id)},
		over,
	}}
	return &parse.ActionNode{NodeType: parse.NodeAction, Pos: n.Pos, Line: n.Line,
		Pipe: &parse.PipeNode{NodeType: parse.NodePipe, Pos: n.Pos, Line: n.Line, Cmds: []*parse.CommandNode{call}}}, nil
}

// pureNode reports whether what a node gives depends on dot alone. What is not
// known does not.
func (s *splitter) pureNode(n parse.Node) bool {
	switch n := n.(type) {
	case *parse.TextNode, *parse.CommentNode, *parse.BreakNode, *parse.ContinueNode, *parse.DotNode, *parse.FieldNode,
		*parse.StringNode, *parse.NumberNode, *parse.BoolNode, *parse.NilNode:
		return true
	case *parse.IdentifierNode:
		return s.pure[n.Ident]
	case *parse.ChainNode:
		return s.pureNode(n.Node)
	case *parse.ListNode:
		return n == nil || s.pureNodes(n.Nodes)
	case *parse.ActionNode:
		return s.pureNode(n.Pipe)
	case *parse.CommandNode:
		return s.pureNodes(n.Args)
	case *parse.PipeNode:
		return len(n.Decl) == 0 && !slices.ContainsFunc(n.Cmds, func(c *parse.CommandNode) bool { return !s.pureNode(c) })
	case *parse.IfNode:
		return s.pureNode(n.Pipe) && s.pureNode(n.List) && s.pureNode(n.ElseList)
	case *parse.WithNode:
		return s.pureNode(n.Pipe) && s.pureNode(n.List) && s.pureNode(n.ElseList)
	case *parse.RangeNode:
		return s.pureNode(n.Pipe) && s.pureNode(n.List) && s.pureNode(n.ElseList)
	}
	return false
}

func (s *splitter) pureNodes(all []parse.Node) bool {
	return !slices.ContainsFunc(all, func(n parse.Node) bool { return !s.pureNode(n) })
}
