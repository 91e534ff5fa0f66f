// Package rights does what is done to files in directories of another user with that
// user's rights.
//
// The data and state directories belong to PostgreSQL's user, and so to anyone who is
// superuser in SQL: a symbolic link there must not make a process of root read or write
// what that user could not. So each operation on a path there is done by the kernel's
// file system identity of that user (setfsuid(2)), groups included, for as long as the
// call lasts, on a thread of its own. What is opened stays open with the rights it was
// opened with. In a process that is not root's it is the plain operation.
package rights

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// User is whose rights are used; the zero value: this process's own.
type User struct {
	uid, gid uint32
	groups   []uint32
	other    bool // not this process's own
}

// Of returns the user with these numbers, with the groups that the system gives it.
func Of(uid, gid uint32) User {
	if os.Geteuid() != 0 || uid == 0 {
		return User{}
	}
	u := User{uid: uid, gid: gid, groups: []uint32{gid}, other: true}
	known, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return u // a number without a name has no other groups
	}
	ids, err := known.GroupIds()
	if err != nil {
		return u
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			u.groups = append(u.groups, uint32(n))
		}
	}
	return u
}

// OwnerOf returns the user who owns a directory: who may put a link into it anyhow. One
// that is not there is nobody else's.
func OwnerOf(dir string) User {
	info, err := os.Stat(dir)
	if err != nil {
		return User{}
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return User{}
	}
	return Of(stat.Uid, stat.Gid)
}

// Do calls f, which must start no goroutine that touches files, with the user's rights.
func (u User) Do(f func() error) error {
	if !u.other {
		return f()
	}
	runtime.LockOSThread() // the rights are the thread's
	defer runtime.UnlockOSThread()
	own, err := unix.Getgroups()
	if err != nil {
		return fmt.Errorf("take the rights of user %d: %w", u.uid, err)
	}
	defer restore(own)
	if err := errors.Join(setGroups(u.groups), unix.Setfsgid(int(u.gid)), unix.Setfsuid(int(u.uid))); err != nil {
		return fmt.Errorf("take the rights of user %d: %w", u.uid, err)
	}
	return f()
}

// restore takes the thread's own rights back, which the kernel cannot refuse to root.
func restore(groups []int) {
	numbers := make([]uint32, len(groups))
	for i, g := range groups {
		numbers[i] = uint32(g)
	}
	if err := errors.Join(unix.Setfsuid(os.Geteuid()), unix.Setfsgid(os.Getegid()), setGroups(numbers)); err != nil {
		panic(fmt.Sprintf("take back this process's own rights: %v", err))
	}
}

// setGroups sets the groups of the calling thread alone: syscall.Setgroups, as all that
// POSIX knows, sets those of the process.
func setGroups(groups []uint32) error {
	var first *uint32
	if len(groups) > 0 {
		first = &groups[0]
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(first)), 0); errno != 0 {
		return errno
	}
	return nil
}

// with calls f with the user's rights and returns what it returns.
func with[T any](u User, f func() (T, error)) (v T, err error) {
	err = u.Do(func() (err error) {
		v, err = f()
		return err
	})
	return v, err
}

// ReadFile is os.ReadFile.
func (u User) ReadFile(name string) ([]byte, error) {
	return with(u, func() ([]byte, error) { return os.ReadFile(name) })
}

// ReadOwn is ReadFile for a file of ours, which an earlier release may have made as root:
// such a one is read as root, if it is one file, plain, and no link leads to it.
func (u User) ReadOwn(name string) ([]byte, error) {
	content, err := u.ReadFile(name)
	if !u.other || !errors.Is(err, fs.ErrPermission) {
		return content, err
	}
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return nil, fmt.Errorf("look at %s: %w", name, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Nlink != 1 || stat.Uid != 0 {
		return nil, fmt.Errorf("read %s: %w", name, fs.ErrPermission)
	}
	content = make([]byte, stat.Size)
	n, err := f.ReadAt(content, 0)
	if n < len(content) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return content, nil
}

// Open is os.Open.
func (u User) Open(name string) (*os.File, error) {
	return with(u, func() (*os.File, error) { return os.Open(name) })
}

// OpenFile is os.OpenFile.
func (u User) OpenFile(name string, flag int, mode fs.FileMode) (*os.File, error) {
	return with(u, func() (*os.File, error) { return os.OpenFile(name, flag, mode) })
}

// CreateTemp is os.CreateTemp.
func (u User) CreateTemp(dir, pattern string) (*os.File, error) {
	return with(u, func() (*os.File, error) { return os.CreateTemp(dir, pattern) })
}

// MkdirTemp is os.MkdirTemp.
func (u User) MkdirTemp(dir, pattern string) (string, error) {
	return with(u, func() (string, error) { return os.MkdirTemp(dir, pattern) })
}

// Mkdir is os.Mkdir.
func (u User) Mkdir(name string, mode fs.FileMode) error {
	return u.Do(func() error { return os.Mkdir(name, mode) })
}

// Stat is os.Stat.
func (u User) Stat(name string) (fs.FileInfo, error) {
	return with(u, func() (fs.FileInfo, error) { return os.Stat(name) })
}

// Lstat is os.Lstat.
func (u User) Lstat(name string) (fs.FileInfo, error) {
	return with(u, func() (fs.FileInfo, error) { return os.Lstat(name) })
}

// ReadDir is os.ReadDir.
func (u User) ReadDir(name string) ([]fs.DirEntry, error) {
	return with(u, func() ([]fs.DirEntry, error) { return os.ReadDir(name) })
}

// Readlink is os.Readlink.
func (u User) Readlink(name string) (string, error) {
	return with(u, func() (string, error) { return os.Readlink(name) })
}

// EvalSymlinks is filepath.EvalSymlinks.
func (u User) EvalSymlinks(name string) (string, error) {
	return with(u, func() (string, error) { return filepath.EvalSymlinks(name) })
}

// Glob is filepath.Glob.
func (u User) Glob(pattern string) ([]string, error) {
	return with(u, func() ([]string, error) { return filepath.Glob(pattern) })
}

// WalkDir is filepath.WalkDir; f is called with the user's rights.
func (u User) WalkDir(root string, f fs.WalkDirFunc) error {
	return u.Do(func() error { return filepath.WalkDir(root, f) })
}

// Symlink is os.Symlink.
func (u User) Symlink(to, name string) error {
	return u.Do(func() error { return os.Symlink(to, name) })
}

// Link is os.Link.
func (u User) Link(from, name string) error {
	return u.Do(func() error { return os.Link(from, name) })
}

// Chmod is os.Chmod.
func (u User) Chmod(name string, mode fs.FileMode) error {
	return u.Do(func() error { return os.Chmod(name, mode) })
}

// Rename is os.Rename.
func (u User) Rename(from, to string) error {
	return u.Do(func() error { return os.Rename(from, to) })
}

// Remove is os.Remove.
func (u User) Remove(name string) error {
	return u.Do(func() error { return os.Remove(name) })
}

// RemoveAll is os.RemoveAll.
func (u User) RemoveAll(name string) error {
	return u.Do(func() error { return os.RemoveAll(name) })
}
