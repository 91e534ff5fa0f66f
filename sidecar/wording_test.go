package sidecar_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// banned are turns of phrase that are not the usual English of this field: an
// operator stops at them. Each has the words that are usual.
var banned = []struct{ words, instead string }{
	{`\bof before\b`, "previous, earlier"},
	{`\bof then\b`, "at that time, earlier"},
	{`\bof now\b`, "current"},
	{`\b(goes|go|went|going) by\b`, "uses, follows, is sorted by"},
	{`\b(is|are|was|were|be) led on\b`, "continues"},
	{`\b(leaves|leave|left) word\b`, "reports, logs"},
	{`\bby (the )?word of\b`, "reported by"},
	{`\b(does|do|did) (not do )?as (asked|told)\b`, "failed, was refused"},
	{`\b(comes|come|came) about\b`, "happens, succeeds"},
	{`\b(is|are|was|were) no (other )?[a-z]+ that\b`, "does not, is not a ... that"},
	{`\b(which|that|who) (is|are|was|were) to lead\b`, "the candidate"},
	{`\bwhoever\b`, "the one that, anyone who"},
	{`\b(is|are|was|were|be|been) asked (for|of)\b`, "requested, required"},
	{`\bwhat is there is\b`, "say what exists"},
	{`\bit hung up\b`, "closed the connection"},
	{`\bgoes on (with|without)\b`, "continues, keeps"},
	{`\bis waited for\b`, "waiting for"},
	{`\bnobody of\b`, "none of"},
	{`\bthat of [a-z]+ \d`, "say it again"},
	{`\bare so already\b`, "already set"},
	{`\bthe guard's word\b`, "the guard's report"},
}

// phrases matches each of banned, whatever the case and the white space.
var phrases = func() []*regexp.Regexp {
	var all []*regexp.Regexp
	for _, b := range banned {
		all = append(all, regexp.MustCompile(`(?i)`+strings.ReplaceAll(b.words, " ", `\s+`)))
	}
	return all
}()

// TestWording holds whatever a person reads to plain English: the product's
// string literals and comments, the goldens of its tests, and Markdown.
func TestWording(t *testing.T) {
	for _, f := range wordingFaults(t, os.DirFS("..")) {
		t.Error(f)
	}
}

// TestWordingFindsFaults plants what TestWording exists for.
func TestWordingFindsFaults(t *testing.T) {
	for _, c := range []struct{ name, file, text, want string }{
		{"a message", "p/a.go", "package p\nvar s = \"the tag of before\"", "of before"},
		{"joined", "p/a.go", "package p\nvar s = \"the tag of \" +\n\"before\"", "of before"},
		{"joined with a value", "p/a.go", "package p\nvar s = \"members of then: \" + x", "of then"},
		{"raw", "p/a.go", "package p\nvar s = `Whoever\nreads`", "Whoever"},
		{"two lines", "p/README.md", "it goes\n  by priority", "goes\n  by"},
		{"golden", "p/testdata/a.txt", "nothing comes about", "comes about"},
		{"embedded", "p/help/a.md", "does as asked", "does as asked"},
		{"configuration", "p/example.hcl", "# what is there is kept", "what is there is"},
		{"every tense", "p/a.go", "package p\nvar s = \"the copy did not come about\"", "come about"},

		{"a comment", "p/a.go", "package p\n// f goes by priority.\nfunc f() {}", "goes by"},
		{"a comment on two lines", "p/a.go", "package p\n\n// f does not do as\n// asked.\nfunc f() {}", "does not do as\nasked"},
		{"a program's file", "p/Dockerfile", "# nothing comes about", "comes about"},
		{"a test's own text", "p/a_test.go", "package p\nvar s = \"of before\"", ""},
		{"good English", "p/a.go", "package p\nvar s = \"before the switchover the primary is not asked\"", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(wordingFaults(t, fstest.MapFS{c.file: {Data: []byte(c.text)}}), "\n")
			if (c.want == "") != (got == "") || !strings.Contains(got, strconv.Quote(c.want)) && c.want != "" {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// readable are the endings, or names, of files that people read as they are.
var readable = []string{".md", ".txt", ".want", ".golden", ".hcl", ".html", ".yml", ".rules", ".service", ".ctmpl", ".tmpl", ".json",
	"Makefile", "Dockerfile"}

// wordingFaults looks through a tree.
func wordingFaults(t *testing.T, root fs.FS) []string {
	t.Helper()
	var faults []string
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && !slices.Contains([]string{".", ".github"}, d.Name()), d.Name() == "bin":
			return fs.SkipDir
		case d.IsDir():
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		switch {
		case strings.HasSuffix(name, "_test.go"):
		case path.Ext(name) == ".go":
			faults = append(faults, sourceFaults(t, name, text)...)
		case slices.Contains(readable, path.Ext(name)), slices.Contains(readable, path.Base(name)):
			faults = append(faults, textFaults(token.Position{Filename: name, Line: 1}, string(text))...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return faults
}

// sourceFaults looks at the string literals and the comments of a Go file.
func sourceFaults(t *testing.T, name string, source []byte) []string {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, source, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var faults []string
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.BinaryExpr, *ast.BasicLit:
			if text, ok := literal(n.(ast.Expr)); ok {
				faults = append(faults, textFaults(set.Position(n.Pos()), text)...)
				return false
			}
		}
		return true
	})
	for _, group := range file.Comments {
		faults = append(faults, textFaults(set.Position(group.Pos()), group.Text())...)
	}
	return faults
}

// literal returns the text of a string literal, or of a sum of strings; "\x00"
// stands for each part of it that is known only when the program runs.
func literal(n ast.Expr) (string, bool) {
	switch n := n.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(n.Value)
		return text, n.Kind == token.STRING && err == nil
	case *ast.BinaryExpr:
		if n.Op != token.ADD {
			return "", false
		}
		left, okLeft := literal(n.X)
		right, okRight := literal(n.Y)
		if !okLeft && !okRight || !okLeft && holdsText(n.X) || !okRight && holdsText(n.Y) {
			return "", false // what is inside is looked at by itself
		}
		if !okLeft {
			left = "\x00"
		}
		if !okRight {
			right = "\x00"
		}
		return left + right, true
	}
	return "", false
}

// holdsText reports whether an expression may hold further literals.
func holdsText(n ast.Expr) bool {
	found := false
	ast.Inspect(n, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			found = true
		}
		return !found
	})
	return found
}

// textFaults returns the banned phrases of a text that begins at a position.
func textFaults(at token.Position, text string) []string {
	var faults []string
	for i, p := range phrases {
		for _, found := range p.FindAllStringIndex(text, -1) {
			line := at.Line + strings.Count(text[:found[0]], "\n")
			faults = append(faults, fmt.Sprintf("%s:%d: %q; better: %s", at.Filename, line, text[found[0]:found[1]], banned[i].instead))
		}
	}
	return faults
}
