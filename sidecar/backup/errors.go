package backup

import "errors"

// What can be wrong with a backup or a recovery. Each is wrapped with what
// happened, in words for people.
var (
	// ErrNoRepository: there is no repository where the configuration says, or it
	// was never made ready for this cluster.
	ErrNoRepository = errors.New("no repository")
	// ErrKey: the repository cannot be read with this encryption key, or it is
	// encrypted and there is none.
	ErrKey = errors.New("wrong encryption key")
	// ErrOtherCluster: the repository, under this name, belongs to a cluster with
	// another system identifier.
	ErrOtherCluster = errors.New("another cluster's repository")
	// ErrFull: the repository, or the folder to restore into, has no space left.
	ErrFull = errors.New("no space left")
	// ErrTarget: the log that is stored does not have the requested moment.
	ErrTarget = errors.New("target out of range")
	// ErrNoBackup: there is no good backup, or none with that label.
	ErrNoBackup = errors.New("no such backup")
	// ErrSystemID: the backup is of a cluster with another system identifier.
	ErrSystemID = errors.New("other system identifier")
	// ErrRunning: another backup, expiry or restore holds the engine's lock.
	ErrRunning = errors.New("another one is running")
	// ErrNotEmpty: the directory to restore into has something in it.
	ErrNotEmpty = errors.New("the directory is not empty")
	// ErrServing: PostgreSQL runs on the directory to restore into.
	ErrServing = errors.New("PostgreSQL is running on the directory")
	// ErrServer: the server to back up cannot be connected to.
	ErrServer = errors.New("cannot connect to PostgreSQL")
	// ErrArchiving: log does not arrive in the repository.
	ErrArchiving = errors.New("archiving fails")
	// ErrSetting: the configuration cannot be used.
	ErrSetting = errors.New("the configuration is not valid")
	// ErrUnsupported: the engine cannot do this.
	ErrUnsupported = errors.New("the engine cannot do this")
)
