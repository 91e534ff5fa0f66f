package member

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/command"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/logical"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/pgbackrest"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
	"github.com/pgsidecar/pgsidecar/sidecar/config"
	"github.com/pgsidecar/pgsidecar/sidecar/postgres"
)

// local is where a member's server is, as the engines of backups reach it.
type local struct {
	socket string // a directory
	port   int
	// passfile is for a program that connects by TCP; by the socket nobody needs one.
	passfile string
}

// backupDir is where an engine keeps its own files.
func backupDir(cfg *config.Config, name string) string {
	return filepath.Join(cfg.Postgres.StateDir, "backup-"+name)
}

// backupUser is whom the engines' programs run as: PostgreSQL's user.
func backupUser(cfg *config.Config) (program.User, error) {
	name := cfg.Postgres.User
	if name == "" && os.Geteuid() == 0 {
		name = "postgres"
	}
	return program.Lookup(name)
}

// makerOf is the engine of a block, on this member's server.
func makerOf(cfg *config.Config, k *config.Backup, at local) (backup.Maker, error) {
	if k.Engine != config.EnginePgDump {
		return engineOf(cfg, k, at)
	}
	u, err := backupUser(cfg)
	if err != nil {
		return nil, err
	}
	return logical.New(logical.Config{
		BinDir: cfg.Postgres.BinDir, Folder: k.Repository.Path, User: u, Host: at.socket, Port: at.port, Account: cfg.Postgres.Superuser.Name,
		Databases: k.Databases, Format: logical.Format(k.Format), Jobs: k.Processes, Retention: k.Retention,
	})
}

// engineOf is the engine of a block that archives the log.
func engineOf(cfg *config.Config, k *config.Backup, at local) (backup.Engine, error) {
	u, err := backupUser(cfg)
	if err != nil {
		return nil, err
	}
	dir, r := backupDir(cfg, k.Name), k.Repository
	switch k.Engine {
	case config.EnginePgBackRest:
		return pgbackrest.New(pgbackrest.Config{
			Stanza: cfg.Cluster, Dir: dir, User: u,
			Server:     pgbackrest.Server{DataDir: cfg.Postgres.DataDir, Socket: at.socket, Port: at.port, User: cfg.Postgres.Superuser.Name},
			Repository: pgbackrest.Repository{Type: r.Type, Path: r.Path, KeyFile: r.KeyFile, Options: r.Options, Secrets: r.SecretFiles},
			Retention:  k.Retention, Processes: k.Processes, Compress: k.Compress,
		})
	case config.EngineCommand:
		return command.New(command.Config{
			Commands: k.Commands, Format: command.Format(k.Format), Dir: dir, DataDir: cfg.Postgres.DataDir, User: u,
			Environment: r.Options, Secrets: r.SecretFiles, Retention: k.Retention,
		})
	}
	return nil, fmt.Errorf("%w: engine %q archives no log", backup.ErrUnsupported, k.Engine)
}

// archiver is the block that archives the log; nil: there is none.
func archiver(cfg *config.Config) *config.Backup {
	for i := range cfg.Backups {
		if k := &cfg.Backups[i]; k.Engine != config.EnginePgDump {
			return k
		}
	}
	return nil
}

// archiveCommands are what PostgreSQL is to archive its log with, and to fetch it; empty:
// nothing of ours. They do not depend on the running server.
func archiveCommands(cfg *config.Config) (archive, restore string, err error) {
	k := archiver(cfg)
	if k == nil {
		return "", "", nil
	}
	engine, err := engineOf(cfg, k, local{})
	if err != nil {
		return "", "", fmt.Errorf("backup %q: %w", k.Name, err)
	}
	c := engine.Commands()
	return c.Archive, c.Restore, nil
}

// where is the local server for the engines.
func where(s *postgres.Server) local {
	return local{socket: s.SocketDir(), port: s.Port(), passfile: s.Passfile()}
}

// segmentSize is a server's, or else what a new one here would have.
func segmentSize(known int64, cfg *config.Config) int64 {
	return cmp.Or(known, int64(cmp.Or(cfg.Bootstrap.Initdb.WALSegmentMB, config.DefaultInitdb().WALSegmentMB))<<20)
}
