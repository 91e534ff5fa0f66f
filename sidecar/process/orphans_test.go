package process

import (
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOrphans: what others have left behind is waited for when it was dead twice; what this
// process has started is not taken from who waits for it.
func TestOrphans(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	for range 3 {
		if out, err := exec.Command("sh", "-c", "sleep 0 &").CombinedOutput(); err != nil {
			t.Fatalf("%v, %s", err, out)
		}
	}
	own := exec.Command("true")
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	mine := func(z zombie) bool { return z.pid == own.Process.Pid }
	deadline := time.Now().Add(10 * time.Second)
	for len(zombies()) < 4 {
		if time.Now().After(deadline) {
			t.Fatalf("only these are dead: %v", zombies())
		}
	}
	dead := reap(nil)
	if len(dead) != 4 || len(zombies()) != 4 {
		t.Errorf("after the first look: %v, %v", dead, zombies())
	}
	if err := own.Wait(); err != nil {
		t.Errorf("a process of its own: %v", err)
	}
	if other := reap([]zombie{{dead[0].pid, "another start"}}); len(other) != 3 {
		t.Errorf("one whose number is used again is taken: %v", other)
	}
	if dead = reap(dead); len(dead) != 0 || slices.ContainsFunc(zombies(), func(z zombie) bool { return !mine(z) }) {
		t.Errorf("after the second look: %v, %v", dead, zombies())
	}
}
