package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotBreakable is returned by what needs Options.Breakable.
var ErrNotBreakable = errors.New("this lab has no disks that can be filled, no archive and no ACLs (lab up --breakable, as root)")

// diskBytes is the size of a member's disk while it is not full. It is in
// memory, which it takes only as far as it is used.
const diskBytes = 4 << 30

// disk returns where a member's disk is mounted: the folder of its data
// directory, so that a clone beside it is on the same disk.
func disk(h Host) string { return filepath.Dir(h.DataDir()) }

// mountDisk gives a member a file system of its own: one in an image where it is to
// hang, else plain memory.
func (l *Lab) mountDisk(ctx context.Context, h Host) error {
	if !l.plan.Hangable {
		return l.mountMemory(h, disk(h))
	}
	return l.mountImage(ctx, h)
}

// mountMemory mounts a file system in memory in a folder that is there.
func (l *Lab) mountMemory(h Host, path string) error {
	if err := l.record(entry{What: madeMount, Name: path}); err != nil {
		return err
	}
	if err := unix.Mount("pgsidecar-lab", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=0700", diskBytes)); err != nil {
		return fmt.Errorf("mount the disk of %s: %w", h.Name, err)
	}
	return nil
}

// FillDisk takes all that is free on a member's disk: the next block that
// PostgreSQL asks for is refused with ENOSPC.
func (l *Lab) FillDisk(host string) error {
	h, err := l.breakableMember(host)
	if err != nil {
		return err
	}
	if l.plan.Hangable {
		return l.fillImage(h)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(disk(h), &s); err != nil {
		return fmt.Errorf("look at the disk of %s: %w", host, err)
	}
	return l.resizeDisk(h, (s.Blocks-s.Bfree)*uint64(s.Bsize))
}

// FreeDisk gives a member its whole disk back.
func (l *Lab) FreeDisk(host string) error {
	h, err := l.breakableMember(host)
	if err != nil {
		return err
	}
	if l.plan.Hangable {
		return emptyImage(h)
	}
	return l.resizeDisk(h, diskBytes)
}

// Promise returns the highest term that a member has promised on its disk: it has
// stopped its server or told it whom to follow since that term began. 0: none yet.
func (l *Lab) Promise(host string) (int, error) {
	h, err := l.plan.Host(host)
	if err != nil {
		return 0, err
	}
	b, err := os.ReadFile(filepath.Join(h.stateDir(), "promise"))
	var p struct{ Term int }
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		return 0, fmt.Errorf("read what %s has promised: %w", host, err)
	}
	return p.Term, nil
}

