package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/settings"
)

// newHistoryCommand returns `history`.
func newHistoryCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var format output
	var changes bool
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List each change of leader, with the time of its phases",
		Long: `List each change of leader, oldest first, with the time from the loss of the leader
before to each phase: elected, fenced, promoted, writable, announced in Consul, routed
(Consul's catalog and DNS lead to it; HAProxy and PgBouncer go there sooner); and what
the last drill showed.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			if changes {
				return showChanges(cmd.Context(), c, st, format, a.Stdout)
			}
			if !format.forPeople() {
				return format.write(a.Stdout, st.History)
			}
			if err := screen.WriteHistory(a.Stdout, st.History); err != nil {
				return err
			}
			if last := lastDrill(cmd.Context(), c); last != "" {
				_, err = io.WriteString(a.Stdout, "\n"+last)
			}
			return err
		},
	}
	flags.add(cmd)
	format.flag(cmd)
	cmd.Flags().BoolVar(&changes, "settings", false, "list the changes of the settings: pgsidecar settings history")
	cmd.Flags().Lookup("settings").Hidden = true // its former name
	return cmd
}

// showChanges lists the changes of the settings, oldest first.
func showChanges(ctx context.Context, c *client.Client, st *api.Status, format output, to io.Writer) error {
	address := c.Answered(st)
	ctx, cancel := context.WithTimeout(ctx, client.AskTimeout)
	defer cancel()
	text, err := c.Ask(ctx, http.MethodGet, address, "/changes", nil)
	if err != nil {
		return err
	}
	if !format.forPeople() {
		return format.write(to, json.RawMessage(text))
	}
	var all []settings.Change
	if err := json.Unmarshal(text, &all); err != nil {
		return fmt.Errorf("read changes: %w", err)
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(to, "no setting has been changed")
		return err
	}
	for _, change := range all {
		fmt.Fprintf(to, "%s · %s · stored by %s\n", change.At.Local().Format(screen.TimeWithZone), cmp.Or(change.By, "pgsidecar itself"), change.Member)
		for line := range strings.Lines(change.Diff + "\n") {
			fmt.Fprint(to, "  "+line)
		}
	}
	return nil
}
