package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// runOptions say how a program is run.
type runOptions struct {
	// changes: it changes the data directory, so it must be the only one.
	changes bool
	dir     string            // working directory; default: the state directory
	line    func(line string) // called for each line (or progress step) of standard error
	env     []string          // in addition
	// patience is how long it may stand still before it is ended; zero: for ever.
	patience time.Duration
}

// program runs one of PostgreSQL's programs as the server's user and returns its
// standard output. The call waits for its end; when ctx is done it is killed with all
// that it has started.
func (s *Server) program(ctx context.Context, name string, args []string, o runOptions) (string, error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	cmd := exec.CommandContext(ctx, filepath.Join(s.o.BinDir, name), args...)
	cmd.Env = append(s.environment(), o.env...)
	cmd.Dir = o.dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if s.switchID {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.uid, Gid: s.gid}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second // for output that a grandchild keeps open
	var out bytes.Buffer
	said := &lines{each: o.line}
	cmd.Stdout, cmd.Stderr = &out, said
	if o.changes {
		lock, err := s.lockPrograms(ctx)
		if err != nil {
			return "", err
		}
		defer lock.Close() // ours; the program has inherited its own
		cmd.ExtraFiles = []*os.File{lock}
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start %s: %w", name, err)
	}
	if o.changes {
		s.noteGroup(cmd.Process.Pid)
	}
	if o.patience > 0 {
		go watch(ctx, cmd.Process.Pid, o.patience, func() {
			end(fmt.Errorf("%w: nothing came of it for %s", ErrStandstill, o.patience))
		})
	}
	err := cmd.Wait()
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s was ended: %w", name, context.Cause(ctx))
	}
	if err != nil {
		return "", programError(name, err, said.last())
	}
	return out.String(), nil
}

// lockPrograms takes the lock that each program which changes the data directory
// inherits. If one outlived its sidecar, it is ended: what it was making is
// named by a marker, and worth nothing. With the lock goes the note of its process
// group, whose number may be anybody's from then on.
func (s *Server) lockPrograms(ctx context.Context) (*os.File, error) {
	if err := s.MakeState(); err != nil {
		return nil, err
	}
	lock, err := rights.OpenLock(s.state("programs.lock"))
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return s.forgetGroup(lock)
	}
	s.log.Warn("ending a program left by an earlier run")
	if text, err := s.files.ReadOwn(s.state("programs.group")); err == nil {
		if group, err := strconv.Atoi(string(text)); err == nil && group > 1 {
			// The lock shows that it lives, so the number is still its own. If
			// the kill fails the lock stays held, and that is the error.
			_ = syscall.Kill(-group, syscall.SIGKILL)
		}
	}
	taken := make(chan error, 1)
	go func() { taken <- syscall.Flock(int(lock.Fd()), syscall.LOCK_EX) }()
	select {
	case err = <-taken:
	case <-ctx.Done():
		// The goroutine ends with the program that holds the lock; the file is
		// left to it.
		return nil, fmt.Errorf("another program works on the data directory: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the data directory: %w", err), lock.Close())
	}
	return s.forgetGroup(lock)
}

// forgetGroup removes the note of the process group of the previous holder of the lock.
func (s *Server) forgetGroup(lock *os.File) (*os.File, error) {
	if err := s.remove(s.state("programs.group")); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// programError says why a program failed in its own last words.
func programError(name string, err error, said string) error {
	kind := error(nil)
	switch {
	case strings.Contains(said, "password authentication failed"):
		kind = ErrPassword
	case strings.Contains(said, "no password supplied"): // libpq says nothing of a file that it cannot open
		kind = ErrPassword
		said += "; the password file is in state_dir: may PostgreSQL's user enter it, and each folder above it?"
	case strings.Contains(said, "No space left on device"), strings.Contains(said, "Disk quota exceeded"):
		kind = ErrDiskFull
	case strings.Contains(said, "could not find common ancestor"),
		strings.Contains(said, "source and target clusters are from different systems"),
		strings.Contains(said, "could not find previous WAL record"),
		strings.Contains(said, "could not read WAL record"),
		strings.Contains(said, "target server needs to use either data checksums"):
		kind = ErrNoCommonPast
	case lostSource(said):
		kind = ErrUnreachable
	}
	if said == "" {
		said = err.Error()
	}
	if kind != nil {
		return fmt.Errorf("%s: %w: %s", name, kind, said)
	}
	return fmt.Errorf("%s: %s: %w", name, said, err)
}

// lostSource reports whether a program says that its source did not let it connect, or
// went away: another try may do better.
func lostSource(said string) bool {
	for _, words := range []string{"connection to server", "could not translate host name", "server closed the connection unexpectedly",
		"terminating connection", "could not receive data from server", "could not send data to server", "SSL SYSCALL error"} {
		if strings.Contains(said, words) {
			return true
		}
	}
	return false
}

// SourceFailed reports whether a copy or rewind failed by its source: it cannot be
// reached, refuses the login, or stands still. Nothing is said of the data then.
func SourceFailed(err error) bool {
	return errors.Is(err, ErrUnreachable) || errors.Is(err, ErrPassword) || errors.Is(err, ErrStandstill)
}

// lines takes a program's standard error apart and keeps the last of it.
type lines struct {
	mu   sync.Mutex
	rest []byte
	kept []string
	each func(string)
}

// keptLines is enough for an error with its detail and hint.
const keptLines = 6

// Write takes output as it comes; progress ends with a carriage return.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexAny(l.rest, "\r\n")
		if i < 0 {
			return len(p), nil
		}
		l.take(string(bytes.TrimSpace(l.rest[:i])))
		l.rest = l.rest[i+1:]
	}
}

// logPrefix is what the server's own messages begin with.
var logPrefix = regexp.MustCompile(`^\d{4}-\d\d-\d\d \S+ \S+ \[\d+\] `)

func (l *lines) take(line string) {
	if line == "" {
		return
	}
	if l.each != nil {
		l.each(line)
	}
	if !progressPattern.MatchString(line) {
		l.kept = append(l.kept, logPrefix.ReplaceAllString(line, ""))
		l.kept = l.kept[max(0, len(l.kept)-keptLines):]
	}
}

// last returns the last lines, as one.
func (l *lines) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.take(string(bytes.TrimSpace(l.rest)))
	l.rest = nil
	return strings.Join(l.kept, "; ")
}