func (l *Lab) resizeDisk(h Host, size uint64) error {
	// The kernel refuses a size that is too small by then: PostgreSQL has
	// written meanwhile. A few blocks more are soon used too.
	var err error
	for spare := uint64(0); spare <= 64<<20; spare = 2*spare + 1<<20 {
		flags := uintptr(unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV)
		if err = unix.Mount("pgsidecar-lab", disk(h), "tmpfs", flags, fmt.Sprintf("size=%d", size+spare)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("resize the disk of %s: %w", h.Name, err)
}

func (l *Lab) breakableMember(host string) (Host, error) {
	h, err := l.plan.Host(host)
	if err != nil {
		return Host{}, err
	}
	if !l.plan.Breakable || h.Kind != KindMember {
		return Host{}, fmt.Errorf("%s: %w", host, ErrNotBreakable)
	}
	return h, nil
}

// unmountDisks takes away what the journal names. What is not mounted is no
// error: it may have been killed before.
func unmountDisks(entries []entry) error {
	var errs []error
	for _, e := range slices.Backward(entries) {
		if e.What != madeMount {
			continue
		}
		// Lazily: a process that looks into it keeps it for itself.
		err := unix.Unmount(e.Name, unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", e.Name, err))
		}
	}
	return errors.Join(errs...)
}

// archiveDir is where the members archive WAL to: one place for all.
func (p *Plan) archiveDir() string { return filepath.Join(p.Dir, "archive") }

// archiveBlock is the file whose presence makes archive_command fail on a host.
func archiveBlock(h Host) string { return filepath.Join(h.Dir, "archive-blocked") }

// archiveCommand is what PostgreSQL runs for each segment of WAL: as its
// documentation shows, and it fails while the archive is blocked. Only the names
// are kept.
func (p *Plan) archiveCommand(h Host) string {
	return fmt.Sprintf("test ! -e %s && touch %s/%%f", archiveBlock(h), p.archiveDir())
}

// makeArchive makes the folder that the members archive to.
func (l *Lab) makeArchive() error {
	if err := os.MkdirAll(l.plan.archiveDir(), 0o755); err != nil {
		return fmt.Errorf("make the archive: %w", err)
	}
	return l.own(l.plan.archiveDir())
}

// BlockArchive makes every attempt to archive WAL on a host fail, or not.
func (l *Lab) BlockArchive(host string, blocked bool) error {
	h, err := l.breakableMember(host)
	if err != nil {
		return err
	}
	if blocked {
		err = os.WriteFile(archiveBlock(h), nil, 0o644)
	} else if err = os.Remove(archiveBlock(h)); errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("block the archive of %s: %w", host, err)
	}
	return nil
}

// WaitingForArchive returns how many segments a member keeps because they are
// not archived yet.
func (l *Lab) WaitingForArchive(host string) (int, error) {
	h, err := l.plan.Host(host)
	if err != nil {
		return 0, err
	}
	ready, err := filepath.Glob(filepath.Join(h.DataDir(), "pg_wal", "archive_status", "*.ready"))
	if err != nil {
		return 0, fmt.Errorf("look at what %s has to archive: %w", host, err)
	}
	return len(ready), nil
}

// DamageWAL overwrites each WAL segment of a member whose
// server does not run: nothing in it can be read back, not even the checkpoint
// that the server starts from. It returns how many segments there were.
func (l *Lab) DamageWAL(host string) (int, error) {
	h, err := l.plan.Host(host)
	if err != nil {
		return 0, err
	}
	if _, err := l.PID(host, Postgres); !errors.Is(err, ErrNotRunning) {
		return 0, errors.Join(err, fmt.Errorf("damage the WAL of %s: its server runs", host))
	}
	names, err := os.ReadDir(filepath.Join(h.DataDir(), "pg_wal"))
	if err != nil {
		return 0, fmt.Errorf("damage the WAL of %s: %w", host, err)
	}
	damaged := 0
	for _, name := range names {
		if len(name.Name()) != 24 || strings.Contains(name.Name(), ".") {
			continue // not a segment
		}
		if err := overwrite(filepath.Join(h.DataDir(), "pg_wal", name.Name())); err != nil {
			return damaged, fmt.Errorf("damage the WAL of %s: %w", host, err)
		}
		damaged++
	}
	return damaged, nil
}

// overwrite fills a file with what is no WAL.
func overwrite(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	rubbish := make([]byte, 1<<16)
	for i := range rubbish {
		rubbish[i] = 0xa5
	}
	for at := int64(0); at < info.Size() && err == nil; at += int64(len(rubbish)) {
		_, err = f.WriteAt(rubbish[:min(int64(len(rubbish)), info.Size()-at)], at)
	}
	return errors.Join(err, f.Close())
}

// SignalHost sends a signal to every process of a host: SIGSTOP and SIGCONT are
// a virtual machine that stands still, and goes on.
func (l *Lab) SignalHost(ctx context.Context, host string, sig unix.Signal) error {
	h, err := l.plan.Host(host)
	if err != nil {
		return err
	}
	// Twice: a process may have started another while the list was made.
	for range 2 {
		all, err := l.processes(h)
		if err != nil {
			return err
		}
		for _, p := range all {
			err = errors.Join(err, p.signal(sig))
			p.close()
		}
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}
