package guard

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

const oomScoreFile = "/proc/self/oom_score_adj"

// protect makes the calling process small and hard to hold up, as far as the
// system allows; what it does not allow is logged at debug. It returns the OOM
// score adjustment that the server is to have: the one the guard was born with.
// The calling goroutine must be locked to its thread, the one that starts the
// server.
func protect(log hclog.Logger) (serverOOMScore string, err error) {
	// A descendant that loses its parent becomes our child.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return "", fmt.Errorf("become child subreaper: %w", err)
	}
	runtime.GOMAXPROCS(4)  // keeper, two sentinels, and a log line that waits for the disk
	debug.SetGCPercent(25) // the heap is about 1 MB; the default lets it grow to 4

	attempt := func(what string, err error) {
		if err != nil {
			log.Debug("protection not available", "protection", what, "error", err)
		}
	}
	attempt("small memory", ReleaseProgram()) // before what is left is locked
	attempt("locked memory", lockMemory())
	attempt("scheduling class", raisePriority())
	serverOOMScore, err = lowerOOMScore()
	attempt("oom score", err)
	attempt("no core file", HideMemory())
	return serverOOMScore, nil
}

// lockMemory keeps what was touched in memory. MCL_ONFAULT is what makes it
// cheap: without it all that the runtime maps becomes resident, 129 MB instead
// of 12. Under a finite RLIMIT_MEMLOCK it would not be safe: the mapping that
// goes beyond it fails, and with it the process.
func lockMemory() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return fmt.Errorf("read RLIMIT_MEMLOCK: %w", err)
	}
	if limit.Cur != unix.RLIM_INFINITY && !capable(unix.CAP_IPC_LOCK) {
		return fmt.Errorf("RLIMIT_MEMLOCK is %d and CAP_IPC_LOCK is missing", limit.Cur)
	}
	return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
}

func capable(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}

// raisePriority puts every thread of the guard into SCHED_RR, which a cgroup's
// CPU quota does not throttle, or else at nice -20. Later threads inherit it.
// The calling thread, which starts the server, has SCHED_FLAG_RESET_ON_FORK, so
// that the server does not; Go never clones a thread from a locked one.
func raisePriority() error {
	self := strconv.Itoa(unix.Gettid())
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			continue
		}
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}
		if thread.Name() == self {
			attr.Flags = unix.SCHED_FLAG_RESET_ON_FORK
		}
		if unix.SchedSetAttr(tid, &attr, 0) == nil {
			continue
		}
		attr.Policy, attr.Priority, attr.Nice = unix.SCHED_NORMAL, 0, -20
		if err := unix.SchedSetAttr(tid, &attr, 0); err != nil {
			return fmt.Errorf("set nice -20: %w", err)
		}
	}
	return nil
}

// preferPostmaster lets the postmaster, and none of its children, have the
// processor sooner. It works little, and others wait for what it does: clients
// to be let in, the server for its signals, and the guard for its end. When it is
// killed, its children wake before it has ended altogether, all at once, and on
// two busy cores it took 16 ms until the guard was told.
func preferPostmaster(pid int) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: postmasterNice, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	if err := unix.SchedSetAttr(pid, &attr, 0); err != nil {
		return fmt.Errorf("set nice %d: %w", postmasterNice, err)
	}
	return nil
}

const postmasterNice = -10

// lowerOOMScore asks the kernel to kill others first. It returns the value
// before.
func lowerOOMScore() (before string, err error) {
	b, err := os.ReadFile(oomScoreFile)
	if err != nil {
		return "0", fmt.Errorf("read OOM score: %w", err)
	}
	before = string(bytes.TrimSpace(b))
	if err := os.WriteFile(oomScoreFile, []byte("-1000"), 0); err != nil {
		return before, fmt.Errorf("lower OOM score: %w", err)
	}
	return before, nil
}
