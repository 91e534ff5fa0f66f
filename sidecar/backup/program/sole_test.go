package program

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestSole: a program that outlives who started it is ended by the next, also one whose
// group nobody has noted.
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

	left = leave() // and its sidecar was killed before it could note the group
	if err := os.Remove(path + ".group"); err != nil {
		t.Fatal(err)
	}
	if s, err = TakeSole(t.Context(), me(t), path); err != nil {
		t.Fatal(err)
	}
	if err := left.Wait(); err == nil {
		t.Error("what was left, and not noted, has ended by itself")
	}
	if err := s.Release(t.Context()); err != nil {
		t.Error(err)
	}
}
