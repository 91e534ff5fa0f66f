package postmaster

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// Children reads all of /proc: who has which children.
func Children() (map[int][]int, error) {
	pids, err := Processes()
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid …; the name may hold anything, brackets too.
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(string(fields[1])); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	return children, nil
}

// Processes lists the pids in /proc.
func Processes() (pids []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
