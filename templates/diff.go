package templates

import (
	"strings"

	"github.com/rogpeppe/go-internal/diff"
)

// Diff returns the difference between two texts as a unified diff (POSIX diff
// -u), or nothing if they are equal.
func Diff(name, before, after string) string {
	text := string(diff.Diff(name, []byte(before), name, []byte(after)))
	_, text, _ = strings.Cut(text, "\n") // a command line, which diff -u does not write
	return text
}
