package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// TestHolders: who has inherited a file is found, and nobody else.
func TestHolders(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	start := func(files ...*os.File) *exec.Cmd {
		cmd := exec.Command("sleep", "100")
		cmd.ExtraFiles = files
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	heir := start(file)
	start()
	if got := Holders(file); !slices.Equal(got, []int{heir.Process.Pid}) {
		t.Errorf("held by %v, want %d", got, heir.Process.Pid)
	}
}
