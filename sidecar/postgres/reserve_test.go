package postgres

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReserve: on a disk that is full a member can still promise a term, if it had the
// reserve, which comes back when there is room.
func TestReserve(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts a small disk, so it needs root")
	}
	for name, reserved := range map[string]bool{"with the reserve": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			m := newMember(t, "n1")
			disk := filepath.Dir(m.o.DataDir)
			must(t, unix.Mount("reserve", disk, "tmpfs", 0, "size=100m,mode=0755"))
			t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
			must(t, m.Promise(1, "", false))
			if reserved {
				must(t, m.KeepReserve())
				must(t, m.KeepReserve()) // there already
			}
			filler := filepath.Join(disk, "filler")
			fill(t, filler)
			err := m.Promise(2, "", true)
			if reserved && err != nil || !reserved && !errors.Is(err, ErrDiskFull) {
				t.Fatalf("promise on a full disk: %v", err)
			}
			if p, err := m.promised(); err != nil || (p.Term == 2) != reserved {
				t.Fatalf("promised %+v, %v", p, err)
			}
			must(t, m.KeepReserve()) // no room for it: no error
			if _, err := os.Stat(m.state("reserve")); err == nil {
				t.Error("the reserve is there on a full disk")
			}
			must(t, os.Remove(filler))
			must(t, m.KeepReserve())
			if info, err := os.Stat(m.state("reserve")); err != nil || info.Size() != reserveBytes {
				t.Errorf("the reserve did not come back: %v", err)
			}
			// A stop and a start find the disk full before they write.
			fill(t, filler)
			m.makeRoom()
			if room, err := m.free(disk); err != nil || room < reserveBytes {
				t.Errorf("room for %d bytes after it was made (%v)", room, err)
			}
		})
	}
}

// fill writes a file until nothing is free.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else {
			must(t, err)
		}
	}
}
