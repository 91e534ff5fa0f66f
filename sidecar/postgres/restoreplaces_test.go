package postgres

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// spread is backedUp with a tablespace, two that are only in the backup or only in the data,
// and pg_wal on another disk.
func spread(t *testing.T) (a *member, r Restoration, dirs map[string]string) {
	t.Helper()
	base := testDir(t)
	dirs = map[string]string{"stays": "", "dropped": "", "later": "", "wal": ""}
	a, r, copied := backedUpWith(t, toHere, func(a *member) {
		for name := range dirs {
			dirs[name] = filepath.Join(base, name)
			must(t, errors.Join(os.Mkdir(dirs[name], 0o700), a.own(dirs[name])))
		}
		must(t, a.own(base))
		must(t, a.Stop(soon(t), false))
		must(t, errors.Join(os.Rename(a.data("pg_wal"), dirs["wal"]+"/pg_wal"), os.Symlink(dirs["wal"]+"/pg_wal", a.data("pg_wal")), a.own(a.data("pg_wal"))))
		must(t, a.Start(soon(t), StartOptions{Primary: true}))
		a.up()
		a.sql("create tablespace stays location '" + dirs["stays"] + "'")
		a.sql("create tablespace dropped location '" + dirs["dropped"] + "'")
		a.sql("create table in_stays tablespace stays as select 1 as n; create table in_dropped tablespace dropped as select 1 as n")
	}, func(a *member) {
		a.sql("update in_stays set n = 2; drop table in_dropped; drop tablespace dropped")
		a.sql("create tablespace later location '" + dirs["later"] + "'")
		a.sql("create table in_later tablespace later as select 2 as n")
	})
	r.Spaces = []Space{}
	plain := r.Make
	oids := map[string]uint32{}
	links, err := os.ReadDir(filepath.Join(copied, "pg_tblspc"))
	must(t, err)
	for _, l := range links {
		dir, err := os.Readlink(filepath.Join(copied, "pg_tblspc", l.Name()))
		must(t, err)
		oid, err := strconv.ParseUint(l.Name(), 10, 32)
		must(t, err)
		name := filepath.Base(dir) // of the copy, where pg_basebackup has put it
		oids[name] = uint32(oid)
		r.Spaces = append(r.Spaces, Space{uint32(oid), dirs[name]})
	}
	r.Make = func(ctx context.Context, into string, p Program) error {
		if err := plain(ctx, into, p); err != nil {
			return err
		}
		for name, oid := range oids { // as pgBackRest does
			link := filepath.Join(into, "pg_tblspc", strconv.FormatUint(uint64(oid), 10))
			if err := errors.Join(os.Remove(link), os.Symlink(p.Spaces[oid], link), a.own(link)); err != nil {
				return err
			}
			if out, err := exec.CommandContext(ctx, "cp", "-a", filepath.Join(copied+".spaces", name)+"/.", p.Spaces[oid]).CombinedOutput(); err != nil {
				return errors.Join(err, errors.New(string(out)))
			}
		}
		return nil
	}
	return a, r, dirs
}

// rows are what a server has in its tablespaces: n of in_stays, and which others are there.
func (m *member) rows() string {
	m.t.Helper()
	must(m.t, m.Start(soon(m.t), StartOptions{Primary: true}))
	m.up()
	m.outOfRecovery()
	has := m.sql("select (select n from in_stays)::text || coalesce(string_agg(relname, ' ' order by relname), '') from pg_class where relname in ('in_dropped', 'in_later')")
	if tables := strings.Fields(has[1:]); len(tables) == 1 {
		has += m.sql("select n from " + tables[0])
	}
	must(m.t, m.Stop(soon(m.t), false))
	return has
}

// left are what a restore has left in the tablespaces and beside the log.
func left(t *testing.T, dirs map[string]string) (all []string) {
	t.Helper()
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			if strings.Contains(e.Name(), "pgsidecar") {
				all = append(all, filepath.Join(dir, e.Name()))
			}
		}
	}
	return all
}

const (
	rowsBefore = "1in_dropped1"
	rowsNow    = "2in_later2"
)

// TestRestoreSpread: a restore puts tablespaces and the log where they were, whatever has
// become of them since the backup, keeps those that are there, and is undone.
func TestRestoreSpread(t *testing.T) {
	a, r, dirs := spread(t)
	must(t, a.Restore(soon(t), r))
	if got := a.rows(); got != rowsBefore {
		t.Errorf("restored: %s", got)
	}
	if to, err := os.Readlink(a.data("pg_wal")); err != nil || to != dirs["wal"]+"/pg_wal" {
		t.Errorf("pg_wal leads to %s, %v", to, err)
	}
	must(t, a.Discard(soon(t)))
	if got := a.rows(); got != rowsNow || len(left(t, dirs)) > 0 {
		t.Errorf("given up: %s, left %v", got, left(t, dirs))
	}
	r.ID, r.Timeline = "r2", 8
	must(t, a.Restore(soon(t), r))
	if got := a.rows(); got != rowsBefore {
		t.Errorf("restored again: %s", got)
	}
	if len(left(t, dirs)) == 0 {
		t.Error("nothing is kept")
	}
	must(t, a.Settle("r2"))
	if got := a.rows(); got != rowsBefore || len(left(t, dirs)) > 0 {
		t.Errorf("settled: %s, left %v", got, left(t, dirs))
	}
}

