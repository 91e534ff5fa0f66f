package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// restartFlags say which members are restarted, and when.
type restartFlags struct {
	all, pending, cancel, upgrade bool
	role, at                      string
}

// newRestartCommand returns `restart`.
func newRestartCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var f restartFlags
	cmd := &cobra.Command{
		Use:   "restart [MEMBER...]",
		Short: "Restart PostgreSQL: of one member, or of many, one after the other",
		Long: `Restart PostgreSQL: of one member, or of many, one after the other. A primary that is
restarted alone is restarted where it is. With several members the replicas restart
first, each when the previous one streams again; then the primary hands over, once,
which restarts its server too.

--upgrade restarts only members whose server runs other programs than those on disk:
after a minor upgrade of PostgreSQL's packages on all hosts, "restart --all --upgrade"
takes them up with one switchover, and stops at the first member that does not come back.

To have less of max_connections, max_worker_processes, max_wal_senders,
max_prepared_transactions or max_locks_per_transaction, restart the primary first,
where it is (--role primary), then the replicas: a standby needs what its primary has.`,
		Example: `  pgsidecar restart n2
  pgsidecar restart --all
  pgsidecar restart --pending            # members with a pending restart
  pgsidecar restart --role replica
  pgsidecar restart --all --upgrade      # after a minor upgrade of the packages
  pgsidecar restart n2 --at 2026-01-31T04:00:00Z`,
		RunE: func(cmd *cobra.Command, members []string) error {
			if err := f.check(members); err != nil {
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
			chosen, err := f.choose(st, members)
			if err != nil {
				return err
			}
			if f.upgrade {
				if chosen, err = upgraded(cmd.Context(), rollout{c, a.Stdout}, chosen); err != nil {
					return err
				}
			}
			if len(chosen) == 0 {
				none := "no member is to be restarted"
				if f.upgrade {
					none = "the servers run the programs that are on disk"
				} else if f.pending {
					none = "no parameter of these members waits for a restart"
				}
				_, err := fmt.Fprintln(a.Stdout, none)
				return err
			}
			return f.restart(cmd.Context(), rollout{c, a.Stdout}, st, chosen)
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&f.all, "all", false, "all members")
	cmd.Flags().StringVar(&f.role, "role", "", "only those with this `role`: primary or replica")
	cmd.Flags().BoolVar(&f.pending, "pending", false, "only those of which a parameter waits for a restart")
	cmd.Flags().BoolVar(&f.upgrade, "upgrade", false, "only those whose server runs other programs than those on disk")
	cmd.Flags().StringVar(&f.at, "at", "", "`when`, such as 2026-01-31T04:00:00Z (default: now); for one member")
	cmd.Flags().BoolVar(&f.cancel, "cancel", false, "forget the planned restart of one member")
	completeMembers(&flags, cmd, "")
	return cmd
}

func (f *restartFlags) check(members []string) error {
	switch {
	case f.role != "" && f.role != "primary" && f.role != "replica":
		return usage("--role %q: expected primary or replica", f.role)
	case len(members) == 0 && !f.all && !f.pending && f.role == "":
		return usage("which members? Name them, or say --all, --pending or --role")
	case f.all && len(members) > 0:
		return usage("--all, and %s: expected one of the two", strings.Join(members, " "))
	case (f.at != "" || f.cancel) && len(members) != 1:
		return usage("--at and --cancel are for one member, by its name")
	}
	if f.at != "" {
		if _, err := time.Parse(time.RFC3339, f.at); err != nil {
			return usage("--at %q: expected a time with its zone, such as 2026-01-31T04:00:00Z", f.at)
		}
	}
	return nil
}

// choose returns the members that are to be restarted: replicas first.
func (f *restartFlags) choose(st *api.Status, names []string) ([]api.MemberStatus, error) {
	for _, name := range names {
		if _, ok := client.MemberAPI(st, name); !ok {
			return nil, client.UnknownMember(st, name)
		}
	}
	var chosen []api.MemberStatus
	for _, m := range st.Members {
		leads := m.Member == st.Leader
		switch {
		case len(names) > 0 && !slices.Contains(names, m.Member):
		case f.pending && !m.Restart && len(names) == 0: // a named member knows itself
		case f.role == "primary" && !leads, f.role == "replica" && leads:
		case m.API == "" || m.Link != "self" && m.Link != "up":
			return nil, fmt.Errorf("member %s does not answer; nothing was restarted. Name the others to go on without it", m.Member)
		default:
			chosen = append(chosen, m)
		}
	}
	slices.SortStableFunc(chosen, func(x, y api.MemberStatus) int {
		switch {
		case x.Member == st.Leader:
			return 1
		case y.Member == st.Leader:
			return -1
		}
		return 0
	})
	return chosen, nil
}

// upgraded are those of the members whose server runs others than the programs on disk.
func upgraded(ctx context.Context, r rollout, members []api.MemberStatus) (chosen []api.MemberStatus, err error) {
	for _, m := range members {
		st, err := r.StatusOf(ctx, m.API)
		if err != nil {
			return nil, fmt.Errorf("ask %s which programs it runs; nothing was restarted: %w", m.Member, err)
		}
		if st.NewPrograms {
			chosen = append(chosen, m)
		}
	}
	return chosen, nil
}

func (f *restartFlags) restart(ctx context.Context, r rollout, st *api.Status, chosen []api.MemberStatus) error {
	if f.cancel {
		_, err := r.Ask(ctx, http.MethodDelete, chosen[0].API, "/restart", nil)
		if err == nil {
			_, err = fmt.Fprintln(r.to, "the planned restart is forgotten")
		}
		return err
	}
	if f.at != "" {
		return r.Change(ctx, r.to, chosen[0].API, "/restart", map[string]any{"schedule": f.at})
	}
	lowers := lowersLimit(st)
	if lowers != "" && len(chosen) > 1 && chosen[len(chosen)-1].Member == st.Leader {
		return r.primaryFirst(ctx, chosen, lowers)
	}
	for i, m := range chosen {
		body := map[string]any{}
		if f.pending {
			body["restart_pending"] = true
		}
		if m.Member == st.Leader && len(chosen) > 1 {
			return r.handOver(ctx, st.Leader)
		}
		if len(chosen) > 1 {
			fmt.Fprintf(r.to, "%s: restarting (%d of %d)\n", m.Member, i+1, len(chosen))
		}
		err := r.Change(ctx, r.to, m.API, "/restart", body)
		if err != nil && f.pending && len(chosen) > 1 && !r.waitsForRestart(ctx, m.API) {
			fmt.Fprintf(r.to, "  no restart is pending there any more; it is left as it is\n")
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.Member, err)
		}
		if len(chosen) > 1 {
			if err := r.untilStreams(ctx, m.Member); err != nil {
				return err
			}
		}
	}
	return nil
}

