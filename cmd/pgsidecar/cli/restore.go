package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// restoreFlags say what is restored, and to where.
type restoreFlags struct {
	time, lsn, name, xid, label        string
	exclusive, plan, giveUp, yes, gone bool

	asked api.RestoreRequest // as the API takes it
}

// request reads the target.
func (f *restoreFlags) request() error {
	f.asked = api.RestoreRequest{Kind: backup.Latest, Exclusive: f.exclusive, Label: f.label}
	targets := 0
	for kind, value := range map[backup.TargetKind]string{backup.ToTime: f.time, backup.ToLSN: f.lsn, backup.ToName: f.name, backup.ToXID: f.xid} {
		if value != "" {
			f.asked.Kind, f.asked.Value = kind, value
			targets++
		}
	}
	if targets > 1 {
		return usage("a restore has one target: expected one of --to-time, --to-lsn, --to-name and --to-xid")
	}
	if _, err := backup.ParseTarget(f.asked.Kind, f.asked.Value); err != nil {
		return usage("%v", err)
	}
	if f.exclusive && targets == 0 {
		return usage("--exclusive stops just before a target: expected --to-time, --to-lsn or --to-xid too")
	}
	return nil
}

// newRestoreCommand returns `restore`.
func newRestoreCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Restore the cluster from a backup, to a point in time",
		Long: `Restore the cluster in place from a backup, to a point in time: by default to the
end of the archived log. All that was written after that is gone for clients.

All servers stop. The primary's member restores the backup beside its data, which
are kept; PostgreSQL replays the log to the target; then this member leads, in a
new term and on a new timeline, and the others are rewound or cloned from it.
Clients find the new primary by the same name. The data from before are removed
once the restored server takes writes. Until then --give-up brings them back.`,
		Example: `  pgsidecar restore --plan --to-time "2026-03-01 12:00:00+01"
  pgsidecar restore --to-time "2026-03-01 12:00:00+01" --yes
  pgsidecar restore --give-up`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.request(); err != nil {
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
			if f.giveUp {
				return c.Forget(cmd.Context(), a.Stdout, st, "/restore")
			}
			return f.restore(cmd.Context(), a, c, st)
		},
	}
	flags.add(cmd)
	s := cmd.Flags()
	s.StringVar(&f.time, "to-time", "", "the last commit at this `TIME`, with its zone")
	s.StringVar(&f.lsn, "to-lsn", "", "this `POSITION` in the log")
	s.StringVar(&f.name, "to-name", "", "the restore point of this `NAME` (pg_create_restore_point)")
	s.StringVar(&f.xid, "to-xid", "", "the commit of this transaction `ID`")
	s.BoolVar(&f.exclusive, "exclusive", false, "stop just before the target")
	s.StringVar(&f.label, "backup", "", "begin with the backup of this `LABEL`; default: the newest before the target")
	s.BoolVar(&f.plan, "plan", false, "say what would be done, and do nothing")
	s.BoolVar(&f.giveUp, "give-up", false, "end a restore that is under way: the cluster continues with its data from before")
	s.BoolVar(&f.yes, "yes", false, "do not ask")
	s.BoolVar(&f.gone, "detach", false, "do not wait for its end")
	return cmd
}

// restore shows the plan, and has it carried out.
func (f *restoreFlags) restore(ctx context.Context, a *Process, c *client.Client, st *api.Status) error {
	r := f.asked
	leader, known := client.MemberAPI(st, st.Leader)
	if !known {
		return fmt.Errorf("no member leads, so none can restore; see pgsidecar status")
	}
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	answer, err := c.Ask(ctx, http.MethodPost, leader, "/restore/plan", body)
	if err != nil {
		return err
	}
	var p api.RestorePlan
	if err := json.Unmarshal(answer, &p); err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	writePlan(a.Stdout, p)
	if f.plan {
		return nil
	}
	if !f.yes {
		return usage("nothing was done. What was committed after %s will be gone: repeat the command with --yes", p.Reach)
	}
	if r.Label == "" {
		r.Label = p.Backup.Label // as it was shown
	}
	if err := c.Change(ctx, a.Stdout, leader, "/restore", r); err != nil || f.gone {
		return err
	}
	return followRestore(ctx, a, c, st.Restored)
}

// writePlan says what a restore would do.
func writePlan(w io.Writer, p api.RestorePlan) {
	fmt.Fprintf(w, "target    %s\nbackup    %s: %s, finished %s, %s\nlog       %s in at most %d segments, timeline %d\nmember    %s; its data are kept until the restored server takes writes\n",
		p.Reach, p.Backup.Label, p.Backup.Kind, p.Backup.Stop.UTC().Format(time.RFC3339), screen.BytesWords(uint64(p.Backup.Size)),
		screen.BytesWords(uint64(p.LogBytes)), p.Segments, p.Window.Timeline, p.Member)
	took := "unknown: no backup was verified yet"
	if p.Duration > 0 {
		took = "about " + p.Duration.String()
	}
	fmt.Fprintf(w, "duration  %s\n", took)
	if p.Warning != "" {
		fmt.Fprintf(w, "warning   %s\n", p.Warning)
	}
}

// followRestore waits until the cluster takes writes with the restored data, and says how
// it fares.
func followRestore(ctx context.Context, a *Process, c *client.Client, before string) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	began, shown := time.Now(), ""
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		st, err := c.Status(ctx)
		if err != nil {
			continue // members are busy, or restart
		}
		switch {
		case st.Restored != "" && st.Restored != before && st.Phase == ha.PhaseLeading && st.Primary:
			_, err := fmt.Fprintf(a.Stdout, "%s takes writes after %s, in term %d; the other members follow\n", st.Leader, time.Since(began).Round(time.Second), st.Term)
			return err
		case st.Restore == nil && st.Phase != ha.PhaseLeading:
		case st.Restore == nil && st.Restored == before:
			return fmt.Errorf("the restore was given up: the cluster has its data from before")
		}
		if words := restoreWords(st); words != "" && words != shown {
			shown = words
			fmt.Fprintln(a.Stderr, words)
		}
	}
}

// restoreWords says how far a restore is.
func restoreWords(st *api.Status) string {
	if p := st.Progress; p != nil && p.Total > 0 {
		return fmt.Sprintf("%s backup %s: %d %%", p.What, p.From, 100*p.Done/p.Total)
	}
	for _, b := range st.Blocks {
		if strings.HasPrefix(b.What, "the cluster is restored") {
			return "waiting for " + b.Missing
		}
	}
	return ""
}
