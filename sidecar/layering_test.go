package sidecar_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "github.com/pgsidecar/pgsidecar"

// arrows is what one package may import besides the standard library.
type arrows struct {
	ours    []string // directories of this module; "*": all
	vendors []string // prefixes of import paths; "*": all
	// tests lists vendors, and directories of this module, that its tests may import
	// besides.
	tests []string
}

const (
	consulAPI  = "github.com/hashicorp/consul/api"
	dns        = "github.com/miekg/dns"
	hcl        = "github.com/hashicorp/hcl/v2"
	datadriven = "github.com/cockroachdb/datadriven"
	cty        = "github.com/zclconf/go-cty"
	hclog      = "github.com/hashicorp/go-hclog"
	porcupine  = "github.com/anishathalye/porcupine"
	pgx        = "github.com/jackc/pgx/v5"
	prometheus = "github.com/prometheus"
	sockaddr   = "github.com/hashicorp/go-sockaddr"
	cobra      = "github.com/spf13/cobra"
	cron       = "github.com/robfig/cron/v3"
	pflag      = "github.com/spf13/pflag"
	rapid      = "pgregory.net/rapid"
	xsync      = "golang.org/x/sync"
	xsys       = "golang.org/x/sys"
	xtext      = "golang.org/x/text" // which pgx needs already
	jsonpatch  = "github.com/evanphx/json-patch/v5"
	godiff     = "github.com/rogpeppe/go-internal/diff"
	isatty     = "github.com/mattn/go-isatty"
	testscript = "github.com/rogpeppe/go-internal/testscript"
	yaml       = "go.yaml.in/yaml/v3" // which cobra's pages need already
)

