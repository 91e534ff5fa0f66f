package cli

import (
	"context"
	"time"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
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
	return screen.LastDrill(l, time.Now())
}
