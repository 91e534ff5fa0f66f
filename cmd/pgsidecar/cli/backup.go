package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli/screen"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
)

// newBackupCommand returns `backup`.
func newBackupCommand(a *Process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Make backups, list them, and check the archive",
		Long: `Make backups, list them, and check the archive of the log.

What is backed up, where to and when stands in the blocks backup of each
member's pg.hcl. One member at a time makes a backup. NAME is a block's; without
it the command means the only one, or the one that archives the log.`,
		Args: needCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBackupRunCommand(a), newBackupListCommand(a), newBackupCancelCommand(a),
		newBackupChange(a, "/backup/check", "See that the repository is ready and that log arrives in it", `See that the repository is ready and that log arrives in it.

The primary makes the repository ready if it is not, begins a new segment of log,
and waits until that is in the archive.`),
		newBackupChange(a, "/backup/expire", "Remove the backups that retention does not keep", `Remove the backups that retention does not keep, and the log that only they need.

It is done after each backup. The last good backup always stays.`))
	return cmd
}

// oneName takes at most one argument.
func oneName(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usage("%s takes the name of one block, and got %q", cmd.CommandPath(), args)
	}
	return nil
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// newBackupChange returns a command, named by its path's last word, that asks for one
// change and prints the answer.
func newBackupChange(a *Process, path, short, long string) *cobra.Command {
	flags := clientFlags{app: a}
	cmd := &cobra.Command{Use: strings.TrimPrefix(path, "/backup/") + " [NAME]", Short: short, Long: long, Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			return c.Change(cmd.Context(), a.Stdout, c.Answered(st), path, api.BackupRequest{Backup: first(args)})
		}}
	flags.add(cmd)
	return cmd
}

// newBackupCancelCommand returns `backup cancel`.
func newBackupCancelCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	cmd := &cobra.Command{Use: "cancel", Short: "End the backup that is being made", Args: noArgs,
		Long: `End the backup that is being made, wherever it is, or that is to be tried again.
It is not begun again before its next time. What was copied does not count as a
backup.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			return c.Forget(cmd.Context(), a.Stdout, st, "/backup")
		}}
	flags.add(cmd)
	return cmd
}

// newBackupRunCommand returns `backup run`.
func newBackupRunCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var kind string
	var detach bool
	cmd := &cobra.Command{
		Use:   "run [NAME]",
		Short: "Make a backup now",
		Long: `Make a backup now, and wait for its end. Ctrl-C ends the waiting, not the backup.

The leader chooses the member that makes it, and begins it again if that member is
lost.`,
		Example: `  pgsidecar backup run
  pgsidecar backup run --kind incr`,
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"", "full", "diff", "incr"}, kind) {
				return usage("--kind %q: expected full, diff or incr", kind)
			}
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			asked := api.BackupRequest{Backup: first(args), Kind: backup.Kind(kind)}
			if err := c.Change(cmd.Context(), a.Stdout, c.Answered(st), "/backup", asked); err != nil || detach {
				return err
			}
			return followBackup(cmd.Context(), a, c, backupOf(st, asked.Backup))
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&kind, "kind", "", "`kind` of backup: full, diff or incr (default full)")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait for its end")
	return cmd
}

// backupOf is a block's backups in a status: of the one that is named, else of the only
// one, else of the one that archives the log.
func backupOf(st *api.Status, name string) api.BackupStatus {
	for _, b := range st.Backups {
		if b.Name == name || name == "" && (len(st.Backups) == 1 || b.Engine != "pg_dump") {
			return b
		}
	}
	return api.BackupStatus{}
}

// followBackup waits until a block's backups are not as they were before, and says how
// it went.
func followBackup(ctx context.Context, a *Process, c *client.Client, before api.BackupStatus) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
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
		switch b := backupOf(st, before.Name); {
		case b.Failed != nil && (before.Failed == nil || !b.Failed.At.Equal(before.Failed.At)):
			again := ""
			if b.Running != nil {
				again = " (it is tried again; pgsidecar backup cancel ends that)"
			}
			return fmt.Errorf("the backup failed on %s: %s%s", b.Failed.By, b.Failed.Error, again)
		case b.Running != nil:
			if words := fmt.Sprintf("%.0f %%", 100*b.Running.Done); b.Running.Done > 0 && words != shown {
				shown = words
				fmt.Fprintln(a.Stderr, words)
			}
		case b.Good != nil && (before.Good == nil || b.Good.Label != before.Good.Label):
			_, err := fmt.Fprintf(a.Stdout, "%s is done: %s, %s of data, %s stored, in %s\n", b.Good.Label, b.Good.Kind,
				screen.BytesWords(uint64(b.Good.Size)), screen.BytesWords(uint64(b.Good.Stored)), b.Good.Stop.Sub(b.Good.Start).Round(time.Second))
			return err
		}
	}
}

// newBackupListCommand returns `backup list`.
func newBackupListCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var asJSON bool
	cmd := &cobra.Command{Use: "list", Short: "List the backups, and what can be restored", Args: noArgs,
		Long: `List the backups that the repositories have, and the times to which the cluster
can be restored.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.client(cmd)
			if err != nil {
				return err
			}
			lists, text, err := c.Backups(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				_, err = a.Stdout.Write(text)
				return err
			}
			var b strings.Builder
			for _, l := range lists {
				screen.WriteBackups(&b, l)
			}
			_, err = fmt.Fprint(a.Stdout, b.String())
			return err
		}}
	flags.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as the member answers it")
	return cmd
}
