package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// How long a program may do nothing at all before it is ended: its source stands still,
// though its connection does not break. A copy begins with a checkpoint of the source,
// which may take minutes.
const (
	rewindPatience = 2 * time.Minute
	copyPatience   = 10 * time.Minute
)

// work is how much a process has done. It stands still if it moves no data, uses no
// processor, and waits for no disk.
type work struct {
	bytes int64 // read and written, but from and to sockets
	ticks int64 // of the processor, a hundredth of a second each
	disk  bool  // it waits for a disk, or the like
}

// idleTicks are so few that waking up from time to time takes them.
const idleTicks = 5

func (w work) since(before work) bool {
	return w.disk || w.bytes != before.bytes || w.ticks-before.ticks > idleTicks
}

// workOf reads it from /proc.
func workOf(pid int) (work, error) {
	stat, err1 := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	io, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err := errors.Join(err1, err2); err != nil {
		return work{}, err
	}
	var w work
	for line := range strings.Lines(string(io)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ": "); name == "rchar" || name == "wchar" {
			n, _ := strconv.ParseInt(value, 10, 64) // the kernel's
			w.bytes += n
		}
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // after the name, which may have blanks
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return work{}, fmt.Errorf("/proc/%d/stat: %q", pid, stat)
	}
	w.disk = fields[0] == "D"
	for _, f := range fields[11:13] { // utime, stime
		n, _ := strconv.ParseInt(f, 10, 64) // the kernel's
		w.ticks += n
	}
	return w, nil
}

// watch calls still when the process has done nothing for so long. It returns then, or
// when ctx is done.
func watch(ctx context.Context, pid int, patience time.Duration, still func()) {
	tick := time.NewTicker(min(patience/10, 5*time.Second))
	defer tick.Stop()
	last, at := work{}, time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := workOf(pid)
		if err != nil || now.since(last) {
			last, at = now, time.Now()
			continue
		}
		if time.Since(at) >= patience {
			still()
			return
		}
	}
}
