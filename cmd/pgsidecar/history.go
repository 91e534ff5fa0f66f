package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// newHistoryCommand returns `history`.
func newHistoryCommand(a *app) *cobra.Command {
	flags := clientFlags{app: a}
	var asJSON, changes bool
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List each change of leader, with the time of its phases",
		Long: `List each change of leader, oldest first, with the time from the loss of the leader
before to each phase: elected, fenced, promoted, writable, announced in Consul; and
what the last drill showed.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			st, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			if changes {
				return showChanges(cmd.Context(), c, st, asJSON, a.stdout)
			}
			if asJSON {
				return json.NewEncoder(a.stdout).Encode(st.History)
			}
			if err := writeHistory(a.stdout, st.History); err != nil {
				return err
			}
			if last := c.lastDrill(cmd.Context()); last != "" {
				_, err = io.WriteString(a.stdout, "\n"+last)
			}
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&changes, "settings", false, "list the changes of the cluster-wide settings instead: when, by whom, and what")
	return cmd
}

// showChanges lists the changes of the settings, oldest first.
func showChanges(ctx context.Context, c *client, st *api.Status, asJSON bool, to io.Writer) error {
	address, ok := memberAPI(st, st.Member)
	if !ok {
		address = c.addresses[0]
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	text, err := c.ask(ctx, http.MethodGet, address, "/changes", nil)
	if err != nil {
		return err
	}
	if asJSON {
		_, err := to.Write(text)
		return err
	}
	var all []settingsChange
	if err := json.Unmarshal(text, &all); err != nil {
		return fmt.Errorf("read changes: %w", err)
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(to, "no setting has been changed")
		return err
	}
	for _, change := range all {
		fmt.Fprintf(to, "%s · %s · stored by %s\n", change.At.Local().Format(time.DateTime), orDefault(change.By, "pgsidecar itself"), change.Member)
		for line := range strings.Lines(change.Diff + "\n") {
			fmt.Fprint(to, "  "+line)
		}
	}
	return nil
}

func writeHistory(to io.Writer, turns []api.Turn) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHEN\tTERM\tTIMELINE\tLEADER\tELECTED\tFENCED\tPROMOTED\tWRITABLE\tANNOUNCED\tREASON")
	for _, t := range turns {
		var account sidecar.Account
		if len(t.Account) > 0 {
			if err := json.Unmarshal(t.Account, &account); err != nil {
				return fmt.Errorf("read account of term %d: %w", t.Term, err)
			}
		}
		var phases []string
		for _, at := range []time.Time{account.Elected, account.Fenced, account.Promoted, account.Writable, account.Announced} {
			phases = append(phases, since(account.Detected, at))
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\n", t.At.Local().Format(time.DateTime), t.Term, t.Timeline, t.Leader,
			strings.Join(phases, "\t"), t.Reason)
	}
	return w.Flush()
}

// since writes how long after the first moment the second was.
func since(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return "-"
	}
	return "+" + to.Sub(from).Round(time.Millisecond).String()
}
