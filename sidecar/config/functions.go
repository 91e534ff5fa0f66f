package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// maxFile is the size in bytes above which a file is not a secret nor a
// snippet of configuration, but a mistake.
const maxFile = 1 << 20

// newFunctions returns what expressions may call: env("NAME"),
// env("NAME", "default"), file("path"), sockaddr("GetPrivateIP").
func newFunctions(env Environment, dir string) *hcl.EvalContext {
	name := function.Parameter{Name: "name", Type: cty.String}
	fallback := function.Parameter{Name: "default", Type: cty.String}
	return &hcl.EvalContext{Functions: map[string]function.Function{
		"env": function.New(&function.Spec{
			Params: []function.Parameter{name}, VarParam: &fallback, Type: function.StaticReturnType(cty.String),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				if v := env.Getenv(args[0].AsString()); v != "" {
					return cty.StringVal(v), nil
				}
				if len(args) > 1 {
					return args[1], nil
				}
				return cty.NilVal, fmt.Errorf("environment variable %s is not set; expected it, or a default: env(%q, \"…\")",
					args[0].AsString(), args[0].AsString())
			},
		}),
		"file": function.New(&function.Spec{
			Params: []function.Parameter{name}, Type: function.StaticReturnType(cty.String),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				s, err := readText(dir, args[0].AsString())
				return cty.StringVal(s), err
			},
		}),
		"sockaddr": function.New(&function.Spec{
			Params: []function.Parameter{name}, Type: function.StaticReturnType(cty.String),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				template := args[0].AsString()
				if !strings.Contains(template, "{{") {
					template = "{{ " + template + " }}"
				}
				s, err := resolve(env, template)
				return cty.StringVal(s), err
			},
		}),
	}}
}

// readText returns a file's text without the newline at its end. A relative
// path is relative to the configuration file.
func readText(dir, path string) (string, error) {
	info, err := os.Stat(under(dir, path))
	if err != nil {
		return "", fmt.Errorf("read file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return "", fmt.Errorf("read file: %s: expected a file of text of at most 1 MB", path)
	}
	b, err := os.ReadFile(under(dir, path))
	if err != nil {
		return "", fmt.Errorf("read file: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// under returns path, from dir if it is relative.
func under(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// resolve evaluates the go-sockaddr templates in an address. Text without one
// is returned as it is.
func resolve(env Environment, address string) (string, error) {
	if !strings.Contains(address, "{{") {
		return address, nil
	}
	s, err := env.Sockaddr(address)
	if err != nil {
		return "", fmt.Errorf("go-sockaddr template: %w", err)
	}
	switch s = strings.TrimSpace(s); {
	case s == "" || strings.HasPrefix(s, ":"):
		return "", fmt.Errorf("%s matches no address of this machine", address)
	case strings.ContainsAny(s, " ,"):
		return "", fmt.Errorf("%s matches more than one address: %s", address, s)
	}
	return s, nil
}

// ReadSecretFile reads a password, token or key anew from the file that a
// *_file attribute names: its only line. It returns ErrConfig for a file that
// is empty or has more lines.
func ReadSecretFile(path string) (string, error) {
	s, err := readText("", path)
	switch {
	case err != nil:
		return "", err
	case s == "":
		return "", fmt.Errorf("%s is empty; expected the secret as its only line: %w", path, ErrConfig)
	case strings.ContainsAny(s, "\r\n\x00"):
		return "", fmt.Errorf("%s has more than one line; expected the secret as its only line: %w", path, ErrConfig)
	}
	return s, nil
}
