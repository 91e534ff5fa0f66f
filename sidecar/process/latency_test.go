package process

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRunPromptly: each thread asks for short turns, and keeps its share.
func TestRunPromptly(t *testing.T) {
	before, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := RequestShortSlices(); err != nil {
		t.Fatal(err)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	known := false
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		attr, err := unix.SchedGetAttr(tid, 0)
		if err != nil {
			continue // it has ended
		}
		if attr.Policy != before.Policy || attr.Nice != before.Nice {
			t.Errorf("thread %d has policy %d and nice %d", tid, attr.Policy, attr.Nice)
		}
		if attr.Runtime != 0 && attr.Runtime != uint64(timeSlice) {
			t.Errorf("thread %d has slices of %d ns", tid, attr.Runtime)
		}
		known = known || attr.Runtime != 0
	}
	if !known {
		t.Skip("this kernel has no time slices that can be asked for (Linux 6.12 has)")
	}
}
