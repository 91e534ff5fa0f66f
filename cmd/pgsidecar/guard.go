package main

import (
	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/guard"
)

// newGuardCommand returns `guard`, which `run` starts and no person types: the
// process that owns the postmaster and ends it when the lease ends.
func newGuardCommand(a *app) *cobra.Command {
	var stateDir string
	cmd := &cobra.Command{
		Use:    "guard",
		Short:  "Own the postmaster, and end it when the lease ends (started by run)",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if stateDir == "" {
				return usage("guard needs -state-dir")
			}
			return guard.Serve(cmd.Context(), guard.ServeOptions{
				StateDir: stateDir,
				Version:  a.version,
				Logger: hclog.New(&hclog.LoggerOptions{
					Name: "guard", Output: a.stderr, TimeFormat: logTime,
				}),
			})
		},
	}
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "the member's state `directory`")
	return cmd
}
