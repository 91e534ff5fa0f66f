package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// Client and guard may be of different releases, because the guard outlives the
// upgrade of a sidecar. So: one JSON object a line, unknown fields are ignored,
// an unknown request is refused by name, and what is once sent is never given
// another meaning. protocolVersion is told for the day that is not enough.
const protocolVersion = 1

// maxLine bounds one message: a command line with its environment.
const maxLine = 1 << 20

// The requests.
const (
	opStatus   = "status"
	opStart    = "start"
	opStop     = "stop"
	opSignal   = "signal"
	opLease    = "lease"
	opDisarm   = "disarm"
	opShutdown = "shutdown"
)

// request goes from client to guard.
type request struct {
	Version int    `json:"v"`
	ID      uint64 `json:"id"`
	Op      string `json:"op"`
	// Deadline is when the client gives up: a request that waited longer is
	// not begun, so that nothing starts which nobody waits for. Zero: never.
	Deadline  ha.Instant `json:"deadline,omitempty"`
	Command   *Command   `json:"command,omitempty"`
	Immediate bool       `json:"immediate,omitempty"`
	Signal    int        `json:"signal,omitempty"`
	Until     ha.Instant `json:"until,omitempty"`
}

// response answers a request or, with ID 0, says that the status changed; the
// first one greets a new connection.
type response struct {
	Version int    `json:"v"`
	ID      uint64 `json:"id,omitempty"`
	Error   string `json:"error,omitempty"`
	Code    string `json:"code,omitempty"` // which of the package's errors it is
	Status  Status `json:"status"`
}

// codes name the errors that keep their identity on the way to the client.
func codes() map[string]error {
	return map[string]error{
		"root":        ErrRoot,
		"running":     ErrRunning,
		"not_running": ErrNotRunning,
		"lease_ended": ErrLeaseEnded,
		"ending":      ErrEnding,
		"guarded":     ErrGuarded,
		"deadline":    context.DeadlineExceeded,
	}
}

func (r *response) setError(err error) {
	if err == nil {
		return
	}
	r.Error = err.Error()
	for code, sentinel := range codes() {
		if errors.Is(err, sentinel) {
			r.Code = code
		}
	}
}

func (r *response) err() error {
	if r.Error == "" {
		return nil
	}
	if sentinel, ok := codes()[r.Code]; ok {
		return &guardError{text: r.Error, sentinel: sentinel}
	}
	return errors.New(r.Error)
}

// guardError is an error that came over the wire: its text, and which of the
// package's errors it is.
type guardError struct {
	text     string
	sentinel error
}

func (e *guardError) Error() string { return e.text }
func (e *guardError) Unwrap() error { return e.sentinel }

func marshalLine(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", v, err)) // plain structs only
	}
	return append(b, '\n')
}

// socketAddress names the socket so that the path is short enough for sockaddr_un
// (108 bytes), by way of an open directory if it must be. The returned file is
// then not nil and must stay open while the address is used.
func socketAddress(stateDir string) (*net.UnixAddr, *os.File, error) {
	path := filepath.Join(stateDir, "guard.sock")
	if len(path) < 100 {
		return &net.UnixAddr{Net: "unix", Name: path}, nil, nil
	}
	dir, err := os.Open(stateDir)
	if err != nil {
		return nil, nil, fmt.Errorf("open state directory: %w", err)
	}
	path = fmt.Sprintf("/proc/self/fd/%d/guard.sock", dir.Fd())
	return &net.UnixAddr{Net: "unix", Name: path}, dir, nil
}
