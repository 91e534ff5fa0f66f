package guard

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
	"time"
)

// Leftovers lists the server processes of a data directory that run on this
// machine, whoever started them: those whose program is named postgres and whose
// working directory it is, which is so for the postmaster and all of its
// children. A shell that stands in the directory is not one of them.
func Leftovers(dataDir string) ([]int, error) {
	dir, err := os.Stat(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at data directory: %w", err)
	}
	pids, err := processes()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(pids, func(pid int) bool { return !serves(pid, dir) }), nil
}

// serves reports whether a process is a server of the directory. It compares
// file identity, not names, because of bind mounts and links.
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

// Sweep kills (SIGKILL) the server processes of a data directory, until none is
// left, and returns how many it killed. If postmaster.pid then names a living
// process, it is of something else, and PostgreSQL would refuse to start: the
// file is removed. A directory that does not exist is swept.
// It must not be called for the server of a living guard.
func Sweep(ctx context.Context, dataDir string) (killed int, err error) {
	seen := make(map[int]bool)
	tick := time.NewTicker(killInterval) // a process that is not ours sends no SIGCHLD
	defer tick.Stop()
	for {
		pids, err := Leftovers(dataDir)
		if err != nil {
			return len(seen), err
		}
		if len(pids) == 0 {
			return len(seen), removeStalePID(dataDir)
		}
		for _, pid := range pids {
			if err := killServer(pid, dataDir); err != nil {
				return len(seen), err
			}
			seen[pid] = true
		}
		select {
		case <-ctx.Done():
			return len(seen), fmt.Errorf("processes %v of %s do not end: %w", pids, dataDir, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// killServer kills a process if it is still the server that was found. The
// handle (a pidfd) is taken before the second look, so that a pid that was
// given to another process in between is not killed.
func killServer(pid int, dataDir string) error {
	process, err := os.FindProcess(pid)
	if err != nil {
		return fmt.Errorf("find process %d: %w", pid, err)
	}
	defer process.Release()
	dir, err := os.Stat(dataDir)
	if err != nil || !serves(pid, dir) {
		return nil
	}
	if err := process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}

// removeStalePID removes a postmaster.pid whose pid is alive. It is called when
// no server of the directory is left, so the pid was given to another process.
// A dead pid is left to PostgreSQL, which also looks at the shared memory.
func removeStalePID(dataDir string) error {
	name := filepath.Join(dataDir, "postmaster.pid")
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read postmaster.pid: %w", err)
	}
	first, _, _ := bytes.Cut(b, []byte("\n"))
	pid, err := strconv.Atoi(string(bytes.TrimSpace(first)))
	if err != nil || pid <= 0 {
		return nil // damaged: PostgreSQL says what to do about it
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
		return nil
	}
	if err := os.Remove(name); err != nil {
		return fmt.Errorf("remove stale postmaster.pid: %w", err)
	}
	return nil
}

const serverFile = "guard.server"

// writeServerFile remembers, before a server starts, what the next guard is to
// sweep. It is not synced: no server survives a crash of the machine.
func writeServerFile(stateDir, dataDir string) error {
	if !filepath.IsAbs(dataDir) {
		return fmt.Errorf("data directory %q: the path must be absolute", dataDir)
	}
	name := filepath.Join(stateDir, serverFile)
	if err := os.WriteFile(name+".new", []byte(dataDir), 0o600); err != nil {
		return fmt.Errorf("remember data directory: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("remember data directory: %w", err)
	}
	return nil
}

// sweepLast kills what the guard before this one left.
func sweepLast(ctx context.Context, stateDir string) (killed int, err error) {
	dataDir, err := os.ReadFile(filepath.Join(stateDir, serverFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the last data directory: %w", err)
	}
	return Sweep(ctx, string(dataDir))
}
