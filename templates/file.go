package templates

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// File is one file that follows the topology.
type File struct {
	// Name is for people and logs.
	Name     string
	Template *Template
	// Destination is where the file stands. If it is a symbolic link, what it
	// points to is replaced.
	Destination string
	// Check must accept a new file before it replaces the last good one: a
	// program and its arguments, in which "{}" is the new file's path.
	Check []string
	// Command is run after the file has changed. If it fails it is tried again.
	Command []string
	// Reload is the HAProxy that reads the file: in place of Command, it is reloaded
	// by its master socket. Nil: none.
	Reload Reloader
	// Timeout of Check, and of Command or Reload; default 30 s.
	Timeout time.Duration
	// Perms of the file; zero: those it has, or NewPerms.
	Perms fs.FileMode
	// NewPerms are those of a file that was not there; zero: 0644.
	NewPerms fs.FileMode
	// User and Group that own it, by name or number; empty: those it has.
	User, Group string
}

const (
	defaultTimeout = 30 * time.Second
	defaultPerms   = 0o644
	// The files beside the destination: one that is being written, whose name
	// is always the same so that a process that is killed leaves no more than
	// one; and the one before.
	newSuffix    = ".pgsidecar-new"
	backupSuffix = ".pgsidecar-old"
	// It stands while the file has changed and its command has not succeeded,
	// so that a killed process's successor runs it.
	owedSuffix = ".pgsidecar-owed"
)

// put makes content the file's, unless it already is. Until all has succeeded
// the last good file stands; it is kept as a backup. It reports whether the
// file was changed.
func (f *File) put(ctx context.Context, content []byte) (bool, error) {
	path, err := resolve(f.Destination)
	if err != nil {
		return false, err
	}
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read the last file: %w", err)
	}
	exists := err == nil
	owner, err := f.owner(path, exists)
	if err != nil {
		return false, err
	}
	if exists && bytes.Equal(before, content) {
		return false, owner.apply(path)
	}
	fresh := beside(path, newSuffix)
	if err := owner.write(fresh, content); err != nil {
		return false, errors.Join(err, discard(fresh))
	}
	if err := f.check(ctx, fresh); err != nil {
		return false, errors.Join(err, discard(fresh))
	}
	if exists {
		if err := backup(path); err != nil {
			return false, errors.Join(err, discard(fresh))
		}
	}
	if exists || !f.unread(ctx) {
		if err := f.recordOwed(path); err != nil {
			return false, errors.Join(err, discard(fresh))
		}
	}
	if err := os.Rename(fresh, path); err != nil {
		return false, errors.Join(fmt.Errorf("replace the last file: %w", err), discard(fresh))
	}
	return true, syncDir(filepath.Dir(path))
}

// notifies reports whether somebody is told of a change.
func (f *File) notifies() bool { return len(f.Command) > 0 || f.Reload != nil }

// told is who is told of a change, and how: what is equal is done once.
func (f *File) told() any {
	if f.Reload != nil {
		return f.Reload
	}
	return strings.Join(f.Command, "\x00")
}

// notify runs the command, or reloads HAProxy.
func (f *File) notify(ctx context.Context) error {
	if f.Reload == nil {
		return execute(ctx, f.Command, f.timeout())
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout())
	defer cancel()
	return f.Reload.Reload(ctx)
}

// unread reports whether a file that was not there is for an HAProxy that does not run:
// it will read it when it starts, and there is nobody to tell before.
func (f *File) unread(ctx context.Context) bool {
	return f.Reload != nil && !f.Reload.Running(ctx)
}

// recordOwed notes on disk that the command is to be run.
func (f *File) recordOwed(path string) error {
	if !f.notifies() {
		return nil
	}
	w, err := os.OpenFile(beside(path, owedSuffix), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("note that the command is to be run: %w", err)
	}
	defer w.Close()
	return nil // the directory is synced when the file is
}

// owed reports whether the command is to be run.
func (f *File) owed() bool {
	path, err := resolve(f.Destination)
	if err != nil || !f.notifies() {
		return false
	}
	_, err = os.Lstat(beside(path, owedSuffix))
	return err == nil
}

// clearOwed notes that the command has succeeded.
func (f *File) clearOwed() error {
	path, err := resolve(f.Destination)
	if err != nil {
		return err
	}
	return discard(beside(path, owedSuffix))
}

// exists reports whether the file is there, whatever it has; also when that cannot be
// found out.
func (f *File) exists() bool {
	_, err := os.Stat(f.Destination)
	return !errors.Is(err, fs.ErrNotExist)
}

