package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// handoverBody is the body of /switchover and /failover, Patroni's own.
type handoverBody struct {
	Leader         string `json:"leader,omitempty"`
	Candidate      string `json:"candidate,omitempty"`
	ScheduledAt    string `json:"scheduled_at,omitempty"`
	AcceptDataLoss bool   `json:"accept_data_loss,omitempty"`
	Drain          string `json:"drain,omitempty"`
	Until          string `json:"until,omitempty"`
}

// switchoverFlags say how, and when, the lead is handed over.
type switchoverFlags struct {
	to, at               string
	forget, force, check bool
	drain, within        time.Duration
}

// body is the request to the leader.
func (f *switchoverFlags) body() (handoverBody, error) {
	b := handoverBody{Candidate: f.to, ScheduledAt: f.at}
	switch {
	case f.forget && (f.to != "" || f.at != ""):
		return b, usage("--cancel stands alone: it forgets the planned switchover")
	case f.drain != 0 && !f.force:
		return b, usage("--drain says when transactions are ended: expected --force too")
	case f.check && f.at != "":
		return b, usage("--check says what a switchover would meet now: expected no --at")
	case f.within != 0 && f.at == "":
		return b, usage("--within is for a planned switchover: expected --at too")
	case f.force:
		b.Drain = cmp.Or(f.drain, 500*time.Millisecond).String()
	}
	if f.at == "" {
		return b, nil
	}
	when, err := time.Parse(time.RFC3339, f.at)
	if err != nil {
		return b, usage("--at %q: expected a time with its zone, such as 2026-01-31T04:00:00Z", f.at)
	}
	if f.within > 0 {
		b.Until = when.Add(f.within).Format(time.RFC3339)
	}
	return b, nil
}

// newSwitchoverCommand returns `switchover`.
func newSwitchoverCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var f switchoverFlags
	cmd := &cobra.Command{
		Use:   "switchover",
		Short: "Hand the lead over, without losing anything",
		Long: `Hand the lead over, without losing anything. If it cannot begin, or the new primary
dies in the middle, another takes over or the old one continues: clients wait at most
failover.handover_timeout. A transaction open for 0.5 s stops it; --force ends those.
It ends after a minute. It fails if another than --to leads.`,
		Example: `  pgsidecar switchover --to n2
  pgsidecar switchover --force --drain 5s
  pgsidecar switchover --to n2 --at 2026-01-31T04:00:00Z --within 30m
  pgsidecar switchover --cancel          # forget the planned one`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := f.body()
			if err != nil {
				return err
			}
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			if f.forget {
				return c.Forget(cmd.Context(), a.Stdout, st, "/switchover")
			}
			leader, ok := client.MemberAPI(st, st.Leader)
			switch {
			case !ok:
				return fmt.Errorf("no member leads, so none can hand over; see pgsidecar status")
			case screen.Unheard(st, st.Leader):
				return fmt.Errorf("the leader, %s, is unreachable and cannot hand over. The other members elect a new one where that is safe; "+
					"pgsidecar status shows what they are waiting for, and the override", st.Leader)
			case f.to == st.Leader:
				return fmt.Errorf("%s leads already", f.to)
			case f.to != "" && !slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool { return m.Member == f.to }):
				return client.UnknownMember(st, f.to)
			}
			met := screen.Meets(st, screen.Handover{To: f.to})
			if f.check {
				return checked(a, &met)
			}
			if f.at == "" {
				fmt.Fprint(a.Stderr, notes(&met))
			}
			body.Leader = st.Leader
			err = handOver(cmd.Context(), a, c, request{leader, "/switchover", body})
			if err != nil && strings.Contains(err.Error(), "open transactions") {
				err = fmt.Errorf("%w. To end them: pgsidecar switchover --force --drain 5s", err)
			}
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&f.to, "to", "", "the `member` that takes over (default: the best)")
	cmd.Flags().BoolVar(&f.check, "check", false, "only say what it would meet")
	cmd.Flags().StringVar(&f.at, "at", "", "`when`, such as 2026-01-31T04:00:00Z (default: now)")
	cmd.Flags().BoolVar(&f.forget, "cancel", false, "forget the planned switchover")
	cmd.Flags().BoolVar(&f.force, "force", false, "end transactions that are open, with their sessions")
	cmd.Flags().DurationVar(&f.drain, "drain", 0, "the `time` that --force lets them go on (default 500ms)")
	cmd.Flags().DurationVar(&f.within, "within", 0, "the `time` that a planned one is tried for (default 1m)")
	completeMembers(&flags, cmd, "to")
	return cmd
}

