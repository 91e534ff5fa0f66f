package haproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgsidecar/pgsidecar/templates"
)

// masterCLI speaks to the process above HAProxy's workers, where HAProxy runs in
// master-worker mode and has a socket for it: `haproxy -W -S PATH` (HAProxy 2.6
// Management Guide, section 9.4). It is the only way to a worker older than the last
// reload.
type masterCLI struct{ api runtimeAPI }

func newMasterCLI(socket string, timeout time.Duration) masterCLI {
	m := masterCLI{runtimeAPI{timeout: timeout, name: "master socket", closeWrite: true}}
	m.api.network, m.api.address = socketAddress(socket)
	return m
}

// masterPoll is how often it is asked whether a reload has ended. One takes 20 to
// 60 ms, in which HAProxy 2.6 makes its socket anew.
const masterPoll = 5 * time.Millisecond

// answerPatience is how long to wait for a reload's answer before the master is asked
// besides: an answer may get lost when the process makes itself anew.
const answerPatience = time.Second

// family is what the master says of itself and its workers.
type family struct {
	reloads int   // how often the master has begun to read its files, after the first time
	failed  int   // how many reloads have failed since the last that succeeded
	workers []int // process ids, those older than the last reload too
	old     []int // those of them that are
}

// family asks for the workers.
func (m masterCLI) family(ctx context.Context) (family, error) {
	answer, err := m.api.exchange(ctx, "show proc")
	if err != nil {
		return family{}, err
	}
	return parseFamily(answer)
}

// parseFamily reads the answer to `show proc`: a line of column names, one of the
// master, and one of each worker, with headings between them.
func parseFamily(answer string) (family, error) {
	f, column, master, old := family{}, -1, false, false
	for line := range strings.Lines(answer) {
		if strings.HasPrefix(line, "# ") {
			old = strings.HasPrefix(line, "# old workers")
		}
		fields := strings.Fields(line)
		if i := slices.Index(fields, "<reloads>"); i > 0 {
			column = i
		}
		if len(fields) <= max(column, 1) {
			continue
		}
		pid, err := strconv.Atoi(fields[0])
		switch {
		case err != nil || column < 0:
		case fields[1] == "master":
			f.reloads, err = strconv.Atoi(fields[column])
			master = err == nil
			if _, failed, found := strings.Cut(line, "[failed: "); found {
				failed, _, _ = strings.Cut(failed, "]")
				f.failed, _ = strconv.Atoi(failed) //nolint:errcheck // then none is known
			}
		case fields[1] == "worker":
			f.workers = append(f.workers, pid)
			if old {
				f.old = append(f.old, pid)
			}
		}
	}
	if !master {
		return family{}, fmt.Errorf("%w: what answers is not its master; expected the socket of `haproxy -W -S`", ErrRuntime)
	}
	return f, nil
}

// reload has HAProxy read its files again, and returns when a worker runs that has
// them. ErrReload says that they were refused: the previous worker continues.
//
// HAProxy 2.7 and later answer when it is over. 2.6 says nothing, and cuts the
// connection as it runs itself anew. So where no answer comes, the master is asked: it
// counts the reloads that have failed (Management Guide, "show proc"), and a worker that
// answers has begun. Our side of the connection stays open meanwhile: HAProxy 3.2 ends
// without an answer what its client has half closed while the new worker still reads.
func (m masterCLI) reload(ctx context.Context) error {
	before, err := m.family(ctx)
	if err != nil {
		return err
	}
	patient := m.api
	patient.closeWrite = false
	if end, limited := ctx.Deadline(); limited {
		patient.timeout = time.Until(end)
	}
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		text string
		err  error
	}
	answered := make(chan answer, 1)
	go func() { // ends with asking
		text, err := patient.exchange(asking, "reload")
		answered <- answer{text, err}
	}()
	poll := time.NewTimer(answerPatience)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: no new worker in time: %w", ErrReload, cmp.Or(err, ctx.Err()))
		case a := <-answered:
			var op *net.OpError
			if errors.As(a.err, &op) && op.Op == "dial" {
				return a.err
			}
			if done, found := reloadAnswer(a.text); found {
				return done
			}
		case <-poll.C:
			var over bool
			if over, err = m.reloaded(ctx, before); over {
				return err
			}
		}
		poll.Reset(masterPoll)
	}
}

