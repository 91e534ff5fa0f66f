package cli

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
	"github.com/pgsidecar/pgsidecar/sidecar/proxy"
)

// newProxyCommand returns `proxy`: what runs beside an application.
func newProxyCommand(a *Process) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "proxy",
		Short: "Follow the cluster: switch HAProxy, write configuration files",
		Long: `Follow the cluster: switch HAProxy by its stats socket at each change of roles, and
write the configured files when what they say has changed. It never takes part in
elections, and while it is away HAProxy relies on its own checks. In a planned
switchover it makes new clients of HAProxy and all of PgBouncer wait.

With haproxy.master_socket ("haproxy -W -S PATH"; Debian's is /run/haproxy-master.sock)
it reloads HAProxy itself when a member has come or gone, and ends sessions that a
reload left in an old worker when their primary is deposed.

With api.listen in its configuration it serves /status, /metrics, /readiness and
/liveness. Its Consul token needs only to read: key_prefix "pgsidecar/CLUSTER/",
service "SERVICE", node_prefix "", and whatever else its templates ask for.

SIGHUP reads its configuration again. SIGTERM and SIGINT end it; files and HAProxy stay
as they are.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, syscall.SIGHUP)
			defer signal.Stop(reload)
			return proxy.RunReloading(cmd.Context(), reload, func() (*config.Config, error) { return loadEither(a, path) },
				func(cfg *config.Config) hclog.Logger { return process.Logger(cfg.Log, a.Stderr) })
		},
	}
	cmd.Flags().StringVar(&path, "config", "proxy.hcl", "the proxy's configuration `file`, or a member's")
	cmd.AddCommand(newRescueCommand(a))
	return cmd
}

// loadEither reads a proxy's configuration or a member's. It reports the faults
// of the kind that has fewer.
func loadEither(a *Process, path string) (*config.Config, error) {
	cfg, err := config.LoadProxy(path, process.Environment())
	if err == nil {
		return cfg, nil
	}
	member, memberErr := config.Load(path, process.Environment())
	if memberErr == nil {
		return member, nil
	}
	var asProxy, asMember *config.Error
	if errors.As(err, &asProxy) && errors.As(memberErr, &asMember) && len(asMember.Diagnostics) < len(asProxy.Diagnostics) {
		err = memberErr
	}
	return nil, reportFaults(a, err)
}

// newRescueCommand returns the command for the process that lets PgBouncer's
// clients go on if its parent dies. People have no use for it.
func newRescueCommand(a *Process) *cobra.Command {
	return &cobra.Command{
		Use:    proxy.RescueCommand,
		Short:  "Let PgBouncer's clients go on if the parent process dies (started by pgsidecar itself)",
		Hidden: true,
		Args:   noArgs,
		RunE:   func(*cobra.Command, []string) error { return proxy.Rescue(a.Stdin, a.Stdout) },
	}
}
