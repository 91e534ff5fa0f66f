package screen

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// archiveWords says in one line how the archive of the log fares.
func archiveWords(a *api.Archive) string {
	switch {
	case a.Files > 0:
		words := fmt.Sprintf("files that wait to be archived: %d (%s), the oldest for %s", a.Files, BytesWords(uint64(a.Bytes)), Seconds(a.Oldest))
		if a.FullIn != nil {
			words += "; the disk will be full in " + Seconds(*a.FullIn)
		}
		return words
	case a.Position == 0 && a.Leads:
		return "the log is archived"
	case a.Position == 0:
		return "not ready yet"
	}
	return "all log before " + a.Position.String() + " is archived"
}

// writeArchiveTrouble writes what is wrong with archive and backups.
func writeArchiveTrouble(b *strings.Builder, st *api.Status) {
	for i := range st.Backups {
		if f := st.Backups[i].Failed; f != nil {
			fmt.Fprintf(b, "\nThe last backup %s (%s, on %s, %s) failed: %s\n", st.Backups[i].Name, f.Kind, f.By, f.At.Format(time.RFC3339), f.Error)
		}
		writeVerifyTrouble(b, &st.Backups[i])
	}
	a := st.Archive
	if a == nil {
		return
	}
	if a.Problem != "" {
		fmt.Fprintf(b, "\nThe log is not archived: %s\n", a.Problem)
	}
	for _, gap := range a.Gaps {
		fmt.Fprintf(b, "\nGap in the archive: %s\n", gap)
	}
}
