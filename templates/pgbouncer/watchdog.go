package pgbouncer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// WatchdogOrder is what the watchdog process is to do. It is sent through a pipe,
// as it has a password.
type WatchdogOrder struct {
	Address  string        `json:"address"`
	User     string        `json:"user"`
	Password string        `json:"password"`
	Database string        `json:"database"`
	After    time.Duration `json:"after"`
	Timeout  time.Duration `json:"timeout"`
}

// watchdogDone is the line by which the watchdog process is told that it is not
// needed any more.
const watchdogDone = "done\n"

// Watchdog is the watchdog process: it reads an order from in and answers a line
// when it is ready. Then it resumes when in ends without the word that all is
// done (its parent died), or when the order's time is over. That no order ever
// comes is no error: it was not needed. It is meant to be run by a command of
// its own, Options.Watchdog.
func Watchdog(in io.Reader, out io.Writer) error {
	d := json.NewDecoder(in)
	var o WatchdogOrder
	if err := d.Decode(&o); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read the watchdog order: %w", err)
	}
	if _, err := io.WriteString(out, "ready\n"); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	done := make(chan bool, 1)
	go func() { // ends with in, at the latest with the process
		rest, err := io.ReadAll(io.MultiReader(d.Buffered(), in))
		done <- err == nil && strings.HasSuffix(string(rest), watchdogDone)
	}()
	deadline := time.NewTimer(o.After)
	defer deadline.Stop()
	select {
	case <-deadline.C:
	case all := <-done:
		if all {
			return nil
		}
	}
	c := console{address: o.Address, user: o.User, password: o.Password, timeout: o.Timeout}
	return c.resume(context.Background(), o.Database) // with a deadline of its own
}

// watchdog is a watchdog process that waits.
type watchdog struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader
}

// startWatchdog starts one, which waits for its order: to start a process takes
// longer than a pause should. Without a command line there is none.
func startWatchdog(args []string) (*watchdog, error) {
	if len(args) == 0 {
		return &watchdog{}, nil
	}
	cmd := exec.Command(args[0], args[1:]...) // not bound to a context: it is to live when we do not
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	r := &watchdog{cmd: cmd}
	var err error
	if r.in, err = cmd.StdinPipe(); err == nil {
		r.out, err = cmd.StdoutPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start the watchdog process: %w", err)
	}
	return r, nil
}

// order gives the process its order, and returns when it is ready.
func (w *watchdog) order(ctx context.Context, o WatchdogOrder) error {
	if w.cmd == nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { w.cmd.Process.Kill() }) //nolint:errcheck // it has nothing to resume yet
	defer stop()
	err := json.NewEncoder(w.in).Encode(o)
	if err == nil {
		_, err = io.ReadFull(w.out, make([]byte, len("ready\n")))
	}
	if err != nil {
		w.cmd.Process.Kill() //nolint:errcheck // it may be gone
		w.end(true)
		return fmt.Errorf("give the watchdog process its order: %w", err)
	}
	return nil
}

// end tells the process that it is not needed, or lets it resume at once, and
// waits for its end.
func (w *watchdog) end(done bool) {
	if w.cmd == nil {
		return
	}
	if done {
		io.WriteString(w.in, watchdogDone) //nolint:errcheck // it may have ended by itself
	}
	w.in.Close()
	w.cmd.Wait() //nolint:errcheck // it has said on stderr what there is to say
}
