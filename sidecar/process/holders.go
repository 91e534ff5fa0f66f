package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// LockHolders are the other processes that have inherited a lock which flock(2) gave on the
// file, as far as this one may look: the lock is in their /proc/PID/fdinfo (proc_pid_fdinfo(5)).
// Who has merely opened the file, as a backup of the machine does, holds none. Processes of
// the same program do not count: a child has all files of its parent until it runs its own
// program, so one that this process is just starting would.
func LockHolders(file *os.File) (pids []int) {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		return nil
	}
	self, _ := os.Readlink("/proc/self/exe")
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well formed
	for _, fd := range fds {
		words := strings.Split(fd, "/")
		pid, err := strconv.Atoi(words[2])
		if err != nil || pid == os.Getpid() || len(pids) > 0 && pids[len(pids)-1] == pid {
			continue
		}
		// The link alone: to look at the file itself could take as long as its disk hangs.
		if opened, err := os.Readlink(fd); err != nil || opened != path {
			continue
		}
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, words[4]))
		if err != nil || !bytes.Contains(info, []byte("FLOCK")) {
			continue
		}
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && exe != self {
			pids = append(pids, pid)
		}
	}
	return pids
}
