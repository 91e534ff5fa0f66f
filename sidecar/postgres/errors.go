package postgres

import "errors"

// Errors that callers tell apart. Each is wrapped with what happened, in words
// for people.
var (
	// ErrForeign: the data directory is not ours to touch.
	ErrForeign = errors.New("the data directory is left untouched")
	// ErrUnfinished: a marker stands; Discard must come first (S10).
	ErrUnfinished = errors.New("the data directory is half made")
	// ErrNotEmpty: a new server needs a missing or empty directory.
	ErrNotEmpty = errors.New("the data directory is not empty")
	// ErrPromised: a higher term has been promised already (S2).
	ErrPromised = errors.New("a higher term is promised")
	// ErrOwned: a parameter or name was given that pgsidecar must set itself.
	ErrOwned = errors.New("set by pgsidecar itself")
	// ErrSetting: PostgreSQL refuses the configuration.
	ErrSetting = errors.New("the configuration is not valid")
	// ErrUnreached: a timeline history file is there that the server's log has
	// not come to; it must be started without it (StartOptions.Forget) before it
	// may be promoted, or follow a leader that never was on it.
	ErrUnreached = errors.New("the server knows of a timeline that it has not reached")
	// ErrTaken: the timeline to promote to is not above those known.
	ErrTaken = errors.New("the timeline is taken")
	// ErrPassword: the source refused the password.
	ErrPassword = errors.New("password refused")
	// ErrUnreachable: the source cannot be connected to.
	ErrUnreachable = errors.New("cannot connect")
	// ErrDiskFull: there is no space left.
	ErrDiskFull = errors.New("no space left on device")
	// ErrNoCommonPast: pg_rewind cannot help; only a clone can.
	ErrNoCommonPast = errors.New("rewind is not possible")
)
