package cli

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
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
which restarts its server too. If another member takes over meanwhile, the command goes
on under that one when the old primary streams.

--upgrade restarts only members whose server runs other programs than those on disk:
after a minor upgrade of PostgreSQL's packages on all hosts, "restart --all --upgrade"
takes them up with one switchover, and stops at the first member that does not come back;
type it again to go on.

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
					return fmt.Errorf("nothing was restarted: %w", err)
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
	leaderLast(chosen, st.Leader)
	return chosen, nil
}

// leaderLast moves the leader behind all others.
func leaderLast(members []api.MemberStatus, leader string) {
	slices.SortStableFunc(members, func(x, y api.MemberStatus) int {
		switch {
		case x.Member == leader:
			return 1
		case y.Member == leader:
			return -1
		}
		return 0
	})
}

// upgraded are those of the members whose server runs others than the programs on disk.
func upgraded(ctx context.Context, r rollout, members []api.MemberStatus) (chosen []api.MemberStatus, err error) {
	for _, m := range members {
		st, err := r.StatusOf(ctx, m.API)
		if err != nil {
			return nil, fmt.Errorf("ask %s which programs it runs: %w", m.Member, err)
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
	if len(chosen) == 1 && (!f.all || len(st.Members) == 1) {
		if err := r.Change(ctx, r.to, chosen[0].API, "/restart", f.body()); err != nil {
			return fmt.Errorf("%s: %w", chosen[0].Member, err)
		}
		return nil
	}
	if lowers := lowersLimit(st); lowers != "" && chosen[len(chosen)-1].Member == st.Leader {
		return r.primaryFirst(ctx, chosen, lowers)
	}
	return f.roll(ctx, r, st.Leader, chosen)
}

// body is that of the request to a member.
func (f *restartFlags) body() map[string]any {
	body := map[string]any{}
	if f.pending {
		body["restart_pending"] = true
	}
	return body
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
