package templates

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// maxOutput is how much of a command's output is kept for its error, in bytes.
const maxOutput = 2 << 10

// execute runs a program until it ends or its time is over; then it and all it
// started are killed. It returns ErrCommand with the last of its output.
func execute(ctx context.Context, args []string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	out := &tail{limit: maxOutput}
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own, so that a shell's children go with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// What still holds the output after the end is not waited for.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success():
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%w: %s did not end within %v%s", ErrCommand, args[0], timeout, out.said())
	}
	return fmt.Errorf("%w: %s: %w%s", ErrCommand, args[0], err, out.said())
}

// tail keeps the end of what is written to it.
type tail struct {
	limit int
	buf   bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if over := t.buf.Len() - t.limit; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tail) said() string { return Excerpt(t.buf.String()) }

// Excerpt is the end of what a program said, as one line to be put after an error;
// nothing if it said nothing.
func Excerpt(output string) string {
	output = output[max(0, len(output)-maxOutput):]
	text := strings.Join(strings.Fields(strings.Map(printable, output)), " ")
	if text == "" {
		return ""
	}
	return ": " + text
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}
