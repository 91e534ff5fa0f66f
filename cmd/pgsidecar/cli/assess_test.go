package cli

import (
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/assess"
)

// TestAssessCommands: each command that an assessment shows is one that exists, and each
// help page is there.
func TestAssessCommands(t *testing.T) {
	root := newRootCommand(&Process{Getenv: func(string) string { return "" }})
	for _, l := range assess.Judge(assess.Evidence{}).Lines {
		words := strings.Fields(l.Command)
		if words[0] != "pgsidecar" {
			if words[0] != "consul" {
				t.Errorf("%s: %q", l.ID, l.Command)
			}
			continue
		}
		if words[1] == "help" {
			if !strings.Contains(" "+strings.Join(topicNames(), " ")+" ", " "+words[2]+" ") {
				t.Errorf("%s: there is no page %q", l.ID, words[2])
			}
			continue
		}
		cmd, rest, err := root.Find(words[1:])
		if err != nil || cmd == root || cmd.HasSubCommands() {
			t.Errorf("%s: %q is no command (%v)", l.ID, l.Command, err)
			continue
		}
		for _, word := range rest {
			if name, is := strings.CutPrefix(word, "--"); is && cmd.Flags().Lookup(name) == nil {
				t.Errorf("%s: %q has no flag %s", l.ID, l.Command, word)
			}
		}
	}
}
