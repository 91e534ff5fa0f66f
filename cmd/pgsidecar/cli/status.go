package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
)

// newStatusCommand returns `status`.
func newStatusCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var format output
	var watch, why bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show members, roles, lag and leases, and why anything is blocked",
		Long: `Show members, roles, lag and leases, and why anything is blocked.

Each member decides by tables of rules, at least once a second. --why shows which rules
held in each member's last decision, in their order: they have names, which logs (rule=)
and the metric pgsidecar_rule_total have too.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			show := func(ctx context.Context) error {
				return showStatus(ctx, c, a.Stdout, statusStyle{format: format, why: why})
			}
			if watch {
				return watchStatus(cmd.Context(), a, format, show)
			}
			if err := show(cmd.Context()); err != nil || !format.forPeople() {
				return err
			}
			if last := lastDrill(cmd.Context(), c); last != "" {
				_, err = io.WriteString(a.Stdout, "\n"+last)
			}
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again each second, until Ctrl-C")
	format.flag(cmd)
	cmd.Flags().BoolVar(&why, "why", false, "show the rules that held in each member's last decision")
	return cmd
}

// watchStatus shows the status each second. That no member answers is shown,
// and does not end it.
func watchStatus(ctx context.Context, a *Process, format output, show func(context.Context) error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if format.forPeople() && isTerminal(a.Stdout) {
			if _, err := io.WriteString(a.Stdout, "\x1b[H\x1b[2J"); err != nil {
				return fmt.Errorf("clear screen: %w", err)
			}
		}
		if err := show(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintf(a.Stderr, "pgsidecar: %v\n", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// statusStyle is how a status is shown.
type statusStyle struct {
	format output // for programs it is as the member answers it; its own rules are in it
	why    bool   // with the rules of each member
}

func showStatus(ctx context.Context, c *client.Client, to io.Writer, style statusStyle) error {
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if !style.format.forPeople() {
		return style.format.write(to, st)
	}
	var b strings.Builder
	screen.WriteStatus(&b, st)
	if style.why {
		screen.WriteWhy(&b, st, othersStatus(ctx, c, st))
	}
	_, err = io.WriteString(to, b.String())
	return err
}
