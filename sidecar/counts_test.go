package sidecar_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What is there once, and is to stay so. Tests are not counted.
const (
	maxParseSites = 1 // calls of settings.Parse outside of package settings
	maxClients    = 1 // clients of HTTP that are not Consul's: those of a member's API
)

// TestCounts: the cluster-wide settings are parsed at one place besides their Reader,
// a member's API has one client, and no command knows an adapter.
func TestCounts(t *testing.T) {
	sites, clients := 0, []string{}
	adapters := []string{"checks", "sessions", "templates", "sidecar/guard", "sidecar/postgres"}
	for name, source := range goFiles(t, os.DirFS("..")) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, source, 0)
		if err != nil {
			t.Fatal(err)
		}
		dir := path.Dir(name)
		if strings.HasPrefix(dir, "sidecar") && !slices.Contains(askOthers, name) && strings.Contains(string(source), "http.Client{") {
			clients = append(clients, name)
		}
		if dir != "sidecar/settings" {
			sites += calls(file, "settings", "Parse")
		}
		if dir != "cmd/pgsidecar/cli" && dir != "cmd/pgsidecar" {
			continue
		}
		for _, spec := range file.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			if slices.Contains(adapters, strings.TrimPrefix(imported, module+"/")) {
				t.Errorf("%s imports %s: a command calls what does the work", name, imported)
			}
		}
	}
	if len(clients) != maxClients {
		t.Errorf("a member's API is asked by %q; want %d, sidecar/client", clients, maxClients)
	}
	if sites != maxParseSites {
		t.Errorf("the settings are parsed at %d places, want %d: take them from a settings.Reader", sites, maxParseSites)
	}
}

// askOthers are the files with a client of something else than a member's API.
var askOthers = []string{"sidecar/lab/labtest/consul.go", "sidecar/lab/consul.go", "sidecar/hooks/notice.go", "sidecar/assess/gather/gather.go", "sidecar/trace/exporter.go"}

// calls counts how often pkg.name is called in a file.
func calls(file *ast.File, pkg, name string) int {
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		call, is := node.(*ast.CallExpr)
		if !is {
			return true
		}
		if sel, is := call.Fun.(*ast.SelectorExpr); is && sel.Sel.Name == name {
			if id, is := sel.X.(*ast.Ident); is && id.Name == pkg {
				n++
			}
		}
		return true
	})
	return n
}
