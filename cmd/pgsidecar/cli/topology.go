package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

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
			roots := tree(st, upstreams(cmd.Context(), c, st))
			if !format.forPeople() {
				return format.write(a.Stdout, roots)
			}
			var b strings.Builder
			fmt.Fprintf(&b, "cluster %s · term %d · %s\n\n", st.Cluster, st.Term, leaderWords(st))
			w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
			for _, root := range roots {
				root.write(w, st, "", "")
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
		if answer.err == nil {
			found[name] = answer.status.Upstream
		}
	}
	return found
}

// branch is a member with those that follow it.
type branch struct {
	api.MemberStatus
	Replicas []*branch `json:"replicas,omitempty"`
}

// tree puts each member below the one that it follows. Nobody is left out: a member
// whose upstream is unknown, or itself, is below the leader, and without a leader
// a root; so is one of a circle.
func tree(st *api.Status, upstream map[string]string) []*branch {
	all := map[string]*branch{}
	for _, m := range st.Members {
		all[m.Member] = &branch{MemberStatus: m}
	}
	var roots []*branch
	for _, m := range st.Members {
		up := upstream[m.Member]
		if all[up] == nil || up == m.Member || circle(upstream, m.Member) {
			up = st.Leader
		}
		if above := all[up]; above != nil && m.Member != st.Leader {
			above.Replicas = append(above.Replicas, all[m.Member])
			continue
		}
		roots = append(roots, all[m.Member])
	}
	slices.SortStableFunc(roots, func(x, y *branch) int { // the leader first
		return cmp.Compare(notLeader(st, x.Member), notLeader(st, y.Member))
	})
	return roots
}

func notLeader(st *api.Status, name string) int {
	if name == st.Leader {
		return 0
	}
	return 1
}

// circle reports whether the members above this one lead back to it.
func circle(upstream map[string]string, name string) bool {
	at := upstream[name]
	for range upstream {
		if at == "" || at == name {
			break
		}
		at = upstream[at]
	}
	return at == name
}

// write writes a branch, with what stands before its own line and before those below.
func (b *branch) write(w io.Writer, st *api.Status, first, below string) {
	fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\t%s\n", first, b.Member, roleWords(st, b.MemberStatus), memberState(st, b.MemberStatus),
		lagWords(st, b.MemberStatus), cmp.Or(b.Postgres, "-"))
	for i, replica := range b.Replicas {
		if i == len(b.Replicas)-1 {
			replica.write(w, st, below+"└─ ", below+"   ")
			continue
		}
		replica.write(w, st, below+"├─ ", below+"│  ")
	}
}
