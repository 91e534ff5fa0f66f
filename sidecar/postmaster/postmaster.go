// Package postmaster finds the server processes of a data directory on this
// machine, no matter what started them, and ends those that nobody here started.
//
// A process is a server of a directory if its program is named postgres and its
// working directory is that directory, compared by file identity: PostgreSQL sees
// to the second for the postmaster and all its children. Which of them is the
// postmaster is what postmaster.pid says. A process is only ever signalled by a
// handle (a pidfd) that was taken before it was looked at once more, so a number
// that was given to another process in between does no harm.
//
// What cannot be read of a process (another user's, without the right to trace)
// does not count as a server's. The sidecar runs as root or as PostgreSQL's user.
//
// The package has no goroutines.
package postmaster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// Leftovers lists the server processes of a data directory that run on this
// machine, no matter what started them. A shell that stands in the directory is not one
// of them. A directory that does not exist has none.
func Leftovers(dataDir string) ([]int, error) {
	dir, err := os.Stat(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at data directory: %w", err)
	}
	pids, err := Processes()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(pids, func(pid int) bool { return !serves(pid, dir) }), nil
}

// Serves reports whether a process is a server of the data directory now.
func Serves(pid int, dataDir string) bool {
	dir, err := os.Stat(dataDir)
	return err == nil && serves(pid, dir)
}

func serves(pid int, dir fs.FileInfo) bool {
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false // it has ended, is a kernel thread, or is another user's
	}
	// After an upgrade of the package the link says so behind the name.
	program = strings.TrimSuffix(filepath.Base(program), " (deleted)")
	if program != "postgres" && program != "postmaster" {
		return false
	}
	cwd, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	return err == nil && os.SameFile(cwd, dir)
}

// Find returns the process id of the living postmaster of a data directory (or of
// a server in single-user mode), as postmaster.pid names it; 0: there is none. A
// process that only has the number does not count.
func Find(dataDir string) (int, error) {
	content, err := rights.OwnerOf(dataDir).ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read postmaster.pid: %w", err)
	}
	first, _, _ := bytes.Cut(content, []byte("\n"))
	pid, err := strconv.Atoi(string(bytes.TrimSpace(first)))
	if err != nil || pid == 0 {
		return 0, nil // damaged: PostgreSQL says what to do about it
	}
	pid = max(pid, -pid) // a server in single-user mode writes its number negated
	if !Serves(pid, dataDir) {
		return 0, nil
	}
	return pid, nil
}

// Environment returns a variable of the environment that a process was started
// with; false: it has none, or it cannot be read. PostgreSQL's postmaster leaves
// that alone; its children write their titles over it.
func Environment(pid int, name string) (string, bool) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return "", false
	}
	for entry := range bytes.SplitSeq(content, []byte{0}) {
		if value, found := bytes.CutPrefix(entry, []byte(name+"=")); found {
			return string(value), true
		}
	}
	return "", false
}

// Parent returns the parent of a process and its name; 0: it has ended.
func Parent(pid int) (int, string) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, ""
	}
	for line := range bytes.Lines(status) {
		value, found := bytes.CutPrefix(line, []byte("PPid:"))
		if !found {
			continue
		}
		parent, err := strconv.Atoi(string(bytes.TrimSpace(value)))
		if err != nil {
			return 0, ""
		}
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parent)) // without it the number has to do
		return parent, string(bytes.TrimSpace(name))
	}
	return 0, ""
}

const (
	// endTick is how often it is looked whether a server has ended that is nobody's
	// child here, of which no event tells.
	endTick = 10 * time.Millisecond
	// immediateTimeout is from SIGQUIT to SIGKILL.
	immediateTimeout = time.Second
)

// End ends the server of a data directory whose postmaster is pid: a fast shutdown
// (SIGINT); when ctx is done, or at once if immediate, SIGQUIT; a second later
// SIGKILL to all its processes. It returns nil when none of them is left, and an
// error without a signal if pid is no server of the directory.
func End(ctx context.Context, dataDir string, pid int, immediate bool) error {
	if !Serves(pid, dataDir) {
		return fmt.Errorf("end the server: process %d is no server of %s", pid, dataDir)
	}
	if !immediate {
		if err := shutdown(ctx, dataDir, pid); err == nil || ctx.Err() == nil {
			return err
		}
	}
	quit, cancel := context.WithTimeout(context.WithoutCancel(ctx), immediateTimeout)
	defer cancel()
	if gone, err := signalAndWait(quit, dataDir, pid, unix.SIGQUIT); gone || err != nil {
		return err
	}
	kill, cancel := context.WithTimeout(context.WithoutCancel(ctx), immediateTimeout)
	defer cancel()
	gone, err := signalAndWait(kill, dataDir, pid, unix.SIGKILL)
	if err == nil && !gone {
		err = fmt.Errorf("process %d of %s does not end, also not by SIGKILL: a process that waits for a disk ends when that answers", pid, dataDir)
	}
	return err
}

// shutdown asks for a fast shutdown, and for nothing worse: it returns ctx's error if
// the server is not down by then.
func shutdown(ctx context.Context, dataDir string, pid int) error {
	gone, err := signalAndWait(ctx, dataDir, pid, unix.SIGINT)
	if err == nil && !gone {
		err = fmt.Errorf("process %d of %s does not shut down in time: %w", pid, dataDir, context.Cause(ctx))
	}
	return err
}

// signalAndWait signals the postmaster and waits, until ctx is done, for all server
// processes of the directory to end.
func signalAndWait(ctx context.Context, dataDir string, pid int, sig syscall.Signal) (gone bool, err error) {
	if err := Signal(pid, dataDir, sig); err != nil {
		return false, err
	}
	tick := time.NewTicker(endTick)
	defer tick.Stop()
	for {
		family, err := familyOf(pid, dataDir)
		if err != nil || len(family) == 0 {
			return err == nil, err
		}
		if sig == unix.SIGKILL { // a killed postmaster takes nobody with it
			for _, member := range family {
				if err := Signal(member, dataDir, sig); err != nil {
					return false, err
				}
			}
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-tick.C:
		}
	}
}

// familyOf lists the processes of the directory while the postmaster lives, and what
// it has left when it is gone. Nobody else's: if another postmaster has begun in the
// meantime, what is its own is left out.
func familyOf(pid int, dataDir string) ([]int, error) {
	all, err := Leftovers(dataDir)
	if err != nil {
		return nil, err
	}
	other, err := Find(dataDir)
	if err != nil || other == 0 || other == pid {
		return all, err
	}
	return Without(all, other), nil
}

// Without leaves a process and all its descendants out of a list.
func Without(pids []int, root int) []int {
	table, err := Children()
	if err != nil {
		return nil // whose they are is not known, and so none is meant
	}
	out := map[int]bool{}
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		out[queue[0]] = true
		queue = append(queue, table[queue[0]]...)
	}
	return slices.DeleteFunc(slices.Clone(pids), func(pid int) bool { return out[pid] })
}

// Signal signals a process if it is a server of the directory; one that has ended,
// or is another's by now, is left alone without an error.
func Signal(pid int, dataDir string, sig syscall.Signal) error {
	process, err := os.FindProcess(pid)
	if err != nil {
		return fmt.Errorf("find process %d: %w", pid, err)
	}
	defer process.Release()
	if !Serves(pid, dataDir) {
		return nil
	}
	if err := process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}
