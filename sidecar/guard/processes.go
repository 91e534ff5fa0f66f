package guard

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/pgsidecar/pgsidecar/sidecar/postmaster"
)

// descend calls visit for every descendant of this process, parents before
// their children, zombies included. While the caller does not wait for its
// children, none of its own is missed: the kernel's list is exact as long as
// nobody leaves it.
func descend(visit func(pid int)) error {
	children := childrenByTask
	if _, err := os.Stat("/proc/thread-self/children"); err != nil {
		// A kernel without CONFIG_PROC_CHILDREN.
		table, err := postmaster.Children()
		if err != nil {
			return err
		}
		children = func(pid int) []int { return table[pid] }
	}
	queue := []int{os.Getpid()}
	for len(queue) > 0 {
		found := children(queue[0])
		for _, pid := range found {
			visit(pid)
		}
		queue = append(queue[1:], found...)
	}
	return nil
}

// childrenByTask lists the children of all threads of a process; none if it is
// gone.
func childrenByTask(pid int) (children []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is well formed
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended; its children are another's
		}
		for _, field := range bytes.Fields(b) {
			if child, err := strconv.Atoi(string(field)); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}
