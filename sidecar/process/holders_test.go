package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// TestLockHolders: who has inherited a lock is found; nobody else, and not who merely has the
// file open.
func TestLockHolders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		return file
	}
	start := func(files ...*os.File) *exec.Cmd {
		cmd := exec.Command("sleep", "100")
		cmd.ExtraFiles = files
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	held := open()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	heir := start(held)
	start(open()) // reads it
	start()
	if got := LockHolders(open()); !slices.Equal(got, []int{heir.Process.Pid}) {
		t.Errorf("held by %v, want %d", got, heir.Process.Pid)
	}
}
