package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// newReloadCommand returns `reload`.
func newReloadCommand(a *app) *cobra.Command {
	return memberCommand(a, memberChange{"reload MEMBER", "Read a member's configuration again", "/reload",
		func() any { return struct{}{} }})
}

// newReinitCommand returns `reinit`.
func newReinitCommand(a *app) *cobra.Command {
	var yes bool
	var from string
	cmd := memberCommand(a, memberChange{"reinit MEMBER", "Clone a replica anew, in place of what it has", "/reinitialize",
		func() any {
			body := map[string]any{}
			if from != "" {
				body["from"] = from
			}
			return body
		}})
	cmd.Long = `Clone a replica anew, in place of what it has. The clone comes from --from; else from
a replica with the tag clonefrom that streams; else from the primary. Progress is in
the member's log; pgsidecar status --watch shows when it streams again.`
	ask := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !yes {
			if err := confirm(a, "The data directory of "+args[0]+" is replaced by a new clone.", args[0]); err != nil {
				return err
			}
		}
		return ask(cmd, args)
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().StringVar(&from, "from", "", "the `member` to clone from (default: one with the tag clonefrom, else the primary)")
	return cmd
}

// memberChange is a change that one member is asked for.
type memberChange struct {
	use, short string
	path       string     // of the API
	body       func() any // of the request, once the flags are known
}

// memberCommand is a command that asks one member for a change.
func memberCommand(a *app, m memberChange) *cobra.Command {
	flags := clientFlags{app: a}
	cmd := &cobra.Command{
		Use:   m.use,
		Short: m.short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("%s takes the name of one member, and got %q", cmd.CommandPath(), args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			st, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			address, ok := memberAPI(st, args[0])
			if !ok {
				return fmt.Errorf("member %s is not known, or its API is not; see pgsidecar status", args[0])
			}
			return c.change(cmd.Context(), a.stdout, address, m.path, m.body())
		},
	}
	flags.add(cmd)
	return cmd
}
