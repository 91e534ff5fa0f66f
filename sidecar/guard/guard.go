package guard

import (
	"errors"
	"fmt"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"golang.org/x/sys/unix"
)

// The errors that callers decide by.
var (
	// ErrRoot is returned by Start: PostgreSQL must not run as root.
	ErrRoot = errors.New("PostgreSQL must not run as root")
	// ErrRunning is returned by Start and Shutdown: a server runs already.
	ErrRunning = errors.New("the server runs")
	// ErrNotRunning is returned by Signal: there is no server to signal.
	ErrNotRunning = errors.New("the server does not run")
	// ErrLeaseEnded is returned by Start when the guard is armed with a lease
	// that has ended, and by Lease when the server is being stopped because
	// its lease ended.
	ErrLeaseEnded = errors.New("the lease has ended")
	// ErrEnding is returned when the guard itself is about to end.
	ErrEnding = errors.New("the guard is ending")
	// ErrLost is returned when there is no connection to the guard, or when it
	// broke before the answer: whether the request was done is not known.
	ErrLost = errors.New("no connection to the guard")
	// ErrGuarded is returned by Serve: another guard lives in this state
	// directory.
	ErrGuarded = errors.New("another guard runs in this state directory")
)

// Command is how to start the server.
type Command struct {
	Path string   `json:"path"` // of the program postgres
	Args []string `json:"args"` // without the program's own name
	Env  []string `json:"env"`  // the whole environment; nothing is inherited
	// Dir is the data directory: the server's working directory, and where
	// the next guard looks for what is left of it.
	Dir string `json:"dir"`
	UID uint32 `json:"uid"` // never 0; the guard's own, unless the guard is root
	GID uint32 `json:"gid"`
	// LogFile takes the server's standard output and error. It is opened as
	// UID, appended to, and moved to LogFile.1 when it passes 64 MiB.
	LogFile string `json:"log_file"`

	// Groups are the user's supplementary groups; Client.Start fills them in,
	// because the guard must not wait for a directory service.
	Groups []uint32 `json:"groups,omitempty"`
}

// Status is what the guard says of the server.
type Status struct {
	// Known is false while there is no connection to a guard; the rest is then
	// what was last known.
	Known bool `json:"-"`

	// Running is true from the start of the postmaster until it has exited
	// and SIGKILL was sent to all that it left.
	Running    bool       `json:"running"`
	PID        int        `json:"pid,omitempty"`         // of the postmaster; the last one's if it does not run
	StartedAt  ha.Instant `json:"started_at,omitempty"`  // zero: this guard has started none
	ExitedAt   ha.Instant `json:"exited_at,omitempty"`   // zero: it runs, or never did
	ExitStatus string     `json:"exit_status,omitempty"` // in words, with the reason if it was the guard's

	// Armed: the server will be stopped by LeaseUntil. It stays true after the
	// end of the lease, until the next Lease or Disarm.
	Armed      bool       `json:"armed"`
	LeaseUntil ha.Instant `json:"lease_until,omitempty"`

	// Stranger is the process id of a postmaster that runs on the data directory and
	// that no guard has started; 0: none. It is looked for while Running is false.
	Stranger int `json:"stranger,omitempty"`

	Version string `json:"version,omitempty"` // of the guard's program
}

// Now reads CLOCK_BOOTTIME. It is the same clock for all processes of a machine.
func Now() ha.Instant {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		// Linux has it since 2.6.39, and no lease can be kept without it.
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err))
	}
	return ha.Instant(t.Nano())
}
