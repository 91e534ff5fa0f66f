package main

import (
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// TestBackupProvedAlone: a member without another proves its backup by the schedule, and
// makes no further one for that.
func TestBackupProvedAlone(t *testing.T) {
	s := newSavedOn(t, lab.Options{Members: 1})
	s.await("an archive", func(st *api.Status) bool { return st.Archive != nil && st.Archive.Leads })
	s.command("backup", "run")
	saved := s.await("a backup", func(st *api.Status) bool { return len(st.Backups) == 1 && st.Backups[0].Good != nil })
	s.rewrite(func(pg string) string {
		const block = "backup \"main\" {\n"
		return strings.Replace(pg, block, block+"  schedule {\n    verify = \"* * * * *\"\n  }\n\n", 1)
	})
	st := s.awaitFor(3*time.Minute, "a proof", func(st *api.Status) bool {
		return len(st.Backups) == 1 && st.Backups[0].Verified != nil && st.Backups[0].Verified.Good != nil
	})
	b := st.Backups[0]
	if b.Verified.Good.Label != saved.Backups[0].Good.Label || b.Count != 1 {
		t.Errorf("%s is proved, of %d backups; %s was made", b.Verified.Good.Label, b.Count, saved.Backups[0].Good.Label)
	}
}
