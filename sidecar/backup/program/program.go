// Package program runs the programs that make and restore backups, as
// PostgreSQL's user, so that an engine's adapter need not.
//
// A program gets an environment of its own and nothing of ours. It is its own
// process group: when the context ends, the whole group is killed, and Run
// returns when its output has ended. It starts no goroutine but those of
// os/exec, which end with the run.
package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// ErrMissing: the program is not installed.
var ErrMissing = errors.New("program not found")

// User is whom programs run as.
type User struct {
	Name, Home string
	UID, GID   uint32
	other      bool // not us: the process must change its user
}

// Lookup finds a user by name; empty: the user who runs this process.
func Lookup(name string) (User, error) {
	u, err := user.Current()
	if name != "" && err == nil {
		u, err = user.Lookup(name)
	}
	if err != nil {
		return User{}, fmt.Errorf("look up user %q: %w", name, err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return User{}, fmt.Errorf("user %q: %w", name, err)
	}
	return User{Name: u.Username, Home: u.HomeDir, UID: uint32(uid), GID: uint32(gid), other: int(uid) != os.Geteuid()}, nil
}

// Files has the user's rights to files: what is done in a directory of the user's is done
// with them, so that a link there leads nobody to what is root's.
func (u User) Files() rights.User {
	if !u.other {
		return rights.User{}
	}
	return rights.Of(u.UID, u.GID)
}

// Command is one run of a program.
type Command struct {
	User User
	Args []string // the program first
	Dir  string   // empty: /
	Env  []string // besides PATH, HOME, USER, LOGNAME and the C locale
	// Line is called with each line of standard output and error, from one
	// goroutine at a time. Standard output is kept only if it is nil.
	Line func(line string)
	// Files are inherited, and Started is called with the process group once it runs.
	Files   []*os.File
	Started func(group int)
	// Background: others on the machine come first, for processor and disk.
	Background bool
}

// Failed is a program that ended badly.
type Failed struct {
	Program string
	Code    int    // exit status; -1: a signal ended it
	Said    string // the last of its standard error, without empty lines
	err     error
}

// Error repeats the program's own words.
func (f *Failed) Error() string {
	if f.Said == "" {
		return fmt.Sprintf("%s: %v", f.Program, f.err)
	}
	return fmt.Sprintf("%s: %s", f.Program, f.Said)
}

func (f *Failed) Unwrap() error { return f.err }

// outputDelay is how long a grandchild may keep our ends of its output open.
const outputDelay = 5 * time.Second

// keptLines is enough for an error with its details and hints.
const keptLines = 12

// Run runs the program and returns its standard output. The error is a *Failed if
// the program ended badly, ErrMissing if it is not there, and the context's cause
// if it was killed because of that.
func (c Command) Run(ctx context.Context) (string, error) {
	name := c.Args[0][strings.LastIndexByte(c.Args[0], '/')+1:]
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + c.User.Home, "USER=" + c.User.Name, "LOGNAME=" + c.User.Name, "LC_ALL=C.UTF-8", "LC_MESSAGES=C", "TZ=UTC"}, c.Env...)
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.User.other {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.User.UID, Gid: c.User.GID}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = outputDelay
	cmd.ExtraFiles = c.Files
	var out bytes.Buffer
	said := &lines{each: c.Line, keep: keptLines}
	cmd.Stdout, cmd.Stderr = &out, said
	shown := &lines{each: func(line string) {
		said.mu.Lock()
		defer said.mu.Unlock()
		c.Line(line)
	}}
	if c.Line != nil {
		cmd.Stdout = shown
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("%w: %s", ErrMissing, c.Args[0])
		}
		return "", fmt.Errorf("start %s: %w", name, err)
	}
	if c.Started != nil {
		c.Started(cmd.Process.Pid)
	}
	if c.Background {
		background(cmd.Process.Pid)
	}
	err := cmd.Wait()
	shown.last() // a line without an end
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s was ended: %w", name, context.Cause(ctx))
	}
	if err != nil {
		return out.String(), &Failed{Program: name, Code: cmd.ProcessState.ExitCode(), Said: said.last(), err: err}
	}
	return out.String(), nil
}

// The kernel's numbers for ioprio_set(2).
const (
	prioGroup  = 2
	classIdle  = 3
	classShift = 13
)

// background lowers a process group's share of processor and disk. It is a
// courtesy: where the kernel refuses, the program runs as it would have.
func background(group int) {
	_ = unix.Setpriority(unix.PRIO_PGRP, group, 10)
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, prioGroup, uintptr(group), classIdle<<classShift)
}

// lines takes a stream apart and keeps the last of it.
type lines struct {
	mu   sync.Mutex
	rest []byte
	kept []string
	keep int
	each func(string)
}

// longest is what one line may have; more of it is cut off.
const longest = 64 << 10

// Write takes output as it comes.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexAny(l.rest, "\r\n")
		if i < 0 && len(l.rest) <= longest {
			return len(p), nil
		}
		if i < 0 {
			i = len(l.rest) - 1
		}
		l.take(string(bytes.TrimSpace(l.rest[:i])))
		l.rest = l.rest[i+1:]
	}
}

func (l *lines) take(line string) {
	if line == "" {
		return
	}
	if l.each != nil {
		l.each(line)
	}
	l.kept = append(l.kept, line)
	l.kept = l.kept[max(0, len(l.kept)-l.keep):]
}

// last returns the last lines, as one.
func (l *lines) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.take(string(bytes.TrimSpace(l.rest)))
	l.rest = nil
	return strings.Join(l.kept, "; ")
}

// Quote writes words as one command line for a POSIX shell.
func Quote(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		plain := w != "" && !strings.ContainsFunc(w, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%", r)
		})
		if quoted[i] = w; !plain {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
