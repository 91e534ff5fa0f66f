package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
)

// newTopologyCommand returns `topology`.
func newTopologyCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var format output
	cmd := &cobra.Command{
		Use:   "topology",
		Short: "Show who replicates from whom, as a tree",
		Long: `Show who replicates from whom, as a tree: the primary, the replicas below it, and below
a replica those that follow it (tag replicatefrom). Each member is asked whom it
follows; one that does not answer is shown below the primary.`,
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
			roots := screen.Tree(st, upstreams(cmd.Context(), c, st))
			if !format.forPeople() {
				return format.write(a.Stdout, roots)
			}
			var b strings.Builder
			fmt.Fprintf(&b, "cluster %s · term %d · %s\n\n", st.Cluster, st.Term, screen.LeaderWords(st))
			w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
			for _, root := range roots {
				root.Write(w, st, "", "")
			}
			w.Flush()
			_, err = io.WriteString(a.Stdout, b.String())
			return err
		},
	}
	flags.add(cmd)
	format.flag(cmd)
	return cmd
}

// upstreams is whom each member's server follows, of those that answer.
func upstreams(ctx context.Context, c *client.Client, st *api.Status) map[string]string {
	found := map[string]string{st.Member: st.Upstream}
	for name, answer := range othersStatus(ctx, c, st) {
		if answer.Err == nil {
			found[name] = answer.Status.Upstream
		}
	}
	return found
}
