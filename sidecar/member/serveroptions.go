package member

import (
	"context"
	"os"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
	"github.com/pgsidecar/pgsidecar/sidecar/process"
)

// serverOptions are what the configuration says of the server. Without a guard they can
// only be checked.
func serverOptions(cfg *config.Config, g *guard.Client, log hclog.Logger) postgres.Options {
	pg := cfg.Postgres
	return postgres.Options{
		Member: cfg.Member, BinDir: pg.BinDir, DataDir: pg.DataDir, StateDir: pg.StateDir, User: pg.User,
		Listen: pg.Listen, Advertise: pg.Advertise,
		SuperuserName: pg.Superuser.Name, SuperuserPassword: func() (string, error) { return process.Password(pg.Superuser) },
		ReplicationName: pg.Replication.Name, ReplicationPassword: func() (string, error) { return process.Password(pg.Replication) },
		Parameters: pg.Parameters, HBA: pg.HBA, Ident: pg.Ident, TLS: postgres.TLS(pg.TLS), WALReceiverTimeout: cfg.Failover.FailureTimeout,
		WAL: postgres.WAL{Dir: pg.WALDir, SegmentMB: cfg.Bootstrap.Initdb.WALSegmentMB, Initdb: cfg.Bootstrap.Initdb.Args(), BaseBackup: pg.BaseBackup.Args(),
			Environment: postgres.Inherited(os.Environ(), cfg.Secrets())},
		Guard: launcher{g}, Logger: log.Named("postgres"),
	}
}

// launcher lets package postgres start and stop the server through the guard.
type launcher struct{ *guard.Client }

var _ postgres.Guard = launcher{}

// Start translates the command.
func (l launcher) Start(ctx context.Context, cmd postgres.Command) error {
	return l.Client.Start(ctx, guard.Command{
		Path: cmd.Path, Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir, UID: cmd.UID, GID: cmd.GID, LogFile: cmd.LogFile,
	})
}
