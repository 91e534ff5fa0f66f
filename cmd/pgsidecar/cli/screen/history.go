package screen

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/failover"
)

func WriteHistory(to io.Writer, terms []failover.Record) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHEN\tTERM\tTIMELINE\tLEADER\tELECTED\tFENCED\tPROMOTED\tWRITABLE\tANNOUNCED\tROUTED\tREASON")
	for i := range terms {
		t := &terms[i]
		var phases []string
		for _, p := range t.Phases() {
			phases = append(phases, since(t.Detected, p.At))
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\n", t.Announced.Local().Format(TimeWithZone), t.Term, t.Timeline, t.Leader,
			strings.Join(phases, "\t"), t.Reason)
	}
	return w.Flush()
}

// since writes how long after the first moment the second was.
func since(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return "-"
	}
	return "+" + to.Sub(from).Round(time.Millisecond).String()
}
