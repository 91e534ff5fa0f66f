package pgbackrest

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
)

var _ backup.Explainer = (*Engine)(nil)

// spoolError ends the name of a file in the spool that says why a segment, or anything
// ("global"), was not archived: an exit code in its first line, then the message.
const spoolError = ".error"

// Unarchived reads what pgBackRest, archiving in the background, has left for the next
// archive-push of the oldest segment to tell.
func (e *Engine) Unarchived() error {
	out := filepath.Join(e.c.Dir, "spool", "archive", e.c.Stanza, "out")
	found, err := e.c.User.Files().Glob(filepath.Join(out, "*"+spoolError))
	if err != nil || len(found) == 0 {
		return nil
	}
	text, err := e.c.User.Files().ReadFile(slices.Min(found))
	if err != nil {
		return nil // gone by now
	}
	first, message, _ := strings.Cut(string(text), "\n")
	code, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || message == "" {
		return nil // half written
	}
	return failure(&program.Failed{Program: e.c.Program, Code: code, Said: message})
}
