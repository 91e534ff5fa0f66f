package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
)

// newReloadCommand returns `reload`.
func newReloadCommand(a *Process) *cobra.Command {
	return memberCommand(a, memberChange{"reload MEMBER", "Read a member's configuration again", "/reload",
		func() any { return struct{}{} }})
}

// newReinitCommand returns `reinit`.
func newReinitCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var yes, detach bool
	var from string
	cmd := &cobra.Command{
		Use:   "reinit MEMBER",
		Short: "Clone a replica anew, in place of what it has",
		Long: `Clone a replica anew, in place of what it has. The clone comes from --from; else from
a replica with the tag clonefrom that streams; else from the primary. If the copy from
another replica fails, the primary is cloned. It is shown how far it is until the replica
streams again; Ctrl-C ends the looking, not the clone.`,
		Args: oneMember,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, address, err := flags.member(cmd, args[0])
			if err != nil {
				return err
			}
			if !yes {
				if err := confirm(a, "The data directory of "+args[0]+" is replaced by a new clone.", args[0]); err != nil {
					return err
				}
			}
			body := map[string]any{}
			if from != "" {
				body["from"] = from
			}
			if err := c.Change(cmd.Context(), a.Stdout, address, "/reinitialize", body); err != nil || detach {
				return err
			}
			return awaitClone(cmd.Context(), c, address, a.Stdout)
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait until it is done")
	cmd.Flags().StringVar(&from, "from", "", "the `member` to clone from (default: one with the tag clonefrom, else the primary)")
	completeMembers(&flags, cmd, "")
	completeMembers(&flags, cmd, "from")
	return cmd
}

// awaitClone shows how far a member's clone is, until it streams again.
func awaitClone(ctx context.Context, c *client.Client, address string, to io.Writer) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	last := ""
	for {
		st, err := c.StatusOf(ctx, address)
		if err == nil {
			now, done := cloneWords(st)
			if now != last {
				if _, err := fmt.Fprintf(to, "%s: %s\n", st.Member, now); err != nil {
					return err
				}
				last = now
			}
			if done {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.New("the clone goes on; pgsidecar status --watch shows when it streams")
		case <-tick.C:
		}
	}
}

// cloneWords says what a member that is to clone anew does, and whether it is done.
func cloneWords(st *api.Status) (words string, done bool) {
	streams := slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool { return m.Member == st.Member && m.Streaming })
	switch {
	case st.Progress != nil:
		return screen.ProgressWords(st.Progress), false
	case st.Reinit && len(st.Blocks) > 0:
		b := st.Blocks[0]
		words = b.What + "; waiting for: " + b.Missing
		if b.Override != "" {
			words += "; to skip it: " + b.Override
		}
		return words, false
	case !st.Reinit && streams:
		return "streams", true
	}
	return st.Server, false
}

// memberChange is a change that one member makes.
type memberChange struct {
	use, short string
	path       string     // of the API
	body       func() any // of the request, once the flags are known
}

// memberCommand is a command that asks one member for a change.
func memberCommand(a *Process, m memberChange) *cobra.Command {
	flags := clientFlags{app: a}
	cmd := &cobra.Command{
		Use:   m.use,
		Short: m.short,
		Args:  oneMember,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, address, err := flags.member(cmd, args[0])
			if err != nil {
				return err
			}
			return c.Change(cmd.Context(), a.Stdout, address, m.path, m.body())
		},
	}
	flags.add(cmd)
	completeMembers(&flags, cmd, "")
	return cmd
}

// oneMember refuses all but the name of one member.
func oneMember(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usage("%s takes the name of one member, and got %q", cmd.CommandPath(), args)
	}
	return nil
}

// member returns what asks members, and the API address of one.
func (f *clientFlags) member(cmd *cobra.Command, name string) (*client.Client, string, error) {
	c, err := f.client(cmd)
	if err != nil {
		return nil, "", err
	}
	st, err := c.Status(cmd.Context())
	if err != nil {
		return nil, "", err
	}
	address, ok := client.MemberAPI(st, name)
	if !ok {
		return nil, "", client.UnknownMember(st, name)
	}
	return c, address, nil
}
