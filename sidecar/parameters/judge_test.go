package parameters_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/sidecar/parameters"
)

// TestRefused: what PostgreSQL's own program says of each parameter, in one question.
func TestRefused(t *testing.T) {
	bin := labtest.Program(t, programs.PostgresBin)
	cases := map[string]struct{ value, says string }{ // says: empty: it is taken
		"max_conections":              {"100", "does not know it; did you mean max_connections?"},
		"nothing_like_it":             {"1", "does not know it"},
		"work_mem":                    {"12XB", `invalid value for parameter "work_mem": "12XB". Valid units`},
		"max_connections":             {"0", "outside the valid range"},
		"log_checkpoints":             {"maybe", "requires a Boolean value"},
		"TimeZone":                    {"Mars/Olympus", `invalid value for parameter "TimeZone"`},
		"log_line_prefix":             {"'%m ä\\ ", ""},
		"zero_damaged_pages":          {"off", ""}, // it is not among those described
		"my_extension.setting":        {"whatever", ""},
		"random_page_cost":            {"1.1", ""},
		"vacuum_mem":                  {"12XB", "invalid value"}, // an old name of another one
		"vacuum_defer_cleanup":        {"1", "does not know it"},
		"operator_precedence_warning": {"on", "PostgreSQL 13 was the last that did"},
		"session_preload_libraries":   {"auto_explain, nosuch", `there is no library "nosuch"`},
		"shared_preload_libraries":    {"$libdir/auto_explain", ""},
		"block_size":                  {"8192", "cannot be changed"},
	}
	set := map[string]string{}
	for name, c := range cases {
		set[name] = c.value
	}
	var judge parameters.Judge
	for range 2 { // the second time by what it keeps
		refused, err := judge.Refused(t.Context(), bin, set)
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range cases {
			switch err := refused[name]; {
			case c.says == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "parameter "+name+": ") || !errors.Is(err, parameters.ErrValue)):
				t.Errorf("%s = %s: %v; want %q", name, c.value, err, c.says)
			}
		}
	}
}

// TestVersions: a parameter of another version is refused with the version's name.
func TestVersions(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "postgres")
	script := "#!/bin/sh\ncase $1 in --version) echo 'postgres (PostgreSQL) VERSION';; --describe-config) echo work_mem;;\n" +
		"-C) echo 'LOG:  unrecognized configuration parameter \"NAME\" in file \"x\" line 1' >&2; echo 'FATAL:  configuration file \"x\" contains errors' >&2; exit 1;; esac\n"
	for _, c := range []struct{ version, name, says string }{
		{"15.4", "transaction_timeout", "PostgreSQL 15 does not know it; PostgreSQL 17 is the first that does"},
		{"17.0", "io_method", "PostgreSQL 17 does not know it; PostgreSQL 18 is the first that does"},
		{"18.1", "old_snapshot_threshold", "PostgreSQL 18 does not know it; PostgreSQL 16 was the last that did"},
		{"19beta1", "wrk_mem", "PostgreSQL 19 does not know it; did you mean work_mem?"},
	} {
		text := strings.NewReplacer("VERSION", c.version, "NAME", c.name).Replace(script)
		if err := errors.Join(os.Remove(program), os.WriteFile(program, []byte(text), 0o755)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		var judge parameters.Judge
		refused, err := judge.Refused(t.Context(), dir, map[string]string{c.name: "1"})
		if err != nil || refused[c.name] == nil || refused[c.name].Error() != "parameter "+c.name+": "+c.says {
			t.Errorf("%s on %s: %v, %v", c.name, c.version, refused, err)
		}
	}
}

// TestProgramMissing: without the program nothing is said to have been tried.
func TestProgramMissing(t *testing.T) {
	var judge parameters.Judge
	if _, err := judge.Refused(context.Background(), t.TempDir(), map[string]string{"work_mem": "4MB"}); !errors.Is(err, parameters.ErrProgram) {
		t.Error(err)
	}
}
