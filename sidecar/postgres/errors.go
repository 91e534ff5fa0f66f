package postgres

import (
	"errors"

	"github.com/pgsidecar/pgsidecar/sidecar/parameters"
)

// Errors that callers tell apart. Each is wrapped with what happened, in words
// for people.
var (
	// ErrForeign: the data directory is not ours to touch.
	ErrForeign = errors.New("the data directory is left untouched")
	// ErrStray: a server runs on the data directory that this member has not started.
	ErrStray = errors.New("a server runs on the data directory that pgsidecar did not start")
	// ErrInstructed: somebody has told PostgreSQL to do something with the data that does
	// not go with how it is to be started.
	ErrInstructed = errors.New("the server is not started beside what recovery.signal asks for")
	// ErrVersion: the programs are of a PostgreSQL that is not known yet.
	ErrVersion = errors.New("unknown version of PostgreSQL")
	// ErrOtherMajor: a copy would be of another major version than the programs.
	ErrOtherMajor = errors.New("another major version of PostgreSQL")
	// ErrUnfinished: a marker stands; Discard must come first (S10).
	ErrUnfinished = errors.New("the data directory is half made")
	// ErrNotEmpty: a new server needs a missing or empty directory.
	ErrNotEmpty = errors.New("the data directory is not empty")
	// ErrPromised: a higher term has been promised already (S2).
	ErrPromised = errors.New("a higher term is promised")
	// ErrOwned: a parameter or name was given that pgsidecar must set itself.
	ErrOwned = parameters.ErrOwned
	// ErrSetting: PostgreSQL refuses the configuration.
	ErrSetting = parameters.ErrValue
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
	// ErrStandstill: a program was ended that did nothing any more.
	ErrStandstill = errors.New("the source stands still")
	// ErrDiskFull: there is no space left.
	ErrDiskFull = errors.New("no space left on device")
	// ErrNoRoom: a restore cannot keep the data that it would replace.
	ErrNoRoom = errors.New("no room to keep the data that are there")
	// ErrNoCommonPast: pg_rewind cannot help; only a clone can.
	ErrNoCommonPast = errors.New("rewind is not possible")
)
