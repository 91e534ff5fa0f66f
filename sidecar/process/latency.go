package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// timeSlice is for how long a thread of ours wants the processor at a time: what
// it does between two waits is shorter, but its turn must come soon.
const timeSlice = 100 * time.Microsecond

// RequestShortSlices asks the kernel to give short turns, but soon, to all threads of
// this process: in a failover it does a hundred small steps that others wait for,
// on a machine whose processors are busy. It takes no larger part of them. Linux
// 6.12 and newer know it; older ones take it and change nothing. Threads and
// processes that are started later inherit it.
func RequestShortSlices() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	var errs []error
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			continue
		}
		attr, err := unix.SchedGetAttr(tid, 0)
		if err == nil && attr.Policy == unix.SCHED_NORMAL {
			attr.Runtime = uint64(timeSlice)
			err = unix.SchedSetAttr(tid, attr, 0)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ask for short time slices: %w", err)
	}
	return nil
}
