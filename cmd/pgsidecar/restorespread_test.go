package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// moveLog puts a member's pg_wal on another disk, as an operator does it.
func (s *saved) moveLog(member, to string) {
	s.t.Helper()
	s.lose(member)
	link := filepath.Join(s.host(member).DataDir(), "pg_wal")
	if err := errors.Join(os.Rename(link, to), os.Symlink(to, link)); err != nil {
		s.t.Fatal(err)
	}
	if err := s.Start(s.within(time.Minute), member, lab.Sidecar); err != nil {
		s.t.Fatal(err)
	}
}

// ownedLike makes a folder that belongs to whom another one does.
func (s *saved) ownedLike(dir, other string) string {
	s.t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	info, err := os.Stat(other)
	if err != nil {
		s.t.Fatal(err)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		err = os.Chown(dir, int(owner.Uid), int(owner.Gid))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// TestRestoreSpread: a cluster with a tablespace, and with its log on another disk, is
// restored in place; also where all of the member is killed at moments of it.
func TestRestoreSpread(t *testing.T) {
	s := newSavedOn(t, lab.Options{Members: 1})
	leads := func(st *api.Status) bool { return st.Archive != nil && st.Archive.Leads }
	member := s.await("a cluster", leads).Member
	data := s.host(member).DataDir()
	disks := s.ownedLike(filepath.Join(filepath.Dir(data), "disks"), data)
	space := s.ownedLike(filepath.Join(disks, "space"), data)
	s.moveLog(member, filepath.Join(disks, "wal"))
	s.await("the cluster again", leads)
	conn := s.connect(member)
	s.sql(conn, "create tablespace elsewhere location '"+space+"'",
		"create table t tablespace elsewhere as select n, repeat(md5(n::text), 8) from generate_series(1, 20000) n")
	s.command("backup", "run")
	for i, file := range []string{"", "unfinished", "restored"} { // whose change is the moment of the kill
		conn := s.connect(member)
		target := ask[time.Time](s, conn, "select clock_timestamp()")
		s.sql(conn, "select pg_sleep(0.01)", "drop table t")
		before := s.status()
		state := func() string {
			content, _ := os.ReadFile(data + ".pgsidecar/" + file) // empty: it is not there
			return string(content)
		}
		was := state()
		s.command("restore", "--to-time", target.UTC().Format(time.RFC3339Nano), "--yes", "--detach")
		if file != "" {
			for tick, end := time.Tick(time.Millisecond), time.After(time.Minute); state() == was; {
				select {
				case <-tick:
				case <-end:
					t.Fatalf("no file %s", file)
				}
			}
			s.lose(member)
			if err := s.Start(s.within(time.Minute), member, lab.Sidecar); err != nil {
				t.Fatal(err)
			}
		}
		s.await("the restored cluster", func(st *api.Status) bool { return st.Restored != "" && st.Restored != before.Restored })
		if got := ask[int](s, s.connect(member), "select count(*)::int from t"); got != 20000 {
			t.Errorf("restore %d: %d rows", i+1, got)
		}
		if to, err := os.Readlink(filepath.Join(data, "pg_wal")); err != nil || to != filepath.Join(disks, "wal") {
			t.Errorf("restore %d: pg_wal leads to %s, %v", i+1, to, err)
		}
		s.await("the data from before to go", func(*api.Status) bool { return len(s.replaced())+len(asides(t, disks)) == 0 })
	}
}

// asides are what a restore leaves in a folder, for a time.
func asides(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if strings.Contains(filepath.Base(path), "pgsidecar-") {
			all = append(all, path)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
