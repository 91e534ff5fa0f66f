package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Holders are the other processes that have the file open, as far as this one may look
// (proc_pid_fd(5)). Processes of the same program do not count: a child has all files of its
// parent until it runs its own program, so one that this process is just starting would.
func Holders(file *os.File) (pids []int) {
	own, err := file.Stat()
	if err != nil {
		return nil
	}
	self, _ := os.Readlink("/proc/self/exe")
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well formed
	for _, fd := range fds {
		pid, err := strconv.Atoi(strings.Split(fd, "/")[2])
		if err != nil || pid == os.Getpid() || len(pids) > 0 && pids[len(pids)-1] == pid {
			continue
		}
		if it, err := os.Stat(fd); err != nil || !os.SameFile(own, it) {
			continue
		}
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && exe != self {
			pids = append(pids, pid)
		}
	}
	return pids
}
