package sidecar_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// What no function or file may exceed. They are ceilings, not aims: what comes
// near one is two things.
const (
	maxFunction   = 80  // lines
	maxParameters = 4   // besides the context; more are a struct
	maxNesting    = 4   // blocks within blocks
	maxFile       = 500 // lines
	maxFields     = 20  // of a struct; an embedded one counts as one
	maxMethods    = 8   // of an interface
)

// wide are the structs that may have more fields, each with the reason. Either it is
// one file format or one message, whose fields are what its other side knows, and no
// object with a life of its own; or it is yet to be split.
var wide = map[string]string{
	"sidecar/ha.Report":         "a message: what members tell each other",
	"sidecar/ha.State":          "what one decision tells the next; a value",
	"sidecar/api.Status":        "a message: the answer to GET /status",
	"sidecar/api.View":          "a message: what the API is told of the member",
	"sidecar/drill.Report":      "a file format: a drill's results",
	"templates.HAProxySettings": "a file format: the block haproxy",
	"sessions.Client":           late,
	"sidecar/guard.keeper":      late,
	"sidecar/ha/sim.World":      late,
	"sidecar/ha/sim.server":     late,
	"sidecar/ha/sim.sidecar":    late,
}

const late = "yet to be split"

// undocumented are packages whose comment is still to be written.
var undocumented = []string{}

// TestCeilings holds the product's code (not its tests) to the ceilings, every
// package to a package comment, and everything to the rule that nobody sleeps:
// what is waited for is an event, or virtual time in a testing/synctest bubble.
func TestCeilings(t *testing.T) {
	faults := ceilingFaults(t, os.DirFS(".."))
	for _, f := range faults {
		t.Error(f)
	}
}

// TestCeilingsFindsFaults plants each fault that TestCeilings exists for.
func TestCeilingsFindsFaults(t *testing.T) {
	const doc = "// Package p is planted.\npackage p\n"
	for _, c := range []struct{ name, file, source, want string }{
		{"a long function", "a.go", doc + "func f() {" + strings.Repeat("\n", 80) + "}", "81 lines"},
		{"a long literal", "a.go", doc + "var f = func() {" + strings.Repeat("\n", 80) + "}", "81 lines"},
		{"many parameters", "a.go", doc + "func f(a, b int, c, d string, e bool) {}", "5 parameters"},
		{"many besides a context", "a.go", doc + "func f(ctx context.Context, a, b, c, d, e int) {}", "5 parameters"},
		{"deep nesting", "a.go", doc + "func f() { if x { for { switch { default: if y { if z {} } } } } }", "5 deep"},
		{"a long file", "a.go", doc + strings.Repeat("\n", 500), "502 lines"},
		{"a wide struct", "a.go", doc + "type t struct { " + strings.Repeat("a, b, c int\n", 7) + "}", "p.t has 21 fields"},
		{"a wide interface", "a.go", doc + "type t interface { " + strings.Repeat("a()\n", 9) + "}", "p.t has 9 methods"},
		{"no package comment", "a.go", "package p", "no package comment"},
		{"sleep", "a.go", doc + "import \"time\"\nfunc f() { time.Sleep(1) }", "time.Sleep"},
		{"sleep in a test", "a_test.go", "package p\nimport \"time\"\nfunc f() { time.Sleep(1) }", "time.Sleep"},

		{"sleep in a bubble", "a_test.go", "package p\nimport (\"testing/synctest\"; \"time\")\nfunc f() { time.Sleep(1) }", ""},
		{"an embedded struct is one field", "a.go", doc + "type t struct { u; " + strings.Repeat("a\n", 19) + "}", ""},
		{"a long test", "a_test.go", "package p\nfunc f() {" + strings.Repeat("\n", 600) + "}", ""},
		{"a context is not counted", "a.go", doc + "func f(ctx context.Context, a, b, c, d int) {}", ""},
		{"else if is no deeper", "a.go", doc + "func f() { if a {} else if b {} else if c {} else if d {} else if e {} }", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(ceilingFaults(t, fstest.MapFS{"p/" + c.file: {Data: []byte(c.source)}}), "\n")
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// ceilingFaults checks every Go file of a tree.
func ceilingFaults(t *testing.T, root fs.FS) []string {
	t.Helper()
	var faults []string
	documented := map[string]bool{} // by package; only those with product code
	for name, source := range goFiles(t, root) {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, source, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, "_test.go") {
			dir := path.Dir(name)
			documented[dir] = documented[dir] || file.Doc != nil
			faults = append(faults, tooMuch(set, file)...)
		}
		if !importsPath(file, "testing/synctest") {
			faults = append(faults, sleeps(set, file)...)
		}
	}
	for dir, has := range documented {
		switch late := slices.Contains(undocumented, dir); {
		case !has && !late:
			faults = append(faults, dir+": no package comment")
		case has && late:
			faults = append(faults, dir+": has its package comment; take it from the list undocumented")
		}
	}
	return faults
}

// tooMuch returns what in a file exceeds a ceiling.
func tooMuch(set *token.FileSet, file *ast.File) []string {
	var faults []string
	fault := func(at token.Pos, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("%s: %s", set.Position(at), fmt.Sprintf(format, args...)))
	}
	if n := set.File(file.Pos()).LineCount(); n > maxFile {
		fault(file.Pos(), "file has %d lines, more than %d", n, maxFile)
	}
	check := func(n ast.Node, signature *ast.FuncType, body *ast.BlockStmt) {
		if lines := set.Position(n.End()).Line - set.Position(n.Pos()).Line + 1; lines > maxFunction {
			fault(n.Pos(), "function has %d lines, more than %d", lines, maxFunction)
		}
		if p := parameters(signature); p > maxParameters {
			fault(n.Pos(), "function has %d parameters, more than %d", p, maxParameters)
		}
		if body == nil {
			return
		}
		if depth := nesting(body); depth > maxNesting {
			fault(n.Pos(), "function is nested %d deep, more than %d", depth, maxNesting)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.TypeSpec:
			name := path.Dir(set.Position(n.Pos()).Filename) + "." + n.Name.Name
			switch many, listed := tooWide(n.Type), wide[name] != ""; {
			case many != "" && !listed:
				fault(n.Pos(), "%s has %s", name, many)
			case many == "" && listed:
				fault(n.Pos(), "%s is not too wide; take it from the list wide", name)
			}
		case *ast.FuncDecl:
			check(n, n.Type, n.Body)
		case *ast.FuncLit:
			check(n, n.Type, n.Body)
		}
		return true
	})
	return faults
}

