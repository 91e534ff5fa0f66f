package program

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestSole: a program that outlives who started it is ended by the next, and one whose
// group nobody has noted is waited for.
func TestSole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	leave := func() *exec.Cmd { // as after a kill -9: nobody here has the lock
		s, err := TakeSole(t.Context(), me(t), path)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sh", "-c", "sleep 100 & wait")
		cmd.ExtraFiles, cmd.SysProcAttr = []*os.File{s.File()}, &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		s.Started(cmd.Process.Pid)
		if err := s.lock.Close(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	left := leave()
	s, err := TakeSole(t.Context(), me(t), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := left.Wait(); err == nil {
		t.Error("what was left has ended by itself")
	}
	because := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	c := s.With(Command{User: me(t), Args: []string{"/bin/sh", "-c", "sleep 100 & echo ready; wait"}, Line: func(string) { cancel(because) }})
	if _, err := c.Run(ctx); !errors.Is(err, because) {
		t.Error(err)
	}
	if err := s.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if entries, err := filepath.Glob(path + "*"); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}

	left = leave()
	if err := os.Remove(path + ".group"); err != nil {
		t.Fatal(err)
	}
	short, end := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer end()
	if _, err := TakeSole(short, me(t), path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside one that is not known: %v", err)
	}
	if err := syscall.Kill(-left.Process.Pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	_ = left.Wait() // it was killed
	if s, err = TakeSole(t.Context(), me(t), path); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(t.Context()); err != nil {
		t.Error(err)
	}
}
