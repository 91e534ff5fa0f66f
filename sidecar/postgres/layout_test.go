package postgres

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestLayouts: how an operator has spread a member's data over disks is kept by a clone, a
// clone that was cut off, and a rewind; or it is refused before anything is removed.
func TestLayouts(t *testing.T) {
	a := newPrimary(t, "n1", func(o *Options) { o.DataDir = filepath.Join(filepath.Dir(o.DataDir), "Daten für größe") })
	// away moves a part of a stopped member's data, and leaves a link.
	away := func(t *testing.T, b *member, name string) string {
		to := filepath.Join(b.base, "disk-of-"+name)
		if err := os.Rename(b.data(name), to); err != nil {
			must(t, errors.Join(os.Mkdir(to, 0o700), b.own(to)))
		}
		must(t, errors.Join(os.Symlink(to, b.data(name)), b.own(b.data(name))))
		return to
	}
	is := func(t *testing.T, b *member, name, to string) {
		t.Helper()
		if got, err := os.Readlink(b.data(name)); err != nil || got != to {
			t.Errorf("%s: %q, %v; want a link to %s", name, got, err, to)
		}
	}
	standby := func(t *testing.T, name string) *member {
		b := newMember(t, name)
		must(t, b.Clone(soon(t), a.source(), nil))
		must(t, b.Start(soon(t), StartOptions{}))
		b.up()
		must(t, b.Stop(soon(t), false))
		return b
	}
	runs := func(t *testing.T, b *member) {
		must(t, b.Start(soon(t), StartOptions{}))
		b.up()
		must(t, b.Stop(soon(t), false))
	}
	t.Run("log on its own disk", func(t *testing.T) {
		b := standby(t, "n2")
		wal, log := away(t, b, "pg_wal"), away(t, b, "log")
		must(t, os.WriteFile(filepath.Join(log, "mine"), nil, 0o600))
		runs(t, b)
		for range 2 {
			must(t, b.Clone(soon(t), a.source(), nil))
			is(t, b, "pg_wal", wal)
			is(t, b, "log", log)
			// The next is cut off: what it left is removed, and the one after it is whole.
			ctx, cut := context.WithCancelCause(soon(t))
			if err := b.Clone(ctx, a.source(), func(int64, int64) { cut(errors.New("cut off")) }); err == nil {
				t.Log("the clone was done before it was cut off")
				continue
			}
			must(t, b.Discard(soon(t)))
		}
		if f := b.inspect(); f.DataDir == ha.DataAbsent {
			must(t, b.Clone(soon(t), a.source(), nil))
		}
		is(t, b, "pg_wal", wal)
		is(t, b, "log", log)
		if _, err := os.Stat(filepath.Join(log, "mine")); err != nil {
			t.Error(err)
		}
		runs(t, b)
	})
	t.Run("log where the configuration says", func(t *testing.T) {
		b := newMember(t, "n7", func(o *Options) {
			o.WAL.Dir = filepath.Join(filepath.Dir(o.DataDir), "a disk for wal")
			o.WAL.BaseBackup = []string{"--max-rate=900M", "--compress=server-lz4", "--checkpoint=fast"}
		})
		wal := b.o.WAL.Dir
		precious := filepath.Join(wal, "precious")
		must(t, errors.Join(os.Mkdir(wal, 0o755), os.WriteFile(precious, nil, 0o600)))
		for name, do := range map[string]func() error{"initdb": func() error { return b.Init(soon(t)) }, "clone": func() error { return b.Clone(soon(t), a.source(), nil) }} {
			if err := do(); !errors.Is(err, ErrNotEmpty) {
				t.Errorf("%s into what is not empty: %v", name, err)
			}
			must(t, b.Discard(soon(t)))
		}
		must(t, os.Remove(precious))
		must(t, b.Init(soon(t)))
		is(t, b, "pg_wal", wal)
		must(t, b.Start(soon(t), StartOptions{Primary: true}))
		b.up()
		must(t, b.Stop(soon(t), false))
		must(t, b.Discard(soon(t))) // another member has founded the cluster
		if left, err := os.ReadDir(wal); err != nil || len(left) > 0 {
			t.Errorf("left of what initdb made: %v, %v", left, err)
		}
		must(t, b.Clone(soon(t), a.source(), nil))
		is(t, b, "pg_wal", wal)
		runs(t, b)
		must(t, b.Clone(soon(t), a.source(), nil)) // over data that are there
		is(t, b, "pg_wal", wal)
		runs(t, b)
	})
	t.Run("a group that may read", func(t *testing.T) {
		must(t, a.Stop(soon(t), false))
		must(t, filepath.WalkDir(a.o.DataDir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.Type()&os.ModeSymlink != 0 {
				return err
			}
			return os.Chmod(path, map[bool]os.FileMode{true: 0o750, false: 0o640}[d.IsDir()])
		}))
		must(t, a.Start(soon(t), StartOptions{Primary: true}))
		a.up()
		b := standby(t, "n5")
		if info, err := os.Stat(b.o.DataDir); err != nil || info.Mode().Perm() != 0o750 {
			t.Errorf("the copy's directory: %v, %v", info.Mode(), err)
		}
	})
	t.Run("lost+found", func(t *testing.T) {
		b := newMember(t, "n6")
		must(t, errors.Join(os.MkdirAll(b.data("lost+found"), 0o700), b.own(b.o.DataDir)))
		if f := b.inspect(); f.DataDir != ha.DataForeign || !strings.Contains(f.Problem, "has lost+found") {
			t.Errorf("%+v", f)
		}
		c := standby(t, "n7")
		real := c.o.DataDir + ".disk" // not to be replaced by a rename
		must(t, errors.Join(os.Rename(c.o.DataDir, real), os.Symlink(real, c.o.DataDir), os.Mkdir(c.data("lost+found"), 0o700)))
		if err := c.Clone(soon(t), a.source(), nil); err == nil || !strings.Contains(err.Error(), "has lost+found") {
			t.Errorf("clone: %v", err)
		}
		runs(t, c) // nothing was removed
	})
	t.Run("links in the place of data", func(t *testing.T) { dataLinks(t, a) })
	t.Run("tablespaces", func(t *testing.T) { tablespaces(t, a) })
}

