package screen

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
)

func LastDrill(l drill.Last, now time.Time) string {
	verdict := "passed"
	if !l.Passed {
		verdict = "FAILED: " + strings.Join(l.Failures, "; ")
	}
	return fmt.Sprintf("last drill: %s, %s (%s ago): RTO %.0f ms, RPO %d rows, %s\n", l.Scenario,
		l.At.Local().Format(TimeWithZone), AgeWords(now.Sub(l.At)), l.RTOMs, l.RPORows, verdict)
}

// AgeWords writes how long ago something was, in its largest unit.
func AgeWords(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