// TestRestoreSpreadCutOff: whatever step a restore or its undoing is cut off at, the next
// start has the old data or the restored, whole.
func TestRestoreSpreadCutOff(t *testing.T) {
	a, r, dirs := spread(t)
	cut := errors.New("cut off")
	cutAt := func(after int) (steps *int) {
		steps = new(int)
		a.stepped = func(string) error {
			if *steps++; *steps == after {
				return cut
			}
			return nil
		}
		return steps
	}
	for after := 1; ; after++ {
		cutAt(after)
		err := a.Restore(soon(t), r)
		a.stepped = nil
		if err == nil {
			if after < 5 {
				t.Errorf("a restore has %d steps", after)
			}
			break
		}
		if !errors.Is(err, cut) {
			t.Fatalf("step %d: %v", after, err)
		}
		must(t, a.Discard(soon(t)))
		want := rowsNow
		if a.inspect().Restored != "" {
			want = rowsBefore
		}
		if got := a.rows(); got != want {
			t.Fatalf("restore, cut off at step %d: %s, not %s", after, got, want)
		}
		must(t, a.Discard(soon(t)))
		if got := left(t, dirs); len(got) > 0 {
			t.Fatalf("restore, cut off at step %d and undone, left %v", after, got)
		}
		r.Timeline++
	}
	for after := 1; ; after++ {
		cutAt(after)
		err := a.Discard(soon(t))
		a.stepped = nil
		if err != nil && !errors.Is(err, cut) {
			t.Fatalf("step %d: %v", after, err)
		}
		must(t, a.Discard(soon(t)))
		if got := a.rows(); got != rowsNow || len(left(t, dirs)) > 0 {
			t.Fatalf("undone, cut off at step %d: %s, left %v", after, got, left(t, dirs))
		}
		if err == nil {
			break
		}
		r.Timeline++
		must(t, a.Restore(soon(t), r))
	}
}

// TestRestorePlaces: what cannot be kept aside is refused, with what to do.
func TestRestorePlaces(t *testing.T) {
	a, r, dirs := spread(t)
	must(t, a.RoomToRestore(r))
	refused := func(what string, says ...string) {
		t.Helper()
		err := a.RoomToRestore(r)
		if !errors.Is(err, ErrNoRoom) {
			t.Errorf("%s: %v", what, err)
			return
		}
		for _, words := range says {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%s: no %q in %v", what, words, err)
			}
		}
	}
	spaces := r.Spaces
	r.Spaces = nil
	refused("a program that places nothing", "has tablespaces")
	r.Spaces = append([]Space{{1, filepath.Join(a.base, "nowhere")}}, spaces...)
	refused("a directory that is gone", "nowhere", "mount its disk")
	other := filepath.Join(dirs["dropped"], "PG_"+strconv.Itoa(a.version)+"_1")
	must(t, os.Mkdir(other, 0o700))
	r.Spaces = spaces
	refused("another server's", "PG_", "move that away")
	must(t, os.Remove(other))
	if os.Geteuid() != 0 {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: its mounts end with the goroutine
		mount := func(args ...string) error { return exec.Command("mount", args...).Run() }
		if err := errors.Join(syscall.Unshare(syscall.CLONE_NEWNS), mount("--make-rprivate", "/"), mount("--bind", dirs["stays"], dirs["stays"])); err != nil {
			t.Error(err)
			return
		}
		if err := a.RoomToRestore(r); err != nil {
			t.Errorf("a tablespace with a disk of its own: %v", err)
		}
		if err := mount("-t", "tmpfs", "none", dirs["wal"]+"/pg_wal"); err != nil {
			t.Error(err)
			return
		}
		refused("pg_wal is a mount point", "pg_wal: ", "is a mount point", "move what is in it to")
	}()
	<-done
	must(t, errors.Join(os.Rename(a.o.DataDir, a.o.DataDir+".real"), os.Symlink(a.o.DataDir+".real", a.o.DataDir)))
	refused("data_dir is a link", "is a symbolic link", "data_dir")
	must(t, errors.Join(os.Remove(a.o.DataDir), os.Rename(a.o.DataDir+".real", a.o.DataDir)))
	if f := a.inspect(); f.DataDir != ha.DataPresent {
		t.Errorf("%+v", f)
	}
}
