package postgres

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Programs of a PostgreSQL that is not known yet are refused by both versions' names;
// what is no PostgreSQL is not understood.
func TestVersionOfPrograms(t *testing.T) {
	for _, c := range []struct {
		says, want string
	}{
		{"postgres (PostgreSQL) 14.20", ""},
		{"postgres (PostgreSQL) 18.6 (Debian 18.6-3)", ""},
		{"postgres (PostgreSQL) 19beta1", "PostgreSQL 19, and the newest that this version of pgsidecar knows is 18"},
		{"postgres (PostgreSQL) 20.1", "PostgreSQL 20"},
		{"psql", "version of"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "postgres"), []byte(fmt.Sprintf("#!/bin/sh\necho '%s'\n", c.says)), 0o755); err != nil {
			t.Fatal(err)
		}
		version, err := programVersion(filepath.Join(dir, "postgres"))
		if err == nil {
			err = checkVersion(version, dir)
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.says, err, c.want)
		}
		if strings.Contains(c.want, "newest") && !errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v is not ErrVersion", c.says, err)
		}
	}
}

// TestCloneOfAnotherMajor: a source of another major version is refused with both
// versions and the way out, before anything is made; of another minor one it is not.
func TestCloneOfAnotherMajor(t *testing.T) {
	m := newMember(t, "n2")
	source := Source{Member: "n1", Host: "127.0.0.1", Port: 1}
	for _, major := range []int{m.version - 1, m.version + 1} {
		source.Major = major
		err := m.Clone(soon(t), source, nil)
		if !errors.Is(err, ErrOtherMajor) {
			t.Fatalf("version %d: %v", major, err)
		}
		for _, words := range []string{fmt.Sprintf("n1 runs PostgreSQL %d", major), fmt.Sprintf("of version %d", m.version), "bin_dir", "pgsidecar help upgrade"} {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("no %q in: %v", words, err)
			}
		}
		if _, err := os.Stat(m.o.DataDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("something was made: %v", err)
		}
	}
	for _, major := range []int{0, m.version} {
		source.Major = major
		if err := m.Clone(soon(t), source, nil); err == nil || errors.Is(err, ErrOtherMajor) {
			t.Errorf("version %d, and nobody listens: %v", major, err)
		}
	}
}
