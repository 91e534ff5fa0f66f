package guard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/sidecar/postmaster"
	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// Sweep kills (SIGKILL) the server processes of a data directory, until none is
// left, and returns how many it killed. If postmaster.pid then names a living
// process, it is of something else, and PostgreSQL would refuse to start: the
// file is removed. A directory that does not exist is swept.
// It must not be called for the server of a living guard.
func Sweep(ctx context.Context, dataDir string) (killed int, err error) {
	return sweep(ctx, dataDir, 0)
}

// sweep spares the server whose postmaster is spared, if that is not 0.
func sweep(ctx context.Context, dataDir string, spared int) (killed int, err error) {
	seen := make(map[int]bool)
	tick := time.NewTicker(killInterval) // a process that is not ours sends no SIGCHLD
	defer tick.Stop()
	for {
		pids, err := postmaster.Leftovers(dataDir)
		if err != nil {
			return len(seen), err
		}
		if spared != 0 {
			pids = postmaster.Without(pids, spared)
		}
		if len(pids) == 0 {
			if spared != 0 {
				return len(seen), nil // postmaster.pid is that server's
			}
			return len(seen), removeStalePID(dataDir)
		}
		for _, pid := range pids {
			if err := postmaster.Signal(pid, dataDir, unix.SIGKILL); err != nil {
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

// stateDirVariable is in the environment of each server that a guard starts: by it
// the next guard knows what the one before it left, and leaves alone what a person
// or another program has started on the same data directory.
const stateDirVariable = "PGSIDECAR_STATE_DIR"

// Stranger returns the postmaster that runs on the data directory and that no guard
// of the state directory has started; 0: there is none.
func Stranger(stateDir, dataDir string) (pid int, err error) {
	pid, err = postmaster.Find(dataDir)
	if err != nil || pid == 0 || started(pid, stateDir) {
		return 0, err
	}
	return pid, nil
}

// started reports whether a guard of the state directory has started the process.
// An earlier release's says so only by libpq's service file, which is in the state
// directory.
func started(pid int, stateDir string) bool {
	if dir, found := postmaster.Environment(pid, stateDirVariable); found {
		return filepath.Clean(dir) == filepath.Clean(stateDir)
	}
	service, found := postmaster.Environment(pid, "PGSERVICEFILE")
	return found && filepath.Dir(service) == filepath.Clean(stateDir)
}

// removeStalePID removes a postmaster.pid whose pid is alive. It is called when
// no server of the directory is left, so the pid was given to another process.
// A dead pid is left to PostgreSQL, which also looks at the shared memory.
func removeStalePID(dataDir string) error {
	name := filepath.Join(dataDir, "postmaster.pid")
	b, err := rights.OwnerOf(dataDir).ReadFile(name)
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
	if err := rights.OwnerOf(dataDir).Remove(name); err != nil {
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
	if err := rights.OwnerOf(stateDir).Replace(name, []byte(dataDir)); err != nil {
		return fmt.Errorf("remember data directory: %w", err)
	}
	return nil
}

// Watch has the first guard of a state directory look out for somebody else's server on the
// data directory, as if it had started one there before.
func Watch(stateDir, dataDir string) error { return writeServerFile(stateDir, dataDir) }

// sweepLast kills what the guard before this one left on its data directory. A server that no guard has
// started is left running, and returned: it is not for a guard to decide about.
func sweepLast(ctx context.Context, stateDir string) (dataDir string, killed, stranger int, err error) {
	dataDir, err = lastDataDir(stateDir)
	if err != nil || dataDir == "" {
		return "", 0, 0, err
	}
	if stranger, err = Stranger(stateDir, dataDir); err != nil {
		return "", 0, 0, err
	}
	killed, err = sweep(ctx, dataDir, stranger)
	return dataDir, killed, stranger, err
}

// lastDataDir is the data directory of the last server that a guard of the state
// directory has started; empty: none.
func lastDataDir(stateDir string) (string, error) {
	content, err := rights.OwnerOf(stateDir).ReadOwn(filepath.Join(stateDir, serverFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the last data directory: %w", err)
	}
	return string(content), nil
}