// waitsForRestart tells whether a member's server waits for a restart; yes, where the member
// does not say.
func (r rollout) waitsForRestart(ctx context.Context, address string) bool {
	st, err := r.StatusOf(ctx, address)
	if err != nil {
		return true
	}
	i := slices.IndexFunc(st.Members, func(m api.MemberStatus) bool { return m.Member == st.Member })
	return i < 0 || st.Members[i].Restart
}

// lowersLimit is a parameter of which the primary is to have less, and a standby needs
// what its primary has; empty: there is none.
func lowersLimit(st *api.Status) string {
	for _, p := range st.Pending {
		now, errNow := strconv.Atoi(p.Now)
		wanted, err := strconv.Atoi(p.Wanted)
		if st.Member == st.Leader && api.StandbyLimit(p.Name) && errNow == nil && err == nil && wanted < now {
			return p.Name
		}
	}
	return ""
}

// primaryFirst restarts the primary, the last of those chosen, where it is, and then the
// replicas: they cannot have less before it has.
func (r rollout) primaryFirst(ctx context.Context, chosen []api.MemberStatus, why string) error {
	last := len(chosen) - 1
	order := append([]api.MemberStatus{chosen[last]}, chosen[:last]...)
	for i, m := range order {
		fmt.Fprintf(r.to, "%s: restarting (%d of %d)\n", m.Member, i+1, len(order))
		if i == 0 {
			fmt.Fprintf(r.to, "  the primary first, where it is: it is to have less of %s\n", why)
		} else if err := r.untilReplayed(ctx, m.Member); err != nil {
			return err
		}
		if err := r.Change(ctx, r.to, m.API, "/restart", map[string]any{}); err != nil {
			return fmt.Errorf("%s: %w", m.Member, err)
		}
		if i > 0 {
			if err := r.untilStreams(ctx, m.Member); err != nil {
				return err
			}
		}
	}
	return nil
}

// untilReplayed waits until a replica has replayed what the primary has now: only then it
// knows that it needs no more than the primary has.
func (r rollout) untilReplayed(ctx context.Context, member string) error {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var goal ha.LSN
	for {
		st, err := r.Status(ctx)
		if err == nil {
			for _, m := range st.Members {
				if m.Member == st.Leader && m.Writable && goal == 0 {
					goal = m.Position.LSN
				}
			}
		}
		if err == nil && slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool {
			return m.Member == member && m.Streaming && m.Lag != nil && goal != 0 && m.Position.LSN >= goal && uint64(m.Position.LSN)-*m.Lag >= uint64(goal)
		}) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", member, errStreams)
		case <-tick.C:
		}
	}
}

// rollout restarts members one after the other.
type rollout struct {
	*client.Client
	to io.Writer
}

// streamTimeout is how long a restarted member may take to stream again.
const streamTimeout = 5 * time.Minute

// handOver has the primary hand over. Its server is restarted by that.
func (r rollout) handOver(ctx context.Context, leader string) error {
	st, err := r.Status(ctx)
	if err != nil {
		return err
	}
	if st.Leader != leader {
		return fmt.Errorf("%s does not lead any more, %s does; run the command again", leader, st.Leader)
	}
	address, ok := client.MemberAPI(st, leader)
	if !ok {
		return fmt.Errorf("%s, the primary, does not answer", leader)
	}
	fmt.Fprintf(r.to, "%s: handing over\n", leader)
	// The primary may not yet have seen that those just restarted stream.
	waiting, cancel := context.WithTimeout(ctx, handOverPatience)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err := r.Change(ctx, r.to, address, "/switchover", handoverBody{Leader: leader})
		if err == nil {
			return r.untilStreams(ctx, leader)
		}
		if errors.Is(err, client.ErrNotPossible) && waiting.Err() == nil {
			select {
			case <-waiting.Done():
			case <-tick.C:
				continue
			}
		}
		return fmt.Errorf("all but the primary, %s, were restarted: %w", leader, err)
	}
}

// handOverPatience is how long a handover that is not possible is tried again.
const handOverPatience = 30 * time.Second

// errStreams is returned when a member does not stream again in time.
var errStreams = errors.New("it does not stream again; the others were not touched; see pgsidecar status")

// untilStreams waits until the leader sees the member stream. There is no event
// for that, so it asks.
func (r rollout) untilStreams(ctx context.Context, member string) error {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := r.Status(ctx)
		if err == nil && slices.ContainsFunc(st.Members, func(m api.MemberStatus) bool {
			return m.Member == member && m.Streaming && m.Lag != nil && st.Leader != member
		}) {
			_, err := fmt.Fprintf(r.to, "%s: streams\n", member)
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", member, errStreams)
		case <-tick.C:
		}
	}
}
