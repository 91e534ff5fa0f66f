package guard

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

const (
	// maxServerLog bounds the server's log file; one older file of that size
	// is kept beside it.
	maxServerLog = 64 << 20
	// trimInterval is how often the size of a running server's log is looked at.
	trimInterval = time.Minute
)

// spawn starts the postmaster as a child of the calling thread, which must live
// as long as the process: when it ends, the kernel sends the postmaster SIGQUIT.
func spawn(c Command, oomScore string) (pid int, log *serverLog, err error) {
	attr, err := processAttributes(c)
	if err != nil {
		return 0, nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, fmt.Errorf("open null device: %w", err)
	}
	defer null.Close()
	log, err = openServerLog(c)
	if err != nil {
		return 0, nil, err
	}
	pid, err = syscall.ForkExec(c.Path, append([]string{filepath.Base(c.Path)}, c.Args...), &syscall.ProcAttr{
		Dir:   c.Dir,
		Env:   environment(c.Env, oomScore),
		Files: []uintptr{null.Fd(), log.file.Fd(), log.file.Fd()},
		Sys:   attr,
	})
	if err != nil {
		log.file.Close()
		return 0, nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	go log.trim()
	return pid, log, nil
}

// processAttributes decides the server's user. It returns ErrRoot for root.
func processAttributes(c Command) (*syscall.SysProcAttr, error) {
	if c.UID == 0 {
		return nil, ErrRoot
	}
	attr := &syscall.SysProcAttr{
		Setsid: true, // no signal from anybody's terminal
		// The kernel clears it when the user changes; Go sets it after that.
		Pdeathsig: syscall.SIGQUIT,
	}
	if os.Geteuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups}
		return attr, nil
	}
	if int(c.UID) != os.Geteuid() {
		return nil, fmt.Errorf("the guard runs as user %d and cannot start a server as user %d", os.Geteuid(), c.UID)
	}
	return attr, nil
}

// environment adds what PostgreSQL needs to know of its parents. The
// postmaster stays as safe from the OOM killer as the guard, and its children
// are not (PostgreSQL documentation, section 19.4.4): if one of them is killed
// it restarts the others.
func environment(env []string, oomScore string) []string {
	env = slices.Clone(env)
	add := func(name, value string) {
		if !slices.ContainsFunc(env, func(s string) bool { return strings.HasPrefix(s, name+"=") }) {
			env = append(env, name+"="+value)
		}
	}
	add("PG_OOM_ADJUST_FILE", oomScoreFile)
	add("PG_OOM_ADJUST_VALUE", oomScore)
	// A pid in a stale postmaster.pid may by now be the sidecar's (containers
	// start from 1); PostgreSQL knows it by this name, as from pg_ctl.
	add("PG_GRANDPARENT_PID", fmt.Sprint(os.Getppid()))
	return env
}

// serverLog is the file that takes the server's output. The server writes to it
// directly, so that neither the guard's death nor its life costs a line.
type serverLog struct {
	command Command
	file    *os.File
	closed  chan struct{}
}

// openServerLog opens the log as the server's user, so that a symbolic link in
// a directory of that user gives it nothing it could not write itself.
func openServerLog(c Command) (*serverLog, error) {
	file, err := rights.Of(c.UID, c.GID).Append(c.LogFile, maxServerLog)
	if err != nil {
		return nil, fmt.Errorf("open log file as user %d: %w", c.UID, err)
	}
	return &serverLog{command: c, file: file, closed: make(chan struct{})}, nil
}

// close does not wait for the disk; trim closes the file.
func (l *serverLog) close() { close(l.closed) }

// trim bounds the log of a running server: its content moves to LogFile.1 and
// the file begins anew. Lines written between the copy and the truncation are
// lost; a server that logs that much should use its own logging_collector.
func (l *serverLog) trim() {
	tick := time.NewTicker(trimInterval)
	defer tick.Stop()
	defer l.file.Close()
	for {
		select {
		case <-l.closed:
			return
		case <-tick.C:
			if info, err := l.file.Stat(); err == nil && info.Size() > maxServerLog {
				_ = l.moveContent() // tried again at the next tick
			}
		}
	}
}

func (l *serverLog) moveContent() error {
	user := rights.Of(l.command.UID, l.command.GID)
	older, err := user.OpenFile(l.command.LogFile+".1", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer older.Close()
	if _, err := io.Copy(older, io.NewSectionReader(l.file, 0, maxServerLog*2)); err != nil {
		return err
	}
	return l.file.Truncate(0) // the server appends, so it goes on at the new end
}
