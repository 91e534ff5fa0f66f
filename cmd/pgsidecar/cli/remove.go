package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/client"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
)

// newRemoveCommand returns `remove`.
func newRemoveCommand(a *Process) *cobra.Command {
	flags := clientFlags{app: a}
	var cluster string
	cmd := &cobra.Command{
		Use:   "remove MEMBER | --cluster NAME",
		Short: "Forget a member that is gone for good, or a whole cluster",
		Long: `Forget a member that is gone for good: its place in the cluster's record, its
registration in Consul, and its replication slots, which keep log on the others'
disks. The leader does it. A member that was only away joins again by itself.

With --cluster, forget a whole cluster: all its keys in Consul, with the token of
--config. No member of it may be registered. The members' data_dir and state_dir are not
touched: remove both before you make another cluster from this one's backup.

The name must be typed again: there is no way around that.`,
		Example: `  pgsidecar remove n3
  pgsidecar remove --cluster pg -config /etc/pgsidecar/pg.hcl`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case cluster != "" && len(args) > 0:
				return usage("a member or a cluster, not both: %q and --cluster %s", args, cluster)
			case cluster == "" && len(args) != 1:
				return usage("%s takes the name of one member, and got %q", cmd.CommandPath(), args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if cluster != "" {
				return removeCluster(cmd.Context(), a, flags.config, cluster)
			}
			return removeMember(cmd, &flags, args[0])
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&cluster, "cluster", "", "forget the whole cluster of this `name`")
	completeMembers(&flags, cmd, "")
	return cmd
}

// removeMember asks the leader to forget a member.
func removeMember(cmd *cobra.Command, flags *clientFlags, member string) error {
	c, err := flags.client(cmd)
	if err != nil {
		return err
	}
	st, err := c.Status(cmd.Context())
	if err != nil {
		return err
	}
	if err := mayRemove(st, member); err != nil {
		return err
	}
	leader, ok := client.MemberAPI(st, st.Leader)
	if !ok {
		return fmt.Errorf("only the leader removes a member, and there is none that %s knows; see pgsidecar status", st.Member)
	}
	what := fmt.Sprintf("%s is removed from cluster %s: from its record, from Consul, and its replication slots from the others.\n"+
		"Its data directory stays; its sidecar, if it is ever started again, brings it back.", member, st.Cluster)
	if err := confirmName(flags.app, what, member); err != nil {
		return err
	}
	if err := c.Change(cmd.Context(), flags.app.Stdout, leader, "/remove", map[string]string{"member": member}); err != nil {
		return fmt.Errorf("remove %s: %w", member, err)
	}
	return nil
}

// mayRemove says what the leader would say anyway, before a person is asked.
func mayRemove(st *api.Status, member string) error {
	if member == st.Leader {
		return fmt.Errorf("%s leads; hand over first: pgsidecar switchover", member)
	}
	for _, m := range st.Members {
		if m.Member != member {
			continue
		}
		if m.Link == "up" || m.Link == "self" {
			return fmt.Errorf("%s is alive; stop its sidecar first: systemctl stop pgsidecar, on its machine", member)
		}
		return nil
	}
	if slices.Contains(st.Recorded, member) {
		return nil
	}
	return client.UnknownMember(st, member)
}

// removeCluster deletes a cluster's keys in Consul.
func removeCluster(ctx context.Context, a *Process, path, name string) error {
	cfg, err := config.Load(path, process.Environment())
	if err != nil {
		return reportFaults(a, err)
	}
	if cfg.Cluster != name {
		return usage("%s is of cluster %s, not of %s", path, cfg.Cluster, name)
	}
	consul := registryOf(cfg)
	left, err := consul.Remains(ctx)
	switch {
	case err != nil:
		return err
	case len(left.Keys) == 0 && len(left.Members) == 0:
		return fmt.Errorf("there is no cluster %s in Consul at %s, under %s/", name, strings.Join(cfg.Consul.Addresses, ", "), cfg.Consul.Prefix)
	case left.InUse() != nil:
		return client.WhyInUse(left)
	}
	what := fmt.Sprintf("These Consul keys will be deleted, including the record of which members hold the latest commits:\n  %s\n"+
		"Data directories stay; the member that led last founds the cluster again if it is started first.", strings.Join(left.Keys, "\n  "))
	if err := confirmName(a, what, name); err != nil {
		return err
	}
	// A member that has come meanwhile keeps it.
	now, err := consul.Remains(ctx)
	if err != nil {
		return err
	}
	err = consul.RemoveCluster(ctx, now)
	switch {
	case errors.Is(err, client.ErrInUse):
		return client.WhyInUse(now)
	case errors.Is(err, client.ErrChanged):
		return fmt.Errorf("nothing was deleted: a member has come to life meanwhile: %w", err)
	case err != nil:
		return err
	}
	_, err = fmt.Fprintf(a.Stdout, "cluster %s is removed: %d keys\n", name, len(now.Keys))
	return err
}

// confirmName asks a person to type a name. Nothing goes without it.
func confirmName(a *Process, what, name string) error {
	fmt.Fprintf(a.Stderr, "%s\nType %s to continue: ", what, name)
	var typed string
	if _, err := fmt.Fscanln(a.Stdin, &typed); err != nil || typed != name {
		return fmt.Errorf("nothing was removed: %q was typed, not %q", typed, name)
	}
	return nil
}
