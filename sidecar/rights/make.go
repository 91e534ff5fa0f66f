package rights

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Replace writes a file so that after a crash of this process the old or the new one is
// there, whole; only the user reads it. It is not synced.
func (u User) Replace(name string, content []byte) error {
	return u.replace(name, content, func(*os.File) error { return nil })
}

// ReplaceSync is Replace, and the content, though not yet its name, outlives the
// machine's fall.
func (u User) ReplaceSync(name string, content []byte) error {
	return u.replace(name, content, (*os.File).Sync)
}

func (u User) replace(name string, content []byte, sync func(*os.File) error) error {
	f, err := u.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer u.Remove(f.Name()) // of no effect after the rename
	_, err = f.Write(content)
	if err = errors.Join(err, sync(f), f.Close()); err != nil {
		return err
	}
	return u.Rename(f.Name(), name)
}

// Append opens a log of ours to write at its end, and makes it if it is not there. One of
// more than limit bytes, or that an earlier release has made as root, is renamed first.
func (u User) Append(name string, limit int64) (*os.File, error) {
	open := func() (*os.File, error) { return u.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600) }
	if info, err := u.Stat(name); err == nil && info.Size() > limit {
		if err := u.Rename(name, name+".1"); err != nil {
			return nil, err
		}
	}
	f, err := open()
	if u.other && errors.Is(err, fs.ErrPermission) && u.Rename(name, name+".1") == nil {
		f, err = open()
	}
	return f, err
}

// RemoveTree removes a directory with all that is in it, which is the user's; its own name
// may be in a directory of another's.
func (u User) RemoveTree(path string) error {
	err := u.RemoveAll(path)
	if u.other && errors.Is(err, fs.ErrPermission) { // it is empty now, or Remove refuses
		return OwnerOf(filepath.Dir(path)).Remove(path)
	}
	return err
}

// OpenLock opens a file that is only locked, never read or written. Unlike all else it is
// opened with this process's rights, as one of an earlier release is root's and may be
// locked; a link is not followed.
func OpenLock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%w: it is a symbolic link, which pgsidecar does not make: remove it", err)
	}
	return f, err
}

// MakeDir makes a directory of the user's that nobody else may enter, and makes sure of
// both if it is there. One that root has made, for instance by mounting a file system, is
// given to the user, but not one that a link leads to and that has something in it. Another
// user's is ErrOwner.
func (u User) MakeDir(path string) error {
	err := u.Do(func() error { return os.MkdirAll(path, 0o700) })
	if u.other && errors.Is(err, fs.ErrPermission) { // the directories above are not the user's
		err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.MkdirAll(path, 0o700))
	}
	if err != nil {
		return err
	}
	if err := u.give(path); err != nil {
		return err
	}
	return u.Chmod(path, 0o700)
}

// ErrOwner says that a directory belongs to somebody else.
var ErrOwner = errors.New("not a directory of the user who runs PostgreSQL")

// give makes sure that a directory is the user's, through a descriptor, so that what was
// looked at is what is given away.
func (u User) give(path string) error {
	straight := true
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // an old kernel, or a container's filter
		straight = false
		fd, err = unix.Open(path, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrOwner, err)
	}
	dir := os.NewFile(uintptr(fd), path)
	defer dir.Close() // only looked at
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	mine, roots := uint32(os.Geteuid()), u.other && stat.Uid == 0
	if u.other {
		mine = u.uid
	}
	if stat.Uid == mine {
		return nil
	}
	entries, err := dir.ReadDir(2)
	if empty := len(entries) == 0 || len(entries) == 1 && entries[0].Name() == "lost+found"; !roots || !straight && !empty {
		return fmt.Errorf("%s: %w: it is user %d's", path, ErrOwner, stat.Uid)
	}
	_ = err // the end of an empty directory
	return dir.Chown(int(u.uid), int(u.gid))
}
