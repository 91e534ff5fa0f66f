package cli

import (
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// every calls f for each command that people see.
func every(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() || sub.Name() == "help" {
			every(sub, f)
		}
	}
}

// tooWide returns the lines of a text that are wider than a width.
func tooWide(text string, width int) []string {
	var wide []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSuffix(line, "\n"); utf8.RuneCountInString(line) > width {
			wide = append(wide, line)
		}
	}
	return wide
}

// TestHelpFits: the two pages that people see first fit a terminal, and no page is
// wider than 100 columns.
func TestHelpFits(t *testing.T) {
	for _, line := range []string{"", "--help", "help", "switchover --help", "help switchover", "failover --help", "pause --help"} {
		_, got, _ := command(t, strings.Fields(line)...)
		if n := strings.Count(got, "\n"); n > 24 || len(tooWide(got, 80)) > 0 {
			t.Errorf("pgsidecar %s: %d lines, too wide: %q", line, n, tooWide(got, 80))
		}
	}
	every(newRootCommand(&Process{Getenv: os.Getenv}), func(cmd *cobra.Command) {
		_, got, _ := command(t, append(strings.Fields(cmd.CommandPath())[1:], "--help")...)
		if wide := tooWide(got, 100); len(wide) > 0 {
			t.Errorf("%s --help: wider than 100 columns: %q", cmd.CommandPath(), wide)
		}
	})
}

// TestRootHelp: each command that people type is in the list, once, and nothing
// else is.
func TestRootHelp(t *testing.T) {
	var listed []string
	for _, g := range groups {
		for _, line := range g.lines {
			listed = append(listed, strings.Split(line.commands, ", ")...)
		}
	}
	root := newRootCommand(&Process{Getenv: os.Getenv})
	refuseUnknown(root)
	for _, cmd := range root.Commands() {
		if !cmd.IsAvailableCommand() || cmd.Name() == "help" {
			continue
		}
		i := slices.Index(listed, cmd.Name())
		if i < 0 {
			t.Errorf("%s is in no line of groups: add it (groups.go)", cmd.Name())
			continue
		}
		listed = slices.Delete(listed, i, i+1)
	}
	if len(listed) > 0 {
		t.Errorf("no commands, or listed twice: %q", listed)
	}
}

// TestTopics: each topic is shown, fits 100 columns, and every command line and
// flag in it is one.
func TestTopics(t *testing.T) {
	root := newRootCommand(&Process{Getenv: os.Getenv})
	refuseUnknown(root)
	for _, name := range topicNames() {
		code, got, stderr := command(t, "help", name)
		if code != ExitOK || stderr != "" || !strings.HasPrefix(got, "# ") || !strings.HasSuffix(got, "\n") {
			t.Errorf("help %s: exit status %d, stderr %q", name, code, stderr)
		}
		if wide := tooWide(got, 100); len(wide) > 0 {
			t.Errorf("help %s: wider than 100 columns: %q", name, wide)
		}
		for _, fault := range lineFaults(root, got) {
			t.Errorf("help %s: %s", name, fault)
		}
	}
	if code, _, stderr := command(t, "help", "patrony"); code != ExitUsage || !strings.Contains(stderr, "patrony") {
		t.Errorf("no topic: exit status %d, %s", code, stderr)
	}
	if code, got, _ := command(t, "__complete", "help", ""); code != ExitOK || !strings.Contains(got, "\nconnection\n") || !strings.Contains(got, "switchover\t") {
		t.Errorf("completion of topics:\n%s", got)
	}
}

// lineFaults looks at every command line of a text, which is what follows the word
// pgsidecar, for commands and flags that do not exist.
func lineFaults(root *cobra.Command, text string) []string {
	var faults []string
	for line := range strings.Lines(text) {
		for _, part := range strings.Split(line, "pgsidecar ")[1:] {
			part, _, _ = strings.Cut(part, "`")
			part, _, _ = strings.Cut(part, "  ") // what follows explains it
			part, _, _ = strings.Cut(part, " #")
			words := strings.Fields(part)
			if len(words) == 0 || !slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == words[0] }) {
				continue // a sentence about pgsidecar
			}
			cmd, left, err := root.Find(words)
			if err != nil {
				faults = append(faults, err.Error())
				continue
			}
			if cmd.HasAvailableSubCommands() && !cmd.HasFlags() && len(left) > 0 && !strings.ContainsAny(left[0], ".,;:|[-") {
				faults = append(faults, "no command "+cmd.CommandPath()+" "+left[0])
			}
			for _, word := range left {
				name, is := strings.CutPrefix(strings.Trim(word, "[],.;:()"), "--")
				name, _, _ = strings.Cut(name, "=")
				if is && name != "help" && cmd.Flags().Lookup(name) == nil {
					faults = append(faults, cmd.CommandPath()+" has no flag --"+name)
				}
			}
		}
	}
	return faults
}

// TestLineFaults plants what TestTopics looks for.
func TestLineFaults(t *testing.T) {
	root := newRootCommand(&Process{Getenv: os.Getenv})
	for text, want := range map[string]string{
		"    pgsidecar switchover --to n2   # now\n":       "",
		"type `pgsidecar status --watch`; pgsidecar is":    "",
		"pgsidecar runs beside a server":                   "",
		"`pgsidecar switchover --too n2`":                  "no flag --too",
		"    pgsidecar settings put durability.standbys=2": "no command pgsidecar settings put",
	} {
		if got := strings.Join(lineFaults(root, text), "; "); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestWrap(t *testing.T) {
	got := wrap("one two three\nfour\n\n  kept as it is\nlast", 9)
	if want := "one two\nthree\nfour\n\n  kept as it is\nlast\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
