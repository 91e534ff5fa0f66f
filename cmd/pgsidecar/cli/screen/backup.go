package screen

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// WriteBackups writes one repository for people.
func WriteBackups(b *strings.Builder, l api.BackupList) {
	fmt.Fprintf(b, "backup %s (%s)", l.Name, l.Engine)
	if l.Repository.Free > 0 {
		fmt.Fprintf(b, ", %s free", BytesWords(uint64(l.Repository.Free)))
	}
	b.WriteByte('\n')
	if l.Problem != "" {
		fmt.Fprintf(b, "  %s\n", l.Problem)
		return
	}
	if len(l.Repository.Backups) == 0 {
		b.WriteString("  no backup yet; pgsidecar backup run makes one\n")
	}
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	if len(l.Repository.Backups) > 0 {
		fmt.Fprintln(w, "  LABEL\tKIND\tFINISHED\tSIZE\tSTORED\tTIMELINE\tSTATE")
	}
	for _, k := range l.Repository.Backups {
		state := "good"
		switch {
		case k.Damaged:
			state = "damaged pages"
		case l.Continuity != nil && slices.Contains(l.Continuity.Unusable, k.Label):
			state = "lacks log"
		case l.Continuity != nil && slices.Contains(l.Continuity.Aside, k.Label):
			state = "of a past that was left"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%d\t%s\n", k.Label, k.Kind, k.Stop.UTC().Format(time.RFC3339), BytesWords(uint64(k.Size)),
			BytesWords(uint64(k.Stored)), k.Timeline, state)
	}
	w.Flush()
	if l.Continuity == nil {
		return
	}
	for _, v := range l.Continuity.Windows {
		to := "the end of the log"
		if !v.To.IsZero() {
			to = v.To.UTC().Format(time.RFC3339) + ", the end of the archived log"
		}
		fmt.Fprintf(b, "  can be restored: every moment from %s to %s\n", v.From.UTC().Format(time.RFC3339), to)
	}
	for _, g := range l.Continuity.Gaps {
		fmt.Fprintf(b, "  gap: %s\n", g)
	}
}

// backupWords says in one line how a block's backups fare.
func backupWords(s *api.BackupStatus) string {
	words := "no backup yet"
	if g := s.Good; g != nil {
		words = fmt.Sprintf("%s, %s ago, %s; %s of log since", g.Label, AgeWords(time.Duration(s.Age*float64(time.Second))), BytesWords(uint64(g.Size)), BytesWords(uint64(s.LogBytes)))
	}
	if r := s.Running; r != nil {
		words += fmt.Sprintf("; a backup (%s) is being made", r.Kind)
		if r.Done > 0 {
			words += fmt.Sprintf(", %.0f %%", 100*r.Done)
		}
	}
	words += verifiedWords(s.Verified)
	if !s.Next.IsZero() {
		words += "; next " + s.Next.UTC().Format(time.RFC3339)
	}
	return words
}

// WriteVerification writes the report for people.
func WriteVerification(w io.Writer, v *api.Verification) {
	checksums := "off: the cluster has none"
	if v.Checksums {
		checksums = "those of all pages are right"
	}
	lost := "not known: the mark is older than this version"
	if v.RPO >= 0 {
		lost = Seconds(v.RPO) + ": so old was the newest mark of the primary that came out"
	}
	fmt.Fprintf(w, "backup     %s is good, as %s has restored\nRTO        %s until it took writes: %s of data restored in %s, then %s of log\nRPO        %s\n"+
		"amcheck    %d tables with their indexes are sound\nchecksums  %s\n",
		v.Label, v.By, Seconds(v.RTO), BytesWords(uint64(v.Bytes)), Seconds(v.Restore), BytesWords(uint64(v.LogBytes)), lost, v.Tables, checksums)
}

// verifiedWords says in a few words how the proofs fare; empty: there is nothing to say.
func verifiedWords(v *api.Verified) string {
	if v == nil {
		return ""
	}
	words := "; not proved by a restore yet"
	if g := v.Good; g != nil {
		words = fmt.Sprintf("; proved by a restore %s ago (RTO %s", AgeWords(time.Duration(v.Age*float64(time.Second))), Seconds(g.RTO))
		if g.RPO >= 0 {
			words += ", RPO " + Seconds(g.RPO)
		}
		words += ")"
	}
	if r := v.Running; r != nil {
		words += "; " + r.Member + " restores it to look at it"
	}
	return words
}

// writeVerifyTrouble writes why a backup is not proved.
func writeVerifyTrouble(b *strings.Builder, s *api.BackupStatus) {
	if v := s.Verified; v != nil && v.Failed != nil {
		fmt.Fprintf(b, "\nBackup %s is not proved (restored on %s, %s): %s\n", s.Name, v.Failed.By, v.Failed.Ended.Format(time.RFC3339), v.Failed.Error)
	}
}
