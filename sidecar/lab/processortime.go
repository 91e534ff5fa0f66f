package lab

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// ProcessorTime is what the processes of the lab have used of the machine's processors
// since they began, those of their children that have ended included. The difference of two is exact to a few ticks of 10 ms (proc_pid_stat(5)).
func (l *Lab) ProcessorTime() (time.Duration, error) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	var belongs []func(int) bool
	for _, h := range l.plan.Hosts {
		belongs = append(belongs, l.belonging(h))
	}
	var sum time.Duration
	for _, name := range names {
		pid, err := strconv.Atoi(name.Name())
		if err != nil || !slices.ContainsFunc(belongs, func(of func(int) bool) bool { return of(pid) }) {
			continue
		}
		fields, err := stat(pid)
		if err != nil {
			continue // it has ended, and its parent has its time
		}
		sum += processorTime(fields)
	}
	return sum, nil
}

// processorTime adds utime, stime, cutime and cstime, the 14th to 17th field of
// /proc/PID/stat, of which the fields begin with the third.
func processorTime(fields []string) time.Duration {
	var ticks int64
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