// graph is DESIGN: member and proxy know all; the shell and the adapters know the core;
// each vendor's library has one adapter. A package that is not here is an
// error, so that whoever adds one says where it belongs.
var graph = map[string]arrows{
	"cmd/pgsidecar": {ours: []string{"cmd/pgsidecar/cli"}, tests: []string{pgx, "sidecar/api", "sidecar/backup", "sidecar/ha", "sidecar/lab"}},
	// A command knows what does the work, and no adapter.
	"cmd/pgsidecar/cli": {ours: []string{"cmd/pgsidecar/cli/screen", "sidecar", "sidecar/api", "sidecar/assess", "sidecar/assess/gather", "sidecar/availability", "sidecar/backup", "sidecar/client", "sidecar/config", "sidecar/drill", "sidecar/failover", "sidecar/ha", "sidecar/install",
		"sidecar/lab", "sidecar/lab/programs", "sidecar/member", "sidecar/patroni", "sidecar/process", "sidecar/proxy", "sidecar/settings", "nomad"},
		vendors: []string{cobra, pflag, isatty, yaml}, tests: []string{hcl, cty, testscript}},
	// Text of values; it asks nobody.
	"cmd/pgsidecar/cli/screen": {ours: []string{"sidecar/api", "sidecar/drill", "sidecar/failover", "sidecar/ha", "sidecar/proxy"}},
	// These two put everything together.
	"sidecar/member":       {ours: []string{"*"}, vendors: []string{prometheus}},
	"sidecar/proxy":        {ours: []string{"*"}, vendors: []string{prometheus}, tests: []string{dns}},
	"sidecar/client":       {ours: []string{"sidecar/ha", "sidecar/api", "sidecar/config", "sessions"}},
	"sidecar/process":      {ours: []string{"sidecar/config", "sidecar/guard", "sidecar/postgres", "sessions", "nomad"}},
	"sidecar/install":      {ours: []string{"sessions"}},
	"sidecar":              {ours: []string{"sidecar/ha", "sidecar/failover", "sidecar/recent", "sidecar/settings"}, vendors: []string{prometheus}, tests: []string{rapid, "sessions", "sidecar/lab/labtest"}},
	"sidecar/hooks":        {ours: []string{"sidecar/ha"}},
	"sidecar/patroni":      {ours: []string{"sidecar/config", "sidecar/parameters", "sidecar/settings"}, vendors: []string{yaml}},
	"sidecar/availability": {},
	"sidecar/failover":     {ours: []string{"sidecar/ha"}},
	"sidecar/ha":           {tests: []string{rapid, datadriven, "sidecar/ha/sim"}},
	"sidecar/settings":     {ours: []string{"sidecar/ha", "sidecar/availability", "sidecar/parameters", "sidecar/rights"}, vendors: []string{jsonpatch, godiff}},
	"sidecar/ha/sim":       {ours: []string{"sidecar/ha"}, tests: []string{rapid, datadriven}},
	"sidecar/parameters":   {tests: []string{"sidecar/lab/labtest", "sidecar/lab/programs"}},
	"sidecar/postgres":     {ours: []string{"sidecar/ha", "sidecar/parameters", "sidecar/postmaster", "sidecar/rights"}},
	"sidecar/guard":        {ours: []string{"sidecar/ha", "sidecar/postmaster", "sidecar/rights"}},
	"sidecar/postmaster":   {ours: []string{"sidecar/rights"}},
	"sidecar/recent":       {ours: []string{"sidecar/ha"}},
	"sidecar/rights":       {},
	"sidecar/peers":        {ours: []string{"sidecar/ha", "sidecar/recent"}},
	"sidecar/api":          {ours: []string{"sidecar/availability", "sidecar/ha", "sidecar/failover", "sidecar/backup", "sidecar/page"}, vendors: []string{prometheus}},
	"sidecar/page":         {tests: []string{"sidecar/api", "sidecar/availability", "sidecar/failover", "sidecar/ha"}},
	"sidecar/config":       {ours: []string{"sidecar/ha", "sidecar/backup", "sidecar/hooks", "sidecar/parameters", "sidecar/settings"}, vendors: []string{hcl, cty, sockaddr}},
	"sidecar/lab":          {ours: []string{"*"}, vendors: []string{consulAPI, pgx, dns}},
	"sidecar/lab/labtest":  {ours: []string{"sidecar/lab/programs"}},
	"sidecar/lab/programs": {},
	"sidecar/drill":        {ours: []string{"*"}, vendors: []string{consulAPI, pgx, dns}, tests: []string{porcupine}},
	"checks":               {ours: []string{"sidecar/ha"}, vendors: []string{pgx, xtext}},
	"sessions":             {ours: []string{"sidecar/ha"}, vendors: []string{consulAPI}, tests: []string{dns}},
	"templates":            {ours: []string{"sidecar/ha"}, vendors: []string{godiff}},
	"templates/haproxy":    {ours: []string{"sidecar/ha", "templates"}, tests: []string{dns}},
	// PgBouncer's console speaks PostgreSQL's protocol.
	"templates/pgbouncer": {ours: []string{"sidecar/ha", "templates"}, vendors: []string{pgx}},
	"nomad":               {ours: []string{"sidecar/ha"}, vendors: []string{xsys}, tests: []string{hcl, cty, pgx}},

	// Spans for a collector.
	"sidecar/trace": {ours: []string{"sidecar/failover", "sidecar/ha"}},

	// How mature a cluster is.
	"sidecar/assess":        {},
	"sidecar/assess/gather": {ours: []string{"sidecar/api", "sidecar/assess", "sidecar/backup", "sidecar/client", "sidecar/drill"}, tests: []string{"sidecar/availability"}},

	// The engines of backups know its types, and run their programs by program.
	"sidecar/backup":            {ours: []string{"sidecar/ha"}, vendors: []string{cron}},
	"sidecar/backup/program":    {ours: []string{"sidecar/process", "sidecar/rights"}},
	"sidecar/backup/backuptest": {ours: []string{"sidecar/backup/program", "sidecar/lab/labtest", "sidecar/lab/programs"}},
	"sidecar/backup/pgbackrest": {ours: []string{"sidecar/ha", "sidecar/backup", "sidecar/backup/program"}, tests: []string{"sidecar/backup/backuptest"}},
	"sidecar/backup/command":    {ours: []string{"sidecar/ha", "sidecar/backup", "sidecar/backup/program"}, tests: []string{"sidecar/backup/backuptest"}},
	"sidecar/backup/logical":    {ours: []string{"sidecar/ha", "sidecar/backup", "sidecar/backup/program", "sidecar/rights"}, vendors: []string{pgx}, tests: []string{"sidecar/backup/backuptest"}},
	"sidecar/backup/proof":      {ours: []string{"sidecar/ha", "sidecar/backup", "sidecar/backup/program"}, vendors: []string{pgx}, tests: []string{"sidecar/backup/backuptest"}},
}

