package cli

import (
	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/member"
)

// takeOverVariable is --take-over for one start by systemd, whose unit has the command line.
const takeOverVariable = "PGSIDECAR_TAKE_OVER"

// newRunCommand returns `run`: one member.
func newRunCommand(a *Process) *cobra.Command {
	var path string
	var takeOver bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run one member: this machine's PostgreSQL server and its part in the cluster",
		Long: `Run one member: this machine's PostgreSQL server and its part in the cluster.

SIGTERM and SIGINT hand over (if this member is the primary), stop the server
and end. SIGHUP reads the configuration again. SIGUSR1 ends only the sidecar: the
server runs on, and a sidecar started within the lease (5 s) finds it again; this
is how pgsidecar is upgraded.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := member.New(path, a.Version, a.Stderr)
			if err != nil {
				return reportFaults(a, err)
			}
			if takeOver || a.Getenv(takeOverVariable) != "" {
				m.TakeOver()
			}
			return m.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&path, "config", "pg.hcl", "the member's configuration `file`")
	cmd.Flags().BoolVar(&takeOver, "take-over", false, "shut down a server that something else started on the data directory, and use its data (or $"+takeOverVariable+"=1)")
	return cmd
}
