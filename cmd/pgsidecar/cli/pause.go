package cli

import (
	"time"

	"github.com/spf13/cobra"
)

// newPauseCommand returns `pause`.
func newPauseCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var length time.Duration
	var reason string
	cmd := &cobra.Command{
		Use:   "pause [MEMBER...]",
		Short: "Begin maintenance, of the whole cluster or of some members",
		Long: `Begin maintenance: nobody fails over until it ends, of the whole cluster or of the
members named. It ends by itself after --for.`,
		RunE: func(cmd *cobra.Command, members []string) error {
			if length <= 0 {
				return usage("--for %s: expected a time such as 30m", length)
			}
			return anyMember(cmd, &flags, "/pause", map[string]any{"for": length.String(), "members": members, "reason": reason})
		},
	}
	flags.add(cmd)
	cmd.Flags().DurationVar(&length, "for", 30*time.Minute, "how long at most")
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, shown in the status")
	completeMembers(&flags, cmd, "")
	return cmd
}

// newResumeCommand returns `resume`.
func newResumeCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	cmd := &cobra.Command{
		Use:   "resume [MEMBER...]",
		Short: "End maintenance",
		RunE: func(cmd *cobra.Command, members []string) error {
			return anyMember(cmd, &flags, "/resume", map[string]any{"members": members})
		},
	}
	flags.add(cmd)
	completeMembers(&flags, cmd, "")
	return cmd
}

// anyMember asks the leader, or else the first member that answers, for a
// change that each of them can make.
func anyMember(cmd *cobra.Command, flags *clientFlags, path string, body any) error {
	c, err := flags.client(cmd)
	if err != nil {
		return err
	}
	st, err := c.Status(cmd.Context())
	if err != nil {
		return err
	}
	return c.Change(cmd.Context(), flags.app.Stdout, c.Answered(st), path, body)
}