// everywhere may be imported by every package but the core.
var everywhere = []string{hclog, xsync, xsys}

// topLevel is the whole of the repository's top level, besides dot-files and
// what .gitignore names.
var topLevel = []string{"cmd", "sidecar", "checks", "sessions", "templates", "nomad",
	"go.mod", "go.sum", "Makefile", "README.md", "LICENSE", "bin"}

// TestLayering holds imports to the arrows in graph.
func TestLayering(t *testing.T) {
	root := os.DirFS("..")
	faults, checked := layeringFaults(t, root)
	for _, f := range faults {
		t.Error(f)
	}
	if checked == 0 {
		t.Error("no files checked")
	}
}

// TestTopLevel holds the repository's top level to what was agreed.
func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(topLevel, e.Name()) {
			t.Errorf("%s: not one of the agreed top-level entries %v", e.Name(), topLevel)
		}
	}
	for _, name := range []string{"go.mod", "Makefile", "README.md", "LICENSE"} {
		if _, err := os.Stat(filepath.Join("..", name)); err != nil {
			t.Error(err)
		}
	}
}

// TestConsulIsNotLinked keeps Consul's server, which is licensed otherwise and
// weighs 170 MB, out of the product: only its client may be required.
func TestConsulIsNotLinked(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if requiresConsul(string(mod)) {
		t.Error("go.mod requires github.com/hashicorp/consul; only its api module may be used")
	}
	for _, planted := range []string{"require github.com/hashicorp/consul v1.22.5", "require (\n\tgithub.com/hashicorp/consul v1.22.5 // indirect\n)"} {
		if !requiresConsul(planted) {
			t.Errorf("the planted %q was not found", planted)
		}
	}
	if requiresConsul("require (\n\tgithub.com/hashicorp/consul/api v1.34.5\n)") {
		t.Error("the client was taken for the server")
	}
}

func requiresConsul(mod string) bool {
	return regexp.MustCompile(`(?m)github\.com/hashicorp/consul(/sdk)?\s+v`).MatchString(mod)
}