// request is one for a handover, and whom it goes to.
type request struct {
	address, path string
	body          handoverBody
}

// handOver sends the request, prints the answer, and fails if another member leads than the
// candidate. The API's own status is 200 then, as Patroni's is.
func handOver(ctx context.Context, a *Process, c *client.Client, r request) error {
	var answer strings.Builder
	err, candidate := c.Change(ctx, io.MultiWriter(a.Stdout, &answer), r.address, r.path, r.body), r.body.Candidate
	if err == nil && candidate != "" && strings.Contains(answer.String(), api.InsteadOf(candidate)) {
		err = fmt.Errorf("%s does not lead, as another member won the election; nothing was lost. pgsidecar status says who leads, and pgsidecar history why. "+
			"To try again: pgsidecar switchover --to %[1]s", candidate)
	}
	return err
}

// checked says what a handover would meet, and fails if it cannot be done.
func checked(a *Process, met *screen.Meeting) error {
	switch {
	case len(met.Stops) > 0:
		fmt.Fprint(a.Stdout, met.Words())
		return errors.New("nothing was done")
	case len(met.Notes) == 0:
		fmt.Fprintln(a.Stdout, "It can be done: nothing is in its way.")
	default:
		fmt.Fprint(a.Stdout, met.Words()+"It can be done.\n")
	}
	return nil
}

// notes are what comes with a handover. What stops one is said by the member that does it, from
// what it knows by then.
func notes(met *screen.Meeting) string {
	said := screen.Meeting{Notes: met.Notes}
	return said.Words()
}

// newFailoverCommand returns `failover`.
func newFailoverCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var to string
	var lose, yes, check bool
	cmd := &cobra.Command{
		Use:   "failover --to MEMBER",
		Short: "Make a member lead where no leader is left to hand over",
		Long: `Make a member lead where no leader is left to hand over. While one is heard this is a
switchover, which loses nothing. Without one, members elect by themselves as soon as
safety allows it; where it does not, pgsidecar status says what is missing, and
--accept-data-loss promotes without it. It also works where Consul has lost the
cluster's record or has an earlier one, and for a primary whose stop hangs. It never
deposes a primary that works. A failover that is not done in a minute is given up.`,
		Example: `  pgsidecar failover --to n2
  pgsidecar failover --to n2 --accept-data-loss      # asks before`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to == "" {
				return usage("--to is missing: which member takes over?")
			}
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			met := screen.Meets(st, screen.Handover{To: to, Failover: true, Lose: lose})
			switch known := slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool { return m.Member == to }); {
			case check && known:
				return checked(a, &met)
			case known:
				fmt.Fprint(a.Stderr, notes(&met))
			}
			if screen.Unheard(st, to) {
				return fmt.Errorf("%s is unreachable and cannot lead; pgsidecar status shows who is reachable", to)
			}
			candidate, ok := client.MemberAPI(st, to)
			if !ok {
				return client.UnknownMember(st, to)
			}
			if lose && !yes {
				what := fmt.Sprintf("%s takes over without the votes that safety requires. Acknowledged commits may be lost.", to)
				if err := confirm(a, what, to); err != nil {
					return err
				}
			}
			err = handOver(cmd.Context(), a, c, request{candidate, "/failover", handoverBody{Candidate: to, AcceptDataLoss: lose}})
			if err == nil && lose && st.Durability.Mode == ha.ModeQuorum {
				fmt.Fprintln(a.Stdout, "If no standby is left, commits wait for one: pgsidecar status says so, and what ends it.")
			}
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&to, "to", "", "the `member` that takes over")
	cmd.Flags().BoolVar(&lose, "accept-data-loss", false, "go on without enough votes: acknowledged commits may be lost")
	cmd.Flags().BoolVar(&check, "check", false, "only say what it would meet")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	completeMembers(&flags, cmd, "to")
	return cmd
}
