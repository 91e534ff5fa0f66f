package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Load reads a member's file, pg.hcl. Every fault of the file is in the
// *Error it returns, which is ErrConfig; so is a file that cannot be read.
func Load(path string, env Environment) (*Config, error) { return load(path, memberFile, env) }

// LoadProxy reads proxy.hcl, the configuration of `pgsidecar proxy`. Its
// errors are Load's.
func LoadProxy(path string, env Environment) (*Config, error) { return load(path, proxyFile, env) }

func load(path string, of kind, env Environment) (*Config, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, &Error{Diagnostics: []Diagnostic{{File: path, Text: fmt.Sprintf("cannot be read: %v", unwrapPath(err))}}}
	}
	return parse(path, source, of, env)
}

// Parse reads a member's configuration from memory; name is the file's, for
// diagnostics and relative paths. Its errors are Load's.
func Parse(name string, source []byte, env Environment) (*Config, error) {
	return parse(name, source, memberFile, env)
}

func parse(name string, source []byte, of kind, env Environment) (*Config, error) {
	r := &reader{
		faults: faults{file: name, lines: strings.Split(string(source), "\n")},
		dir:    filepath.Dir(name),
		env:    env,
		at:     map[string]hcl.Range{},
	}
	r.functions = newFunctions(env, r.dir)
	file, diags := hclsyntax.ParseConfig(source, name, hcl.InitialPos)
	if diags.HasErrors() {
		// What follows a syntax error would be guessed at.
		r.addHCL(diags)
		return nil, r.err()
	}
	c := Default(env)
	r.root(file.Body.(*hclsyntax.Body), &c, of)
	// What could not be read is not said to be missing too.
	r.bad = r.faultyLines()
	r.derive(&c, of)
	r.check(&c, of)
	if err := r.err(); err != nil {
		return nil, err
	}
	return &c, nil
}

// unwrapPath returns what is wrong without the path, which is said already.
func unwrapPath(err error) error {
	if p, ok := err.(*os.PathError); ok {
		return p.Err
	}
	return err
}
