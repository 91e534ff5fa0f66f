package labtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Process is a program that a test has started. It is killed with the test, and
// with it whatever it has started and left in its process group; what it said is
// shown if the test fails.
type Process struct {
	Cmd   *exec.Cmd
	t     testing.TB
	ended chan struct{}
	log   string // path
}

// shown is how much of a program's output a failed test shows, in bytes.
const shown = 4000

// Start starts a program.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Cmd: cmd, t: t, ended: make(chan struct{}), log: filepath.Join(t.TempDir(), "log")}
	log, err := os.Create(p.log) // a file, as a child that outlives the program would hold a pipe
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		cmd.Wait() //nolint:errcheck // ProcessState says how it ended
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(cmd.Path), p.Output())
		}
	})
	return p
}

// Output is the end of what the program has said so far.
func (p *Process) Output() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-shown):])
}

// Ended is closed when the program has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Signal sends the program a signal.
func (p *Process) Signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Kill ends the program and all of its group at once.
func (p *Process) Kill() {
	syscall.Kill(-p.Cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // may be gone
	<-p.ended
}

// Await waits, as Eventually does, for what the program is to do. If it ends
// instead, the test fails at once.
func (p *Process) Await(within time.Duration, what string, check func() error) {
	p.t.Helper()
	name := filepath.Base(p.Cmd.Path)
	Eventually(p.t, within, name+": "+what, func() error {
		select {
		case <-p.ended:
			p.t.Fatalf("%s ended (%v) before %s; it said:\n%s", name, p.Cmd.ProcessState, what, p.Output())
		default:
		}
		return check()
	})
}

// ServerUser is whom PostgreSQL and PgBouncer run as in a test, as they refuse to be
// root's: postgres if the test is root, else nil, the test's own user.
func ServerUser(t testing.TB) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Skip(err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// OwnedByServer gives a path to ServerUser.
func OwnedByServer(t testing.TB, path string) {
	t.Helper()
	if c := ServerUser(t); c != nil {
		if err := os.Chown(path, int(c.Uid), int(c.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}

// Dir makes a folder for the test's time. Its name is short enough for a Unix
// socket in it, which t.TempDir's is not, and other users may look into it.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", fmt.Sprintf("lab%d-", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
