package patroni_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/patroni"
)

var update = flag.Bool("update", false, "write testdata/*.want anew")

// environment is a machine that is the same everywhere.
func environment() config.Environment {
	return config.Environment{
		Hostname: "db1", User: "postgres", Getenv: func(string) string { return "" },
		Sockaddr: func(template string) (string, error) {
			return strings.ReplaceAll(template, "{{ GetPrivateIP }}", "10.0.0.7"), nil
		},
	}
}

// password finds what stands as a password, token or key in a patroni.yml.
var password = regexp.MustCompile(`(?:password|token): ([^ ,}\n]+)`)

// TestImport: what people have becomes a pg.hcl that validates, without a secret in it,
// and each key that has no counterpart is named.
func TestImport(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yml")
	if err != nil || len(files) < 13 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yml"), func(t *testing.T) {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			r, err := patroni.Import(source, dir)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			got.WriteString(r.HCL)
			for _, s := range r.Settings {
				got.WriteString("$ " + s + "\n")
			}
			for _, n := range r.Notes {
				got.WriteString("# " + n.String() + "\n")
			}
			text := strings.ReplaceAll(got.String(), dir, "DIR")
			for _, m := range password.FindAllStringSubmatch(string(source), -1) {
				if len(m[1]) > 2 && strings.Contains(text, m[1]) {
					t.Errorf("the secret %q is in the text", m[1])
				}
			}
			golden(t, strings.TrimSuffix(file, ".yml")+".want", text)
			for path, secret := range r.Secrets {
				if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range []string{"superuser.password", "replication.password"} { // that a person is told to write
				if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
					if err := os.WriteFile(filepath.Join(dir, name), []byte("x\n"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			_, err = config.Parse("pg.hcl", []byte(r.HCL), environment())
			var faults *config.Error
			if errors.As(err, &faults) {
				var said strings.Builder
				_ = faults.Print(&said)
				t.Errorf("it does not validate:\n%s\n%s", said.String(), r.HCL)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestNoPatroniFile(t *testing.T) {
	for name, source := range map[string]string{
		"tabs":          "scope: a\npostgresql:\n\tlisten: b\n",
		"empty":         "",
		"a list":        "- a\n- b\n",
		"another":       "a: 1\nb: 2\n",
		"two documents": "scope: [",
		"binary":        "\x00\x01\x02",
	} {
		if r, err := patroni.Import([]byte(source), "/etc/pgsidecar"); !errors.Is(err, patroni.ErrFile) {
			t.Errorf("%s: %v, %+v", name, err, r)
		}
	}
}

// FuzzImport: whatever the file, there is an answer, and no key is left out silently
// from the top level.
func FuzzImport(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(source)
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		r, err := patroni.Import(source, "/etc/pgsidecar")
		if (r == nil) != (err != nil) {
			t.Fatal(fmt.Sprint(r, err))
		}
	})
}
