package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/process"
	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// Sole is the right to run the one program that works on a place, such as a repository or
// a folder. Programs inherit it, so that one which outlives its sidecar is found by the
// next, which ends it before it begins. Within one process a place has one Sole at a time.
type Sole struct {
	path string
	user User
	lock *os.File
}

const (
	// soleWait is for the end of a program that was killed: it may be in the middle of a
	// write to a slow disk.
	soleWait  = time.Minute
	soleAgain = 20 * time.Millisecond
)

// TakeSole takes the right that a file stands for, and ends the program that was left.
func TakeSole(ctx context.Context, u User, path string) (*Sole, error) {
	lock, err := rights.OpenLock(path)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	s := &Sole{path: path, user: u, lock: lock}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		s.endLeft()
		err = s.await(ctx)
	}
	if err == nil {
		err = s.forget() // its number may be anybody's from now on
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), lock.Close())
	}
	return s, nil
}

// group is the file with the process group of the last program.
func (s *Sole) group() string { return s.path + ".group" }

func (s *Sole) forget() error {
	if err := s.user.Files().Remove(s.group()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// endLeft ends the program that holds the lock: it lives, so the number is still its own.
// If that fails the lock stays held, and that is the error. A program whose sidecar was killed
// before it could note the group is found by the lock.
func (s *Sole) endLeft() {
	text, err := s.user.Files().ReadFile(s.group())
	if err == nil {
		if group, err := strconv.Atoi(string(text)); err == nil && group > 1 {
			_ = syscall.Kill(-group, syscall.SIGKILL)
		}
	}
	for _, pid := range process.LockHolders(s.lock) {
		if group, err := syscall.Getpgid(pid); err == nil && group > 1 && group != syscall.Getpgrp() {
			_ = syscall.Kill(-group, syscall.SIGKILL)
		}
	}
}

// await waits until nobody else has the lock.
func (s *Sole) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, soleWait, errors.New("a program of an earlier run still works on it"))
	defer cancel()
	again := time.NewTicker(soleAgain)
	defer again.Stop()
	for {
		err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-again.C:
		}
	}
}

// File is what a program inherits.
func (s *Sole) File() *os.File { return s.lock }

// Started notes a program's process group.
func (s *Sole) Started(group int) {
	// Not synced: a program does not outlive the machine's fall.
	_ = s.user.Files().Replace(s.group(), fmt.Append(nil, group))
}

// With is the command, which inherits the right.
func (s *Sole) With(c Command) Command {
	c.Files, c.Started = append(c.Files, s.lock), s.Started
	return c
}

// Release gives the right up, when the program has ended with all that it had started: of
// one that was killed the last process may take its time.
func (s *Sole) Release(ctx context.Context) error {
	if err := s.lock.Close(); err != nil {
		return fmt.Errorf("unlock %s: %w", s.path, err)
	}
	rest, err := TakeSole(ctx, s.user, s.path)
	if err != nil {
		return err
	}
	return rest.lock.Close()
}
