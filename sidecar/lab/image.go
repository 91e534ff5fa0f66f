package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrNotHangable is returned by what needs Plan.Hangable.
var ErrNotHangable = errors.New("this lab has no disks that can hang (lab up --breakable, as root, where there are loop devices and mkfs.ext4: apt-get install e2fsprogs)")

// canMountImages reports whether this machine has what mountImage needs.
func canMountImages() bool {
	_, err := exec.LookPath("mkfs.ext4")
	_, err2 := os.Stat("/dev/loop-control")
	return errors.Join(err, err2) == nil
}

// mountImage gives a member an ext4 file system in an image that is in memory. It
// needs no journal: it never outlives the machine.
func (l *Lab) mountImage(ctx context.Context, h Host) error {
	folder := filepath.Join(h.Dir, "disk")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("make the disk of %s: %w", h.Name, err)
	}
	if err := l.mountMemory(h, folder); err != nil {
		return err
	}
	image := filepath.Join(folder, "image")
	f, err := os.OpenFile(image, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make the disk of %s: %w", h.Name, err)
	}
	if err := errors.Join(f.Truncate(diskBytes*15/16), f.Close()); err != nil {
		return fmt.Errorf("make the disk of %s: %w", h.Name, err)
	}
	if err := run(ctx, "", "mkfs.ext4", "-q", "-m", "0", "-N", "65536", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", image); err != nil {
		return fmt.Errorf("make the disk of %s: %w", h.Name, err)
	}
	if err := l.record(entry{What: madeMount, Name: disk(h)}); err != nil {
		return err
	}
	if err := run(ctx, "", "mount", "-t", "ext4", "-o", "loop,nosuid,nodev,noatime,discard,noinit_itable", image, disk(h)); err != nil {
		return fmt.Errorf("mount the disk of %s: %w", h.Name, err)
	}
	if err := errors.Join(os.Remove(filepath.Join(disk(h), "lost+found")), os.Chmod(disk(h), 0o700)); err != nil {
		return fmt.Errorf("make the disk of %s: %w", h.Name, err)
	}
	return nil
}

// filler is the file that takes what is free on a disk that is full.
func filler(h Host) string { return filepath.Join(disk(h), "filler") }

// fillImage takes what is free, down to the last block: what is requested meanwhile
// is taken too.
func (l *Lab) fillImage(h Host) error {
	f, err := os.OpenFile(filler(h), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("fill the disk of %s: %w", h.Name, err)
	}
	defer f.Close() // nothing is written to it
	var end int64
	for step := int64(diskBytes); step >= 4096; {
		err := unix.Fallocate(int(f.Fd()), 0, end, step)
		switch {
		case err == nil:
			end += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("fill the disk of %s: %w", h.Name, err)
		}
	}
	return nil
}

// emptyImage gives back what fillImage took.
func emptyImage(h Host) error {
	if err := os.Remove(filler(h)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("free the disk of %s: %w", h.Name, err)
	}
	return nil
}

// The requests of ioctl_fsfreeze in linux/fs.h.
const (
	fifreeze = 0xc0045877
	fithaw   = 0xc0045878
)

// HangDisk lets every write to a member's disk wait, as a volume does whose storage
// is gone; ThawDisk lets it go on.
func (l *Lab) HangDisk(host string) error {
	h, err := l.breakableMember(host)
	if err != nil {
		return err
	}
	if !l.plan.Hangable {
		return fmt.Errorf("%s: %w", host, ErrNotHangable)
	}
	if err := freeze(disk(h), fifreeze); err != nil {
		return fmt.Errorf("hang the disk of %s: %w", host, err)
	}
	return nil
}

// ThawDisk lets a disk that hangs go on. That it did not hang is no error.
func (l *Lab) ThawDisk(host string) error {
	h, err := l.breakableMember(host)
	if err != nil {
		return err
	}
	if err := freeze(disk(h), fithaw); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("let the disk of %s go on: %w", host, err)
	}
	return nil
}

// thawDisks lets all go on that the journal names, as far as they hang: most do not,
// and then the kernel refuses, as it does for what is not mounted any more.
func thawDisks(entries []entry) {
	for _, e := range entries {
		if e.What == madeMount {
			_ = freeze(e.Name, fithaw)
		}
	}
}

func freeze(path string, request uint) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close() // only asked
	return unix.IoctlSetInt(int(d.Fd()), request, 0)
}
