package backup

import (
	"context"
	"os"
)

// Maker makes backups and keeps them. Errors are those of errors.go. Each call
// ends soon after its context does; none leaves a program behind.
type Maker interface {
	// Check shows that a backup could be made and stored now.
	Check(ctx context.Context) error
	// Backup makes one and returns it as List does.
	Backup(ctx context.Context, r Request) (Backup, error)
	// List returns the finished backups, oldest first. An empty repository is none
	// that fails; one that is not there is ErrNoRepository.
	List(ctx context.Context) (Repository, error)
	// Expire removes what the engine's retention does not keep and returns the
	// labels of what went.
	Expire(ctx context.Context) ([]string, error)
}

// Engine also archives the log, and restores the server to any moment of it.
type Engine interface {
	Maker
	// Prepare makes the repository ready for this cluster. It may be repeated. A
	// repository that has another cluster's backups is ErrOtherCluster.
	Prepare(ctx context.Context) error
	// Commands returns PostgreSQL's archive_command and restore_command.
	Commands() Commands
	// Archived returns the log that is stored.
	Archived(ctx context.Context) (Archive, error)
	// Restore writes a data directory that recovers to the target when PostgreSQL
	// is started on it. Until it returns nil the directory is half made: the
	// caller keeps a marker (S10).
	Restore(ctx context.Context, r Restore) error
}

// Placer is an engine that knows a backup's tablespaces, and restores each where it is told.
type Placer interface {
	Spaces(ctx context.Context, label string) ([]Space, error)
}

// Explainer is an engine that knows why log that waits is not archived, without another try.
type Explainer interface {
	// Unarchived returns why the oldest of what waits was not archived when that was last
	// tried; nil: it is not known.
	Unarchived() error
}

// Space is a tablespace of a backup.
type Space struct {
	OID uint32
	Dir string
}

// Commands are values of PostgreSQL's parameters, with %p and %f.
type Commands struct {
	Archive string // archive_command
	Restore string // restore_command
}

// Request says which backup to make.
type Request struct {
	Kind Kind
	// Progress, if not nil, is called with the share that is done, 0 to 1, as far as
	// the engine tells.
	Progress func(done float64)
}

// Restore says what to restore, and where to.
type Restore struct {
	DataDir string // absolute
	Label   string // the backup to begin with; chosen by a Plan
	Target  Target
	// Delta keeps those files of DataDir that are as in the backup. Without it,
	// DataDir must be missing or empty.
	Delta bool
	// Scratch is a server that must never archive: a verification.
	Scratch bool
	// Spaces says where the tablespaces are to be, by OID (Placer); others are where they
	// were.
	Spaces map[uint32]string
	// Standby: the server follows the archive for ever, and becomes a standby.
	Standby  bool
	Progress func(done float64)
	// Lock, if not nil, is a file that the program inherits, and Started is called with
	// its process group: so the caller finds one that outlives it.
	Lock    *os.File
	Started func(group int)
}
