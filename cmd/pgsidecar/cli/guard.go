package cli

import (
	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/member"
)

// newGuardCommand returns `guard`, which `run` starts and no person types: the
// process that owns the postmaster and ends it when the lease ends.
func newGuardCommand(a *Process) *cobra.Command {
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
			return member.ServeGuard(cmd.Context(), stateDir, a.Version, a.Stderr)
		},
	}
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "the member's state `directory`")
	return cmd
}
