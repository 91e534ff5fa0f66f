package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/drill"
)

// lastDrill says in one line what the cluster's last drill showed. It says
// nothing if none was done, or if nobody knows: it is beside the point of the
// commands that show it.
func lastDrill(ctx context.Context, c *client.Client) string {
	var l drill.Last
	if err := c.Drill(ctx, &l); err != nil {
		return ""
	}
	return lastDrillWords(l, time.Now())
}

func lastDrillWords(l drill.Last, now time.Time) string {
	verdict := "passed"
	if !l.Passed {
		verdict = "FAILED: " + strings.Join(l.Failures, "; ")
	}
	return fmt.Sprintf("last drill: %s, %s (%s ago): RTO %.0f ms, RPO %d rows, %s\n", l.Scenario,
		l.At.Local().Format(timeWithZone), ageWords(now.Sub(l.At)), l.RTOMs, l.RPORows, verdict)
}

// ageWords writes how long ago something was, in its largest unit.
func ageWords(d time.Duration) string {
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
