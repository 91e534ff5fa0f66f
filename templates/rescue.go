package templates

import (
	"context"
	"encoding/json"
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
// done (its parent died), or when the order's time is over. It is
// meant to be run by a command of its own, PgBouncerOptions.Rescue.
func Rescue(in io.Reader, out io.Writer) error {
	d := json.NewDecoder(in)
	var o RescueOrder
	if err := d.Decode(&o); err != nil {
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
}

// startRescue starts one and returns when it is ready.
func startRescue(ctx context.Context, args []string, o RescueOrder) (*rescue, error) {
	if len(args) == 0 {
		return &rescue{}, nil
	}
	cmd := exec.Command(args[0], args[1:]...) // not bound to ctx: it is to live when we do not
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the rescue process: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the rescue process: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the rescue process: %w", err)
	}
	r := &rescue{cmd: cmd, in: in}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() }) //nolint:errcheck // it has nothing to rescue yet
	defer stop()
	err = json.NewEncoder(in).Encode(o)
	if err == nil {
		_, err = io.ReadFull(out, make([]byte, len("ready\n")))
	}
	if err != nil {
		cmd.Process.Kill() //nolint:errcheck // it may be gone
		r.end(true)
		return nil, fmt.Errorf("start the rescue process: %w", err)
	}
	return r, nil
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