// resolve follows a destination that is a symbolic link.
func resolve(path string) (string, error) {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	if err != nil {
		return "", fmt.Errorf("find the destination: %w", err)
	}
	return target, nil
}

// beside names a hidden file in the same directory, which is the same file
// system, so that it can be renamed.
func beside(path, suffix string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+suffix)
}

func discard(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the refused file: %w", err)
	}
	return nil
}

// backup keeps the last good file under another name; it stays where it is.
func backup(path string) error {
	old, link := beside(path, backupSuffix), beside(path, backupSuffix+"-link")
	if err := discard(link); err != nil {
		return err
	}
	if err := os.Link(path, link); err != nil {
		return fmt.Errorf("keep the last file: %w", err)
	}
	if err := os.Rename(link, old); err != nil {
		return fmt.Errorf("keep the last file: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open the directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	return nil
}

// owner is what a file's mode and owner are to be.
type owner struct {
	perms    fs.FileMode
	uid, gid int // -1: as it comes
}

func (f *File) owner(path string, exists bool) (owner, error) {
	o := owner{perms: cmp.Or(f.NewPerms.Perm(), defaultPerms), uid: -1, gid: -1}
	if exists {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return o, fmt.Errorf("read the last file's owner: %w", err)
		}
		o = owner{perms: fs.FileMode(st.Mode & 0o777), uid: int(st.Uid), gid: int(st.Gid)}
	}
	if f.Perms != 0 {
		o.perms = f.Perms.Perm()
	}
	var err error
	if f.User != "" {
		if o.uid, err = lookup(f.User, func(name string) (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		}); err != nil {
			return o, fmt.Errorf("find the file's user: %w", err)
		}
	}
	if f.Group != "" {
		if o.gid, err = lookup(f.Group, func(name string) (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		}); err != nil {
			return o, fmt.Errorf("find the file's group: %w", err)
		}
	}
	return o, nil
}

// lookup reads a number, or the number that a name stands for.
func lookup(s string, named func(string) (string, error)) (int, error) {
	if id, err := strconv.Atoi(s); err == nil {
		return id, nil
	}
	id, err := named(s)
	if err != nil {
		return -1, err
	}
	return strconv.Atoi(id)
}

// apply mends mode and owner of a file whose content is right.
func (o owner) apply(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("read the file's owner: %w", err)
	}
	if (o.uid >= 0 && int(st.Uid) != o.uid) || (o.gid >= 0 && int(st.Gid) != o.gid) {
		if err := os.Chown(path, o.uid, o.gid); err != nil {
			return fmt.Errorf("set the file's owner: %w", err)
		}
	}
	if fs.FileMode(st.Mode&0o777) != o.perms {
		if err := os.Chmod(path, o.perms); err != nil {
			return fmt.Errorf("set the file's mode: %w", err)
		}
	}
	return nil
}

// write makes a new file and syncs it. It follows no link: the directory may be
// one in which others write.
func (o owner) write(path string, content []byte) error {
	if err := discard(path); err != nil {
		return err
	}
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("create the new file: %w", err)
	}
	defer w.Close()
	if _, err := w.Write(content); err != nil {
		return fmt.Errorf("write the new file: %w", err)
	}
	// The owner first: a chown clears mode bits.
	if o.uid >= 0 || o.gid >= 0 {
		if err := w.Chown(o.uid, o.gid); err != nil {
			return fmt.Errorf("set the new file's owner: %w", err)
		}
	}
	if err := w.Chmod(o.perms); err != nil {
		return fmt.Errorf("set the new file's mode: %w", err)
	}
	if err := w.Sync(); err != nil {
		return fmt.Errorf("sync the new file: %w", err)
	}
	return nil
}

// check returns ErrRefused, with what the checker said, unless it accepts.
func (f *File) check(ctx context.Context, path string) error {
	if len(f.Check) == 0 {
		return nil
	}
	args := make([]string, len(f.Check))
	for i, a := range f.Check {
		args[i] = strings.ReplaceAll(a, "{}", path)
	}
	if err := execute(ctx, args, f.timeout()); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}

func (f *File) timeout() time.Duration {
	if f.Timeout <= 0 {
		return defaultTimeout
	}
	return f.Timeout
}

// CurrentContent returns what stands at the destination; nothing if there is
// no file.
func (f *File) CurrentContent() ([]byte, error) {
	r, err := os.Open(f.Destination)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the last file: %w", err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxRendered))
	if err != nil {
		return nil, fmt.Errorf("read the last file: %w", err)
	}
	return b, nil
}
