package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// handoverBody is the body of /switchover and /failover, Patroni's own.
type handoverBody struct {
	Leader         string `json:"leader,omitempty"`
	Candidate      string `json:"candidate,omitempty"`
	ScheduledAt    string `json:"scheduled_at,omitempty"`
	AcceptDataLoss bool   `json:"accept_data_loss,omitempty"`
}

// newSwitchoverCommand returns `switchover`.
func newSwitchoverCommand(a *app) *cobra.Command {
	flags := clientFlags{app: a}
	var to, at string
	var forget bool
	cmd := &cobra.Command{
		Use:   "switchover",
		Short: "Hand the lead over, without losing anything",
		Long: `Hand the lead over, without losing anything. If it cannot begin, or the member that
is to lead dies in the middle, another leads or the old primary goes on: nobody waits
longer than failover.handover_timeout. One that has not come about in a minute is
given up.`,
		Example: `  pgsidecar switchover
  pgsidecar switchover --to n2
  pgsidecar switchover --to n2 --at 2026-01-31T04:00:00Z
  pgsidecar switchover --cancel          # forget the planned one`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if forget && (to != "" || at != "") {
				return usage("--cancel stands alone: it forgets the planned switchover")
			}
			if at != "" {
				if _, err := time.Parse(time.RFC3339, at); err != nil {
					return usage("--at %q: expected a time with its zone, such as 2026-01-31T04:00:00Z", at)
				}
			}
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			st, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			if forget {
				return c.forget(cmd.Context(), a.stdout, st, "/switchover")
			}
			leader, ok := memberAPI(st, st.Leader)
			switch {
			case !ok:
				return fmt.Errorf("there is no leader that could hand over; see pgsidecar status")
			case unheard(st, st.Leader):
				return fmt.Errorf("%s, the leader, is not heard, and cannot hand over. The others elect by themselves where that is safe; "+
					"pgsidecar status says what it waits for, and what goes on without", st.Leader)
			case to == st.Leader:
				return fmt.Errorf("%s leads already", to)
			case to != "" && !slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool { return m.Member == to }):
				return unknownMember(st, to)
			}
			return c.change(cmd.Context(), a.stdout, leader, "/switchover",
				handoverBody{Leader: st.Leader, Candidate: to, ScheduledAt: at})
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&to, "to", "", "the `member` that is to lead (default: the best)")
	cmd.Flags().StringVar(&at, "at", "", "`when`, such as 2026-01-31T04:00:00Z (default: now)")
	cmd.Flags().BoolVar(&forget, "cancel", false, "forget the planned switchover")
	completeMembers(&flags, cmd, "to")
	return cmd
}

// newFailoverCommand returns `failover`.
func newFailoverCommand(a *app) *cobra.Command {
	flags := clientFlags{app: a}
	var to string
	var lose, yes bool
	cmd := &cobra.Command{
		Use:   "failover --to MEMBER",
		Short: "Make a member lead where no leader is left to hand over",
		Long: `Make a member lead where no leader is left to hand over. While one is heard this is a
switchover, which loses nothing. Without one, members elect by themselves as soon as
safety allows it; where it does not, pgsidecar status says what is missing, and
--accept-data-loss goes on without it.`,
		Example: `  pgsidecar failover --to n2
  pgsidecar failover --to n2 --accept-data-loss      # asks before`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to == "" {
				return usage("--to is missing: which member is to lead?")
			}
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			st, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			if unheard(st, to) {
				return fmt.Errorf("%s is not heard, and cannot lead; name one that is: pgsidecar status", to)
			}
			candidate, ok := memberAPI(st, to)
			if !ok {
				return unknownMember(st, to)
			}
			if lose && !yes {
				what := fmt.Sprintf("%s is to lead without the votes that safety asks for. Commits that were acknowledged may be lost.", to)
				if err := confirm(a, what, to); err != nil {
					return err
				}
			}
			err = c.change(cmd.Context(), a.stdout, candidate, "/failover", handoverBody{Candidate: to, AcceptDataLoss: lose})
			if err == nil && lose && st.Durability.Mode == ha.ModeQuorum {
				fmt.Fprintln(a.stdout, "If no standby is left, commits wait for one: pgsidecar status says so, and what ends it.")
			}
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&to, "to", "", "the `member` that is to lead")
	cmd.Flags().BoolVar(&lose, "accept-data-loss", false, "go on without enough votes: acknowledged commits may be lost")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	completeMembers(&flags, cmd, "to")
	return cmd
}
