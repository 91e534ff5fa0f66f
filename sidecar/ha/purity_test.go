package ha_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The core is a function of its arguments. What could make it anything else is
// refused here, by syntax; a clock behind an allowed package could not be seen,
// so the lists are short, and say what is allowed rather than what is not.
var (
	pureImports = []string{"cmp", "errors", "fmt", "slices", "strconv", "strings", "time"}
	// pureNames restricts packages that hold more than pure functions.
	pureNames = map[string][]string{
		"time": {"Duration", "Nanosecond", "Microsecond", "Millisecond", "Second", "Minute", "Hour"},
		"fmt":  {"Sprint", "Sprintf", "Errorf", "Append", "Appendf", "Stringer"},
	}
	impureBuiltins = []string{"panic", "recover", "print", "println", "close"}
)

// TestPure holds the core to its contract: no clock, goroutine, channel, map,
// mutable package variable, panic or I/O.
func TestPure(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, fault := range impurities(t, name, string(source)) {
			t.Error(fault)
		}
		checked++
	}
	if checked == 0 {
		t.Error("no files checked")
	}
}

// TestPureFindsFaults plants each fault that TestPure exists for.
func TestPureFindsFaults(t *testing.T) {
	const header = "package ha\n"
	for _, c := range []struct{ name, source, want string }{
		{"import of I/O", `import "os"`, `imports "os"`},
		{"import of a vendor's library", `import "github.com/hashicorp/go-hclog"`, `imports "github.com/hashicorp/go-hclog"`},
		{"import of ours", `import "github.com/pgsidecar/pgsidecar/checks"`, "imports"},
		{"import of C", `import "C"`, "imports"},
		{"renamed import", `import clock "time"`, "renames"},
		{"dot import", `import . "time"`, "renames"},
		{"clock", "import \"time\"\nfunc f() { _ = time.Now() }", "time.Now"},
		{"clock as a value", "import \"time\"\nfunc f() { g := time.Since; _ = g }", "time.Since"},
		{"sleep", "import \"time\"\nfunc f() { time.Sleep(1) }", "time.Sleep"},
		{"timer", "import \"time\"\nfunc f() { time.NewTimer(1) }", "time.NewTimer"},
		{"output", "import \"fmt\"\nfunc f() { fmt.Println() }", "fmt.Println"},
		{"goroutine", "func f() { go f() }", "goroutine"},
		{"channel", "func f(c chan int) {}", "channel"},
		{"receive", "func f() { <-g() }", "channel"},
		{"select", "func f() { select {} }", "channel"},
		{"map type", "type m map[string]int", "map"},
		{"map literal", "func f() { _ = map[int]int{} }", "map"},
		{"variable", "var n int", "package variable n"},
		{"exported array", "var Names = [...]string{}", "package variable Names"},
		{"slice", "var names = []string{}", "package variable names"},
		{"initialiser", "func init() {}", "init"},
		{"panic", "func f() { panic(1) }", "panic"},
		{"print", "func f() { println(1) }", "println"},
		{"directive", "//go:linkname now time.now\nfunc now()", "directive"},
	} {
		t.Run(c.name, func(t *testing.T) {
			faults := impurities(t, "planted.go", header+c.source)
			if !strings.Contains(strings.Join(faults, "\n"), c.want) {
				t.Errorf("got %q, want a fault that says %q", faults, c.want)
			}
		})
	}
	t.Run("nothing wrong", func(t *testing.T) {
		const pure = header + "import (\n\"errors\"\n\"time\"\n)\n" +
			"var ErrOne = errors.New(\"one\")\nvar names = [...]string{\"a\"}\nvar _ error = ErrOne\n" +
			"func f(d time.Duration) time.Duration { return d + time.Second }"
		if faults := impurities(t, "pure.go", pure); len(faults) > 0 {
			t.Errorf("got %q", faults)
		}
	})
}

// impurities returns what in a source file is not pure, with its place.
func impurities(t *testing.T, name, source string) []string {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, source, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var faults []string
	fault := func(at token.Pos, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("%s: %s", set.Position(at), fmt.Sprintf(format, args...)))
	}
	for _, spec := range file.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		if !slices.Contains(pureImports, path) {
			fault(spec.Pos(), "imports %q; the core imports only %v", path, pureImports)
		}
		if spec.Name != nil {
			fault(spec.Pos(), "renames import %q, which hides it from this test", path)
		}
	}
	for _, group := range file.Comments {
		for _, c := range group.List {
			if strings.HasPrefix(c.Text, "//go:") {
				fault(c.Pos(), "compiler directive %s", c.Text)
			}
		}
	}
	for _, decl := range file.Decls {
		if gen, ok := decl.(*ast.GenDecl); ok && gen.Tok == token.VAR {
			for _, spec := range gen.Specs {
				for _, v := range mutable(spec.(*ast.ValueSpec)) {
					fault(spec.Pos(), "package variable %s: state belongs in State", v)
				}
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if what := impure(n); what != "" {
			fault(n.Pos(), "%s", what)
		}
		return true
	})
	return faults
}

// impure says what is wrong with one node of the syntax tree, or nothing.
func impure(n ast.Node) string {
	switch n := n.(type) {
	case *ast.GoStmt:
		return "starts a goroutine"
	case *ast.ChanType, *ast.SendStmt, *ast.SelectStmt:
		return "uses a channel"
	case *ast.UnaryExpr:
		if n.Op == token.ARROW {
			return "receives from a channel"
		}
	case *ast.MapType:
		return "uses a map, whose order is random; use a sorted slice"
	case *ast.FuncDecl:
		if n.Recv == nil && n.Name.Name == "init" {
			return "has an init function"
		}
	case *ast.CallExpr:
		if id, ok := n.Fun.(*ast.Ident); ok && slices.Contains(impureBuiltins, id.Name) {
			return "calls " + id.Name + "; trouble is a value here"
		}
	case *ast.SelectorExpr:
		pkg, ok := n.X.(*ast.Ident)
		if !ok {
			break
		}
		if names, restricted := pureNames[pkg.Name]; restricted && !slices.Contains(names, n.Sel.Name) {
			return fmt.Sprintf("uses %s.%s; of %s the core uses only %v", pkg.Name, n.Sel.Name, pkg.Name, names)
		}
	}
	return ""
}

// mutable returns the names that a package-level declaration makes variable:
// all but sentinel errors, unexported arrays (tables of names), and the blank.
func mutable(spec *ast.ValueSpec) []string {
	var names []string
	for i, id := range spec.Names {
		var value ast.Expr
		if i < len(spec.Values) {
			value = spec.Values[i]
		}
		if id.Name != "_" && !isSentinel(value) && !(isArray(value) && !id.IsExported()) {
			names = append(names, id.Name)
		}
	}
	return names
}

// isSentinel reports whether the expression is errors.New("…").
func isSentinel(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && pkg.Name == "errors" && sel.Sel.Name == "New"
}

// isArray reports whether the expression is a literal of an array, not a slice.
func isArray(e ast.Expr) bool {
	lit, ok := e.(*ast.CompositeLit)
	if !ok {
		return false
	}
	array, ok := lit.Type.(*ast.ArrayType)
	return ok && array.Len != nil
}
