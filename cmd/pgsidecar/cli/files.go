package cli

import (
	"cmp"
	_ "embed"
	"io"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/install"
)

// newFilesCommand returns `files` and the commands under it: what an operator
// needs besides the program, for those who have only the program.
func newFilesCommand(a *Process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "files",
		Short: "Print a file to install: systemd unit, Dockerfile, ACL policy, dashboard, alerts",
		Long: `Print a file to install, with the reason for each setting in it:

  pgsidecar files systemd > /etc/systemd/system/pgsidecar.service
  pgsidecar files policy -cluster pg | consul acl policy create -name pgsidecar-pg -rules -`,
		Args:                       needCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SuggestionsMinimumDistance: 2,
	}
	for _, f := range []struct{ name, short, text string }{
		{"systemd", "Print the systemd unit of a member", install.SystemdUnit},
		{"needrestart", "Print the file by which Debian's needrestart leaves members alone", install.Needrestart},
		{"docker", "Print a Dockerfile of a member", install.Dockerfile},
		{"grafana", "Print a Grafana dashboard, in JSON", api.Dashboard()},
		{"alerts", "Print alert rules for Prometheus", api.Alerts()},
	} {
		cmd.AddCommand(&cobra.Command{Use: f.name, Short: f.short, Args: noArgs, RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(a.Stdout, f.text)
			return err
		}})
	}
	cmd.AddCommand(newPolicyCommand(a))
	return cmd
}

// newPolicyCommand returns `files policy`.
func newPolicyCommand(a *Process) *cobra.Command {
	var prefix, cluster, service string
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Print the least ACL policy that a member needs of Consul",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(a.Stdout, install.Policy(prefix, cluster, cmp.Or(service, cluster)))
			return err
		},
	}
	cmd.Flags().StringVar(&cluster, "cluster", "pg", "the cluster's `name`")
	cmd.Flags().StringVar(&prefix, "prefix", "pgsidecar", "the `prefix` of the keys, as in the consul block of pg.hcl")
	cmd.Flags().StringVar(&service, "service", "", "the service's `name`, as in the service block of pg.hcl (default: the cluster's)")
	return cmd
}
