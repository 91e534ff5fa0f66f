package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// newSiteCommand returns `site`.
func newSiteCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var format output
	cmd := &cobra.Command{
		Use:   "site",
		Short: "Show the other site, and change which one takes the writes",
		Long: `Show the other site's cluster, which the setting standby_of names: which of the two takes
the writes, and how far behind the one is that follows. See pgsidecar help sites.`,
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
			if st.Site == nil {
				return fmt.Errorf("cluster %s has no other site: the setting standby_of names none", st.Cluster)
			}
			if !format.forPeople() {
				return format.write(a.Stdout, st.Site)
			}
			_, err = io.WriteString(a.Stdout, siteWords(st))
			return err
		},
	}
	flags.add(cmd)
	format.flag(cmd)
	cmd.AddCommand(newSiteSwitchCommand(a), newSitePromoteCommand(a))
	return cmd
}

// siteWords says which of two sites takes the writes.
func siteWords(st *api.Status) string {
	s := st.Site
	var b strings.Builder
	if !s.Follows {
		fmt.Fprintf(&b, "cluster %s takes the writes (epoch %d); %s %s\n", st.Cluster, s.Epoch, s.Name, followsWords(st))
		if s.Primary != "" && s.Heard >= 0 && s.Problem == "" {
			fmt.Fprintf(&b, "  and a primary answers at %s: it is the primary of %s\n", s.Primary, s.Name)
		}
		b.WriteString(witnessWords(s) + changeWords(s))
		return b.String()
	}
	fmt.Fprintf(&b, "cluster %s follows %s (epoch %d)\n", st.Cluster, s.Name, s.Epoch)
	if s.Primary != "" {
		fmt.Fprintf(&b, "  its primary is at %s, at %s", s.Primary, s.Position)
		if s.Lag != nil {
			fmt.Fprintf(&b, "; this site lacks %d bytes of that", *s.Lag)
			if s.LagSeconds != nil && *s.LagSeconds >= 1 {
				fmt.Fprintf(&b, ", and its newest commit is %.0f s old", *s.LagSeconds)
			}
		}
		b.WriteString("\n")
	}
	if s.Problem != "" {
		fmt.Fprintf(&b, "  it is not heard: %s\n", s.Problem)
	}
	b.WriteString(witnessWords(s) + changeWords(s))
	return b.String()
}

// followsWords says how far behind the other site is, as the primary that sends to it sees.
func followsWords(st *api.Status) string {
	switch s := st.Site; {
	case s.Behind != nil:
		return fmt.Sprintf("follows it, %d bytes behind", *s.Behind)
	case st.Primary:
		return "may follow it, and does not receive the log now"
	}
	return "follows it, or may"
}

// witnessWords says what the witness says.
func witnessWords(s *api.SiteStatus) string {
	switch {
	case s.Witness == "":
		return ""
	case s.WitnessProblem != "":
		return fmt.Sprintf("  witness %s: %s\n", s.Witness, s.WitnessProblem)
	case s.WitnessHeld < 0 || s.Follows:
		return fmt.Sprintf("  witness %s\n", s.Witness)
	}
	return fmt.Sprintf("  witness %s: it confirmed %.0f s ago that this site may take writes\n", s.Witness, s.WitnessHeld)
}

// changeWords says what keeps the sites from being changed.
func changeWords(s *api.SiteStatus) string {
	if s.WhyNot == "" {
		return ""
	}
	return fmt.Sprintf("  pgsidecar site switch would not succeed now: %s\n", s.WhyNot)
}

func newSiteSwitchCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var drain time.Duration
	cmd := &cobra.Command{
		Use:   "switch",
		Short: "Have the other site take the writes, without losing anything",
		Long: `Have the other site take the writes, without losing anything. It is typed at the site that
has them. Clients are held, the primary stops, the other site receives all that it had and
takes the writes, and this site follows it. If the other site refuses, this one takes the
writes back. The point of no return is when the other site is asked to take them.
Both sites' APIs must take the same token.`,
		Example: "  pgsidecar site switch\n  pgsidecar site switch --drain 5s      # transactions that are open then are ended",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body := map[string]any{}
			if drain > 0 {
				body["drain"] = drain.String()
			}
			return anyMember(cmd, &flags, "/site/switch", body)
		},
	}
	flags.add(cmd)
	cmd.Flags().DurationVar(&drain, "drain", 0, "end transactions that are open after this `time` (default: they are waited for)")
	return cmd
}

func newSitePromoteCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var lose, yes bool
	cmd := &cobra.Command{
		Use:   "promote --accept-data-loss",
		Short: "Take the writes here, where the other site is gone",
		Long: `Take the writes at this site, where the other one is gone. What the other site had beyond
this one is lost: the question before says how much that is at most, as far as it was
heard. It is refused while a primary answers there. When the other site comes back and
hears this one, it stops its primary, keeps aside what it had beyond, and follows.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !lose {
				return usage("--accept-data-loss is missing; for a planned change type pgsidecar site switch at the other site")
			}
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			if st.Site == nil || !st.Site.Follows {
				return fmt.Errorf("cluster %s takes the writes already", st.Cluster)
			}
			if !yes {
				if err := confirm(a, lossWords(st.Site), st.Cluster); err != nil {
					return err
				}
			}
			return c.Change(cmd.Context(), a.Stdout, c.Answered(st), "/site/promote", api.SitePromotion{AcceptDataLoss: true})
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&lose, "accept-data-loss", false, "commits that only the other site has are lost")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// lossWords says what a promotion without the other site may lose.
func lossWords(s *api.SiteStatus) string {
	switch {
	case s.Heard < 0:
		return s.Name + " was never heard since this member started: how much is lost is not known."
	case s.Lag == nil:
		return fmt.Sprintf("%s was last heard %.0f s ago: what it wrote since is lost, and how far behind this site was is not known.", s.Name, s.Heard)
	}
	return fmt.Sprintf("%s was last heard %.0f s ago, and this site lacks %d bytes of what it had then. Those, and what it wrote since, are lost.", s.Name, s.Heard, *s.Lag)
}
