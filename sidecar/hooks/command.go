package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Hook is a command that is run when something happens.
type Hook struct {
	Name    string
	On      []Kind
	Command []string
	// User runs it; empty: the user who runs this program.
	User    string
	Timeout time.Duration
	// Abort makes a failed before_promote keep the server from being promoted: the
	// candidacy is passed on to another member, if one may lead. Without it, and for
	// any other kind, a failure is logged and counted.
	Abort bool
}

// Errors of a command.
var (
	// ErrTimeout: it ran longer than its time-out and was killed.
	ErrTimeout = errors.New("it ran longer than its time-out and was killed")
	// ErrOvertaken: a newer role ended it.
	ErrOvertaken = errors.New("the role has changed again, so it was killed")
	// ErrAborted: a hook with on_failure = "abort" failed.
	ErrAborted = errors.New("the hook forbids it")
)

// told is how many bytes of a failed command's output are logged.
const told = 1000

// leaveTime is what the children of a killed command get to let go of its output.
const leaveTime = time.Second

// run runs the command once, for one event. It and what it started in its process
// group are killed when the time is up or ctx is done.
func (h *Hook) run(ctx context.Context, e *Event, as *syscall.Credential) error {
	ctx, cancel := context.WithTimeoutCause(ctx, h.Timeout, ErrTimeout)
	defer cancel()
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write the event: %w", err)
	}
	out := &tail{}
	cmd := exec.CommandContext(ctx, h.Command[0], h.Command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(append(text, '\n')), out, out
	cmd.Dir = "/"
	cmd.Env = append(inherited(), e.environment()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: as}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = leaveTime
	err = cmd.Run()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrWaitDelay):
		// It ended well, and left a process behind that holds its output open.
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w%s", context.Cause(ctx), out.quoted())
	}
	return fmt.Errorf("%w%s", err, out.quoted())
}

// inherited is this program's environment without what may be secret: the names that
// commands need, and no more.
func inherited() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// tail keeps the last bytes that are written to it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if n := len(t.kept) - told; n > 0 {
		t.kept = append(t.kept[:0], t.kept[n:]...)
	}
	return len(p), nil
}

func (t *tail) quoted() string {
	text := strings.ToValidUTF8(strings.TrimSpace(string(t.kept)), "")
	if text == "" {
		return ""
	}
	return "; it printed " + fmt.Sprintf("%q", text)
}

// commandTarget runs one hook's command.
type commandTarget struct {
	hook Hook
	as   *syscall.Credential
}

func (c *commandTarget) deliver(ctx context.Context, e *Event) error { return c.hook.run(ctx, e, c.as) }