// tablespaces: a clone that was cut off leaves nothing in them that stops the next one.
func tablespaces(t *testing.T, a *member) {
	if os.Geteuid() != 0 {
		t.Skip("two members with a tablespace at one path need mount namespaces, and those root")
	}
	space := filepath.Join(a.base, "space")
	must(t, errors.Join(os.Mkdir(space, 0o700), a.own(space)))
	a.sql("create tablespace ts location '" + space + "'; create table in_ts tablespace ts as select generate_series(1, 1000) n")
	b := newMember(t, "n8")
	source := a.source()
	source.Spaces = []string{space}
	// Without a disk of its own at that path it would write into the primary's.
	if err := b.Clone(soon(t), source, nil); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Fatalf("a clone into the primary's own tablespace: %v", err)
	}
	must(t, b.Discard(soon(t)))
	if a.sql("select count(*) from in_ts") != "1000" {
		t.Fatal("the primary's rows are gone")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: it ends with the goroutine
		if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
			t.Error(err)
			return
		}
		own := filepath.Join(b.base, "own-disk")
		err := errors.Join(os.Mkdir(own, 0o700), b.own(own), exec.Command("mount", "--make-rprivate", "/").Run(), exec.Command("mount", "--bind", own, space).Run())
		if err != nil {
			t.Error(err)
			return
		}
		ctx, cut := context.WithCancelCause(soon(t))
		if err := b.Clone(ctx, source, func(int64, int64) { cut(errors.New("cut off")) }); err == nil {
			t.Error("the clone was not cut off")
			return
		}
		half := filepath.Join(space, "PG_15_202209061", "5")
		if b.version == 15 { // whatever it had written by then
			if err := os.MkdirAll(half, 0o700); err != nil {
				t.Error(err)
			}
		}
		if err := errors.Join(b.Discard(soon(t)), b.Clone(soon(t), source, nil)); err != nil {
			t.Errorf("the clone after one that was cut off: %v", err)
		}
		if files, err := filepath.Glob(filepath.Join(space, "PG_*")); err != nil || len(files) != 1 {
			t.Errorf("in the tablespace: %q, %v", files, err)
		}
	}()
	<-done
}
