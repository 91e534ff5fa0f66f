package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestDocs: each command that help shows has its two pages, which say what its
// help says, and groff finds nothing wrong with them.
func TestDocs(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1767225600") // 2026-01-01
	dir := t.TempDir()
	code, stdout, stderr := command(t, "docs", dir)
	if code != ExitOK || stderr != "" || !strings.Contains(stdout, dir) {
		t.Fatalf("exit status %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Log("groff is not on PATH: the man pages are not checked by it")
	}
	read := func(parts ...string) string {
		text, err := os.ReadFile(filepath.Join(append([]string{dir}, parts...)...))
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	pages := 0
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
		man := read("man", name+".1")
		for _, part := range []string{".SH NAME", ".SH SYNOPSIS", "Jan 2026"} {
			if !strings.Contains(man, part) {
				t.Errorf("%s.1: no %q", name, part)
			}
		}
		if markdown := read("markdown", strings.ReplaceAll(name, "-", "_")+".md"); !strings.Contains(markdown, cmd.Short) {
			t.Errorf("%s.md does not say %q", name, cmd.Short)
		}
		if groff != "" {
			check := exec.CommandContext(t.Context(), groff, "-man", "-Tutf8", "-ww", "-z", filepath.Join(dir, "man", name+".1"))
			if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("groff %s.1: %v\n%s", name, err, out)
			}
		}
		pages++
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				walk(sub)
			}
		}
	}
	walk(newRootCommand(&Process{Getenv: os.Getenv}))
	if pages < 20 {
		t.Errorf("only %d pages", pages)
	}
	if set := read("markdown", "pgsidecar_settings_set.md"); !strings.Contains(set, "\n      durability.standbys=NUMBER\n") {
		t.Errorf("the keys are not kept as they stand:\n%s", set)
	}
	if code, _, stderr := command(t, "docs"); code != ExitUsage || !strings.Contains(stderr, "takes one directory") {
		t.Errorf("no directory: exit status %d, %s", code, stderr)
	}
	if _, help, _ := command(t, "--help"); strings.Contains(help, "\n  docs ") {
		t.Error("help shows a command that nobody but a packager needs")
	}
}
