package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
)

// newRestoreDrillCommand returns `drill restore`.
func newRestoreDrillCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var member string
	var detach bool
	cmd := &cobra.Command{
		Use:   "restore [NAME]",
		Short: "Prove the newest backup of a real cluster by restoring it",
		Long: `Prove the newest backup of a real cluster by restoring it. A member, by default a
replica that no commit waits for, restores it to a scratch folder below its state
directory, starts PostgreSQL there on a socket of its own, lets it recover all the
log that is archived, and looks at what came out: pg_amcheck of all tables and
indexes, the checksum of each page, and the mark that the primary writes. Nothing
of the cluster is touched. It takes at most half of the space that is free there,
with the lowest priority. The report says how long a disaster would take (RTO) and
how much it would cost (RPO). The exit status is 1 if the backup is not proved.

pgsidecar backup cancel ends it. schedule { verify = "0 4 * * 0" } in the block backup
does it each week.`,
		Example: `  pgsidecar drill restore
  pgsidecar drill restore --on n3`,
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			asked := api.BackupRequest{Backup: first(args), Verify: true, Member: member}
			if err := c.Change(cmd.Context(), a.Stdout, c.Answered(st), "/backup", asked); err != nil || detach {
				return err
			}
			return followVerification(cmd.Context(), a, c, backupOf(st, asked.Backup))
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&member, "on", "", "the `member` that restores (default a replica)")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait for its end")
	return cmd
}

// lastVerification is the newest of which anything is known.
func lastVerification(b api.BackupStatus) *api.Verification {
	switch v := b.Verified; {
	case v == nil:
		return nil
	case v.Failed != nil:
		return v.Failed
	default:
		return v.Good
	}
}

// followVerification waits until there is a newer result than before, and prints it.
func followVerification(ctx context.Context, a *Process, c *client.Client, before api.BackupStatus) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	was := lastVerification(before)
	shown := ""
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		st, err := c.Status(ctx)
		if err != nil {
			continue // a failover; the next leader goes on
		}
		b := backupOf(st, before.Name)
		now := lastVerification(b)
		if now != nil && (was == nil || !now.Ended.Equal(was.Ended)) {
			if now.Error != "" {
				return fmt.Errorf("the backup is not proved (on %s): %s", now.By, now.Error)
			}
			screen.WriteVerification(a.Stdout, now)
			return nil
		}
		if v := b.Verified; v != nil && v.Running != nil && v.Running.Done > 0 {
			if words := fmt.Sprintf("restored %.0f %%", 100*v.Running.Done); words != shown {
				shown = words
				fmt.Fprintln(a.Stderr, words)
			}
		}
	}
}
