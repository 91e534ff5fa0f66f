package cli

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestNoTerminal: a screen is drawn on a terminal only. /dev/null is a character device
// too.
func TestNoTerminal(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if isTerminal(null) || isTerminal(w) || isTerminal(&strings.Builder{}) {
		t.Errorf("/dev/null %t, a pipe %t, no file %t", isTerminal(null), isTerminal(w), isTerminal(&strings.Builder{}))
	}
}

// TestDrillsTakeAsLong: help, README and Makefile say the same of how long all drills
// take.
func TestDrillsTakeAsLong(t *testing.T) {
	_, help, _ := command(t, "drill", "--help")
	said := map[string]string{}
	for name, find := range map[string]string{"help": help, "README.md": line(t, "../../../README.md", "make drills "), "Makefile": line(t, "../../../Makefile", "drills: ")} {
		said[name] = regexp.MustCompile(`\S+ minutes`).FindString(strings.NewReplacer("(", "", "\n", " ").Replace(find))
	}
	if said["help"] == "" || said["help"] != said["README.md"] || said["help"] != said["Makefile"] {
		t.Errorf("they differ: %q", said)
	}
}

// line is the file's first line with the words.
func line(t *testing.T, path, words string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(text)) {
		if strings.Contains(l, words) {
			return l
		}
	}
	t.Fatalf("%s has no line with %q", path, words)
	return ""
}
