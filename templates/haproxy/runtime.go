package haproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// runtimeAPI speaks to HAProxy's Runtime API (HAProxy 2.6 Management Guide,
// section 9.3): each call is a connection of its own, so it always reaches the
// newest worker.
type runtimeAPI struct {
	network, address string
	timeout          time.Duration
	name             string // of the socket, for people
	closeWrite       bool   // it goes on to read until the sender has closed its side
}

// maxLine is how many bytes of commands go into one line. HAProxy refuses a line
// that does not fit into tune.bufsize, 16384 unless configured.
const maxLine = 8 << 10

// maxAnswer bounds what is read of one answer, in bytes.
const maxAnswer = 8 << 20

// exchange sends one line and returns all that is answered.
func (r runtimeAPI) exchange(ctx context.Context, line string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, r.network, r.address)
	if err != nil {
		return "", fmt.Errorf("reach haproxy's %s: %w", r.name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return "", fmt.Errorf("send to haproxy: %w", cause(ctx, err))
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok && r.closeWrite {
		half.CloseWrite() //nolint:errcheck // reading says so
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("read haproxy's answer: %w", cause(ctx, err))
	}
	return string(answer), nil
}

// cause prefers the reason for which the connection was closed.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// run sends commands that answer nothing when they succeed. It sends them all,
// whatever the answers, and returns ErrRuntime with what was answered.
func (r runtimeAPI) run(ctx context.Context, commands []string) error {
	var errs []error
	for len(commands) > 0 {
		n, size := 0, 0
		for n < len(commands) && size+len(commands[n])+1 <= maxLine {
			size += len(commands[n]) + 1
			n++
		}
		if n == 0 {
			return fmt.Errorf("a command of %d bytes: %w", len(commands[0]), ErrRuntime)
		}
		answer, err := r.exchange(ctx, strings.Join(commands[:n], ";"))
		if err != nil {
			return err
		}
		if text := strings.Join(strings.Fields(answer), " "); text != "" {
			errs = append(errs, fmt.Errorf("%w: %s", ErrRuntime, text))
		}
		commands = commands[n:]
	}
	return errors.Join(errs...)
}

// serverState is one server as `show servers state` and `show info` tell.
type serverState struct {
	backend, name string
	operational   int // 0 stopped, 1 starting, 2 running, 3 stopping (drain by check)
	admin         int // bits: 1 forced maintenance, 2 inherited, 4 from the file, 8 forced drain, 16 inherited drain
	address       string
	port          int
}

// The bits of an administrative state (HAProxy 2.6 Management Guide, "show
// servers state").
const (
	adminForcedMaint = 1
	adminForcedDrain = 8
)

// observed is what one look at HAProxy showed.
type observed struct {
	pid      int
	servers  []serverState
	sessions map[string]int // of each backend/server
	waiting  map[string]int // clients for whom each backend has no server yet
}

// backendRow is the name of the row that `show stat` has for a backend as a whole.
const backendRow = "BACKEND"

// look reads the worker's process id, all servers' states, how many sessions they have,
// and how many clients wait. Commands in before go first, in the same line.
func (r runtimeAPI) look(ctx context.Context, before ...string) (observed, error) {
	const backendsAndServers = "show stat -1 6 -1"
	line := strings.Join(append(before, "show info", "show servers state", backendsAndServers), ";")
	answer, err := r.exchange(ctx, line)
	if err != nil {
		return observed{}, err
	}
	o := observed{sessions: map[string]int{}, waiting: map[string]int{}}
	for l := range strings.Lines(answer) {
		if pid, found := strings.CutPrefix(l, "Pid: "); found {
			o.pid, _ = strconv.Atoi(strings.TrimSpace(pid)) // 0 is reported below
			continue
		}
		if s, ok := parseServerState(l); ok {
			o.servers = append(o.servers, s)
		}
		// pxname,svname,qcur,qmax,scur,… (Management Guide, section 9.1)
		if f := strings.SplitN(l, ",", 6); len(f) == 6 {
			counts, name, column := o.sessions, f[0]+"/"+f[1], f[4]
			if f[1] == backendRow {
				counts, name, column = o.waiting, f[0], f[2]
			}
			if n, err := strconv.Atoi(column); err == nil {
				counts[name] = n
			}
		}
	}
	if o.pid == 0 || len(o.servers) == 0 {
		return observed{}, fmt.Errorf("%w: no process id or no servers in its answer", ErrRuntime)
	}
	return o, nil
}

// parseServerState reads a line of version 1 of `show servers state`.
func parseServerState(line string) (serverState, bool) {
	f := strings.Fields(line)
	if len(f) < 19 || strings.HasPrefix(f[0], "#") {
		return serverState{}, false
	}
	op, err1 := strconv.Atoi(f[5])
	admin, err2 := strconv.Atoi(f[6])
	port, err3 := strconv.Atoi(f[18])
	if errors.Join(err1, err2, err3) != nil {
		return serverState{}, false
	}
	return serverState{backend: f[1], name: f[3], address: f[4], operational: op, admin: admin, port: port}, true
}

func (o observed) server(backend, name string) (serverState, bool) {
	for _, s := range o.servers {
		if s.backend == backend && s.name == name {
			return s, true
		}
	}
	return serverState{}, false
}