// TestLayeringFindsFaults plants each fault that TestLayering exists for.
func TestLayeringFindsFaults(t *testing.T) {
	for _, c := range []struct {
		name, file, imports string
		want                string // empty: no fault
	}{
		{"adapter imports adapter", "checks/a.go", module + "/sessions", "may not import"},
		{"adapter imports the shell", "sessions/a.go", module + "/sidecar", "may not import"},
		{"the shell imports an adapter", "sidecar/a.go", module + "/checks", "may not import"},
		{"the shell imports a vendor", "sidecar/a.go", consulAPI, "may not import"},
		{"the core imports the shell", "sidecar/ha/a.go", module + "/sidecar", "may not import"},
		{"the core logs", "sidecar/ha/a.go", hclog, "may not import"},
		{"another adapter's vendor", "sidecar/postgres/a.go", pgx, "may not import"},
		{"templates import a proxy's package", "templates/a.go", module + "/templates/haproxy", "may not import"},
		{"one proxy imports another", "templates/pgbouncer/a.go", module + "/templates/haproxy", "may not import"},
		{"the command line's vendor", "sidecar/config/a.go", cobra, "may not import"},
		{"a vendor in a command", "cmd/pgsidecar/cli/a.go", consulAPI, "may not import"},
		{"a command imports an adapter", "cmd/pgsidecar/cli/a.go", module + "/checks", "may not import"},
		{"main imports what a command does", "cmd/pgsidecar/main.go", module + "/sidecar/lab", "may not import"},
		{"a vendor in a member", "sidecar/member/a.go", consulAPI, "may not import"},
		{"a test's vendor in the product", "sidecar/a.go", rapid, "may not import"},
		{"programs outside tests", "checks/a.go", module + "/sidecar/lab/programs", "may not import"},
		{"the lab in a test", "checks/a_test.go", module + "/sidecar/lab", "may not import"},
		{"a package nobody placed", "sidecar/util/a.go", "fmt", "not in the graph"},
		{"an engine of backups imports another", "sidecar/backup/pgbackrest/a.go", module + "/sidecar/backup/command", "may not import"},
		{"an engine of backups imports the shell", "sidecar/backup/command/a.go", module + "/sidecar", "may not import"},
		{"a name that only begins alike", "sessions/a.go", consulAPI + "extra", "may not import"},

		{"programs in a test", "checks/a_test.go", module + "/sidecar/lab/programs", ""},
		{"a vendor's subpackage", "checks/a.go", pgx + "/pgconn", ""},
		{"the package itself in its external test", "checks/a_test.go", module + "/checks", ""},
		{"a member imports all", "sidecar/member/a.go", module + "/sessions", ""},
		{"a log", "checks/a.go", hclog, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := fmt.Sprintf("package p\nimport _ %q\n", c.imports)
			faults, _ := layeringFaults(t, fstest.MapFS{c.file: {Data: []byte(source)}})
			got := strings.Join(faults, "\n")
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// layeringFaults checks every Go file of a tree. It returns the faults and how
// many files it looked at.
func layeringFaults(t *testing.T, root fs.FS) (faults []string, checked int) {
	t.Helper()
	for name, source := range goFiles(t, root) {
		checked++
		faults = append(faults, fileFaults(t, name, source)...)
	}
	return faults, checked
}

// goFiles yields the path and text of every Go file of a tree but those in
// dot-folders, testdata and bin.
func goFiles(t *testing.T, root fs.FS) iter.Seq2[string, []byte] {
	t.Helper()
	return func(yield func(string, []byte) bool) {
		err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || name == "bin"):
				return fs.SkipDir
			case d.IsDir() || !strings.HasSuffix(name, ".go"):
				return nil
			}
			source, err := fs.ReadFile(root, name)
			if err == nil && !yield(name, source) {
				return fs.SkipAll
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// fileFaults checks one file by its path from the top of the repository.
func fileFaults(t *testing.T, name string, source []byte) []string {
	t.Helper()
	dir := filepath.ToSlash(filepath.Dir(name))
	may, known := graph[dir]
	if !known {
		return []string{fmt.Sprintf("%s: package %s is not in the graph of this test", name, dir)}
	}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, source, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	test := strings.HasSuffix(name, "_test.go")
	var faults []string
	for _, spec := range file.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		if !may.allow(dir, path, test) {
			faults = append(faults, fmt.Sprintf("%s: %s may not import %s", set.Position(spec.Pos()), dir, path))
		}
	}
	return faults
}

// allow reports whether the package in dir may import path.
func (a arrows) allow(dir, path string, test bool) bool {
	if inside, ours := strings.CutPrefix(path, module+"/"); ours {
		return slices.Contains(a.ours, "*") || slices.Contains(a.ours, inside) ||
			test && (inside == dir || inside == "sidecar/lab/labtest" || inside == "sidecar/lab/programs" || slices.Contains(a.tests, inside))
	}
	if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
		return path != "C" // the standard library; the product is built without cgo
	}
	under := func(vendor string) bool { return path == vendor || strings.HasPrefix(path, vendor+"/") }
	return slices.ContainsFunc(a.vendors, under) ||
		test && slices.ContainsFunc(a.tests, under) ||
		dir != "sidecar/ha" && slices.ContainsFunc(everywhere, under)
}
