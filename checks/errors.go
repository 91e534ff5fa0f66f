package checks

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// Errors that callers tell apart. Each is wrapped with what happened.
var (
	// ErrNotReady: the server is starting up or shutting down.
	ErrNotReady = errors.New("server is not ready")
	// ErrStopped: nobody listens on the socket.
	ErrStopped = errors.New("server is not running")
	// ErrReadOnly: the server does not take writes.
	ErrReadOnly = errors.New("server is read only")
	// ErrDiskFull: the server has no space to write.
	ErrDiskFull = errors.New("server has no space left")
	// ErrIO: a file cannot be read or written, or is damaged.
	ErrIO = errors.New("server has an I/O error")
	// ErrDenied: the server refuses this user.
	ErrDenied = errors.New("server refuses the local superuser")
	// ErrNotStandby: the operation is for a server in recovery.
	ErrNotStandby = errors.New("server is not a standby")
	// ErrNotPrimary: the operation is for a server out of recovery.
	ErrNotPrimary = errors.New("server is in recovery")
	// ErrTransactions: transactions did not end in time.
	ErrTransactions = errors.New("open transactions did not end in time")
	// ErrOccupied: nothing was sent to the server, as another operation of this
	// program was under way until the deadline.
	ErrOccupied = errors.New("another operation is under way")
	// ErrUnsettled: until the deadline it was not proved that nothing is
	// received and all local log was read.
	ErrUnsettled = errors.New("position is not final")
	// ErrUnproved: a setting was made and is not proved to be in effect.
	ErrUnproved = errors.New("setting is not proved to be in effect")
)

// PostgreSQL's SQLSTATE codes that are told apart.
const (
	codeReadOnly       = "25006"
	codeTooMany        = "53300" // too_many_connections
	codeDiskFull       = "53100"
	codeCannotConnect  = "57P03"
	codeIO             = "58030"
	codeUndefinedFile  = "58P01"
	codeDataCorrupted  = "XX001"
	codeIndexCorrupted = "XX002"
	codeShutdown       = "57P01"
	codeCrash          = "57P02"
	codeBadAuth        = "28000"
	codeBadPassword    = "28P01"
	codeNoRights       = "42501" // insufficient_privilege
	codeDuplicate      = "42710"
	codeUndefined      = "42704" // undefined_object
	codeInUse          = "55006" // object_in_use
	codeUnsupported    = "0A000"
	codeRecovery       = "55000" // object not in prerequisite state
)

// kind adds the sentinel to an error of the server or of the connection.
func kind(err error) error {
	if err == nil {
		return nil
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		switch refused.Code {
		case codeReadOnly:
			return fmt.Errorf("%w: %w", ErrReadOnly, err)
		case codeDiskFull:
			return fmt.Errorf("%w: %w", ErrDiskFull, err)
		case codeIO, codeUndefinedFile, codeDataCorrupted, codeIndexCorrupted:
			return fmt.Errorf("%w: %w", ErrIO, err)
		case codeCannotConnect, codeShutdown, codeCrash:
			return fmt.Errorf("%w: %w", ErrNotReady, err)
		case codeBadAuth, codeBadPassword:
			return fmt.Errorf("%w: %w", ErrDenied, err)
		}
		return err
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrStopped, err)
	}
	return err
}

// Refusal says why the server, which answers, refuses the login, or a superuser's rights
// after it; empty: it does not, or it is starting or shutting down.
func Refusal(err error) string {
	var connecting *pgconn.ConnectError
	var refused *pgconn.PgError
	if hasCode(err, codeNoRights) && errors.As(err, &refused) { // by a parameter of the login already, or by a query
		return "its role is no superuser any more (" + inWords(refused) + "): another superuser gives it back by ALTER ROLE ... SUPERUSER"
	}
	if !errors.As(err, &connecting) || !errors.As(err, &refused) || errors.Is(err, ErrNotReady) {
		return ""
	}
	return inWords(refused)
}

// Full reports whether the server refuses the login because all its sessions are used. It says
// so only once it takes connections: its clients have them.
func Full(err error) bool {
	var connecting *pgconn.ConnectError
	return errors.As(err, &connecting) && hasCode(err, codeTooMany)
}

// inWords is all that the server says for people: the way out, as a locale that is to be
// installed, is in the hint.
func inWords(e *pgconn.PgError) string {
	said := e.Message
	for _, more := range []string{e.Detail, e.Hint} {
		if more != "" {
			said += "; " + more
		}
	}
	return said
}

func hasCode(err error, code string) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Code == code
}
