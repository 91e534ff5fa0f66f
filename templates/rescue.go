package templates

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

// RescueOrder is what the rescue process is to do. It is sent through a pipe,
// as it has a password.
type RescueOrder struct {
	Address  string        `json:"address"`
	User     string        `json:"user"`
	Password string        `json:"password"`
	Database string        `json:"database"`
	After    time.Duration `json:"after"`
	Timeout  time.Duration `json:"timeout"`
}

// rescueDone is the line by which the rescue process is told that it is not
// needed any more.
const rescueDone = "done\n"

// Rescue is the rescue process: it reads an order from in and answers a line
// when it is ready. Then it resumes when in ends without the word that all is
// done (its parent died), or when the order's time is over. That no order ever
// comes is no error: it was not needed. It is meant to be run by a command of
// its own, PgBouncerOptions.Rescue.
func Rescue(in io.Reader, out io.Writer) error {
	d := json.NewDecoder(in)
	var o RescueOrder
	if err := d.Decode(&o); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read the rescue order: %w", err)
	}
	if _, err := io.WriteString(out, "ready\n"); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	done := make(chan bool, 1)
	go func() { // ends with in, at the latest with the process
		rest, err := io.ReadAll(io.MultiReader(d.Buffered(), in))
		done <- err == nil && strings.HasSuffix(string(rest), rescueDone)
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

// rescue is a rescue process that waits.
type rescue struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader
}

// startRescue starts one, which waits for its order: to start a process takes
// longer than a pause should. Without a command line there is none.
func startRescue(args []string) (*rescue, error) {
	if len(args) == 0 {
		return &rescue{}, nil
	}
	cmd := exec.Command(args[0], args[1:]...) // not bound to a context: it is to live when we do not
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	r := &rescue{cmd: cmd}
	var err error
	if r.in, err = cmd.StdinPipe(); err == nil {
		r.out, err = cmd.StdoutPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start the rescue process: %w", err)
	}
	return r, nil
}

// order gives the process its order, and returns when it is ready.
func (r *rescue) order(ctx context.Context, o RescueOrder) error {
	if r.cmd == nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { r.cmd.Process.Kill() }) //nolint:errcheck // it has nothing to rescue yet
	defer stop()
	err := json.NewEncoder(r.in).Encode(o)
	if err == nil {
		_, err = io.ReadFull(r.out, make([]byte, len("ready\n")))
	}
	if err != nil {
		r.cmd.Process.Kill() //nolint:errcheck // it may be gone
		r.end(true)
		return fmt.Errorf("give the rescue process its order: %w", err)
	}
	return nil
}

// end tells the process that it is not needed, or lets it resume at once, and
// waits for its end.
func (r *rescue) end(done bool) {
	if r.cmd == nil {
		return
	}
	if done {
		io.WriteString(r.in, rescueDone) //nolint:errcheck // it may have ended by itself
	}
	r.in.Close()
	r.cmd.Wait() //nolint:errcheck // it has said on stderr what there is to say
}