// reloaded asks whether a reload that was begun after before is over, and how it went.
func (m masterCLI) reloaded(ctx context.Context, before family) (bool, error) {
	now, err := m.family(ctx)
	if err != nil {
		return false, err // its socket is not there again
	}
	if now.failed > before.failed {
		return true, fmt.Errorf("%w: HAProxy rejected the new configuration (see its log) and keeps the previous one", ErrReload)
	}
	for _, pid := range now.workers {
		if !slices.Contains(before.workers, pid) {
			// Since 3.1 a worker reads the files itself, and is listed meanwhile.
			answer, err := m.ask(ctx, pid, "show info")
			return err == nil && strings.Contains(answer, "Pid: "), err
		}
	}
	return false, nil
}

// reloadAnswer reads what HAProxy 2.7 and later answer: Success=1 or Success=0, and
// what it has to say of its files. It returns false for an answer without these.
func reloadAnswer(answer string) (error, bool) {
	status, messages, _ := strings.Cut(answer, "\n")
	switch strings.TrimSpace(status) {
	case "Success=1":
		return nil, true
	case "Success=0":
		return fmt.Errorf("%w: HAProxy rejected the new configuration and keeps the previous one%s", ErrReload, templates.Excerpt(strings.TrimPrefix(messages, "--\n"))), true
	}
	return nil, false
}

// errNoWorker is returned for a worker that has ended.
var errNoWorker = errors.New("haproxy has no such worker")

// ask sends one command to a worker, whichever it is.
func (m masterCLI) ask(ctx context.Context, worker int, command string) (string, error) {
	answer, err := m.api.exchange(ctx, fmt.Sprintf("@!%d %s", worker, command))
	if err == nil && strings.Contains(answer, "Can't find the target PID") {
		return "", errNoWorker
	}
	return answer, err
}

// row is what one line of a worker's statistics says of a server, or of a backend
// as a whole: that is the server BACKEND.
type row struct {
	backend, server string
	sessions        int
}

// rows asks a worker for the numbers of its backends and servers.
func (m masterCLI) rows(ctx context.Context, worker int) ([]row, error) {
	const backendsAndServers = "show stat -1 6 -1"
	answer, err := m.ask(ctx, worker, backendsAndServers)
	if err != nil {
		return nil, err
	}
	var all []row
	for line := range strings.Lines(answer) {
		// pxname,svname,qcur,qmax,scur,… (Management Guide, section 9.1)
		f := strings.SplitN(line, ",", 6)
		if len(f) < 6 || strings.HasPrefix(line, "#") {
			continue
		}
		sessions, err := strconv.Atoi(f[4])
		if err == nil {
			all = append(all, row{backend: f[0], server: f[1], sessions: sessions})
		}
	}
	return all, nil
}

// stream is one client's session in a worker.
type stream struct {
	id              string
	backend, server string // server is <none> while it waits for one
}

// streams asks a worker for all its sessions.
func (m masterCLI) streams(ctx context.Context, worker int) ([]stream, error) {
	answer, err := m.ask(ctx, worker, "show sess")
	if err != nil {
		return nil, err
	}
	var all []stream
	for line := range strings.Lines(answer) {
		id, rest, found := strings.Cut(line, ": ")
		if !found || !strings.HasPrefix(id, "0x") {
			continue
		}
		s := stream{id: id}
		for _, f := range strings.Fields(rest) {
			if name, found := strings.CutPrefix(f, "be="); found && s.backend == "" {
				s.backend = name
			}
			if name, found := strings.CutPrefix(f, "srv="); found && s.server == "" {
				s.server = name
			}
		}
		all = append(all, s)
	}
	return all, nil
}

// end ends sessions of a worker, one by one: `shutdown sessions server` is refused
// by a worker that takes no new ones. What it answers is of sessions that have
// ended meanwhile.
func (m masterCLI) end(ctx context.Context, worker int, ids []string) error {
	for len(ids) > 0 {
		var line strings.Builder
		n := 0
		for n < len(ids) && line.Len() < maxLine-100 {
			fmt.Fprintf(&line, "@!%d shutdown session %s;", worker, ids[n])
			n++
		}
		if _, err := m.api.exchange(ctx, strings.TrimSuffix(line.String(), ";")); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}
