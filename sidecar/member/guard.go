package member

import (
	"context"
	"io"

	"github.com/hashicorp/go-hclog"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
)

// ServeGuard runs the process that owns the postmaster of the member with this state
// directory, and ends it when the lease ends.
func ServeGuard(ctx context.Context, stateDir, version string, log io.Writer) error {
	return guard.Serve(ctx, guard.ServeOptions{
		StateDir: stateDir, Version: version,
		Logger: hclog.New(&hclog.LoggerOptions{Name: "guard", Output: log, TimeFormat: process.LogTime}),
	})
}