// tooWide says by how much a struct or an interface is too wide; empty: it is not.
func tooWide(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StructType:
		if n := t.Fields.NumFields(); n > maxFields {
			return fmt.Sprintf("%d fields, more than %d", n, maxFields)
		}
	case *ast.InterfaceType:
		if n := t.Methods.NumFields(); n > maxMethods {
			return fmt.Sprintf("%d methods, more than %d", n, maxMethods)
		}
	}
	return ""
}

// parameters counts a function's parameters without its context.
func parameters(f *ast.FuncType) int {
	n := f.Params.NumFields()
	if n == 0 {
		return 0
	}
	if sel, ok := f.Params.List[0].Type.(*ast.SelectorExpr); ok && sel.Sel.Name == "Context" {
		n--
	}
	return n
}

// nesting returns how many control structures of a function's own body lie in
// each other; function literals count for themselves.
func nesting(body ast.Node) int {
	deepest := 0
	var visit func(n ast.Node, depth int)
	visit = func(n ast.Node, depth int) {
		ast.Inspect(n, func(inner ast.Node) bool {
			if inner == n {
				return true
			}
			switch inner := inner.(type) {
			case *ast.FuncLit:
				return false
			case *ast.IfStmt:
				next := depth + 1
				if outer, ok := n.(*ast.IfStmt); ok && outer.Else == inner {
					next = depth // else if
				}
				deepest = max(deepest, next)
				visit(inner, next)
				return false
			case *ast.ForStmt, *ast.RangeStmt, *ast.SwitchStmt, *ast.TypeSwitchStmt, *ast.SelectStmt:
				deepest = max(deepest, depth+1)
				visit(inner, depth+1)
				return false
			}
			return true
		})
	}
	visit(body, 0)
	return deepest
}

// sleeps returns where time.Sleep is named.
func sleeps(set *token.FileSet, file *ast.File) []string {
	var faults []string
	ast.Inspect(file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
			if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "time" {
				faults = append(faults, fmt.Sprintf("%s: time.Sleep; wait for an event", set.Position(n.Pos())))
			}
		}
		return true
	})
	return faults
}

func importsPath(file *ast.File, path string) bool {
	for _, spec := range file.Imports {
		if spec.Path.Value == `"`+path+`"` {
			return true
		}
	}
	return false
}
