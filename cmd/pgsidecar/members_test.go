package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// said counts how often a member has logged something.
func (s *saved) said(member, what string) int {
	s.t.Helper()
	log, err := os.ReadFile(filepath.Join(s.host(member).Dir, "sidecar.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Count(string(log), what)
}

// gone ends all of a member, changes its files, and starts it again.
func (s *saved) gone(member string, meanwhile func(h lab.Host)) {
	s.t.Helper()
	if err := s.KillMember(s.within(time.Minute), member); err != nil {
		s.t.Fatal(err)
	}
	meanwhile(s.host(member))
	if err := s.Start(s.within(time.Minute), member, lab.Sidecar); err != nil {
		s.t.Fatal(err)
	}
}

// back waits until a member streams with all rows.
func (s *saved) back(member string, rows int) {
	s.t.Helper()
	s.await(member+" to stream", func(st *api.Status) bool {
		for _, m := range st.Members {
			if m.Member == member && m.Streaming && m.Term == st.Term && m.Position.LSN > 0 {
				return s.rows(member) == rows
			}
		}
		return false
	})
}

// rows counts a member's; -1: it does not say.
func (s *saved) rows(member string) int {
	password, err := os.ReadFile(s.Plan().PasswordFile(lab.SuperuserRole))
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, "postgres://postgres:"+strings.TrimSpace(string(password))+"@"+s.host(member).PostgresAddress()+"/postgres")
	if err != nil {
		return -1
	}
	defer conn.Close(ctx)
	rows := -1
	if err := conn.QueryRow(ctx, "select count(*)::int from t").Scan(&rows); err != nil {
		return -1
	}
	return rows
}

// TestMembersFromTheArchive: a member that lost its data is restored from the repository;
// one that was away for longer than log is kept catches up from the archive; and without
// a repository the copy comes from a member.
func TestMembersFromTheArchive(t *testing.T) {
	s := newSaved(t)
	st := s.whole("a cluster", 1)
	conn := s.connect(st.Member)
	s.sql(conn, "create table t(n int)", "insert into t select generate_series(1, 1000)")
	s.command("backup", "run")
	s.sql(conn, "insert into t select generate_series(1, 1000)", "select pg_switch_wal()", "insert into t select generate_series(1, 1000)")
	member := st.Durability.Voters[0]
	empty := func(h lab.Host) {
		if err := os.RemoveAll(h.DataDir()); err != nil {
			t.Fatal(err)
		}
	}
	s.gone(member, func(h lab.Host) {
		empty(h)
		f, err := os.OpenFile(filepath.Join(h.Dir, "pg.hcl"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("\nclone { methods = [\"backup\", \"basebackup\"] }\n"); err != nil {
			t.Fatal(err)
		}
	})
	const cloning, restoring, fetching = "cloning", "restoring a copy from the backup", "it is taken from the archive"
	cloned := s.said(member, cloning)
	s.back(member, 3000)
	restored := s.said(member, restoring)
	if restored == 0 || s.said(member, cloning) != cloned {
		t.Errorf("it was not restored from the backup: %d, cloned %d times", s.said(member, restoring), s.said(member, cloning)-cloned)
	}

	s.sql(conn, "alter system set wal_keep_size = 0", "alter system set max_slot_wal_keep_size = '1MB'", "select pg_reload_conf()")
	s.gone(member, func(lab.Host) {
		needed := ask[string](s, conn, "select pg_walfile_name(pg_current_wal_lsn())")
		for range 4 {
			s.sql(conn, "insert into t select generate_series(1, 1000)", "select pg_switch_wal()")
		}
		s.await("an archive of all", func(st *api.Status) bool { return st.Archive.Files == 0 })
		s.await("the log that the member lacks to be gone from the primary", func(*api.Status) bool {
			s.sql(conn, "create table if not exists written(n int)", "insert into written values (1)", "select pg_switch_wal()", "checkpoint")
			return ask[bool](s, conn, "select not exists (select from pg_ls_waldir() where name = '"+needed+"')")
		})
	})
	s.back(member, 7000)
	if s.said(member, fetching) == 0 || s.said(member, restoring) != restored || s.said(member, cloning) != cloned {
		t.Errorf("it did not catch up from the archive: %d; restored %d, cloned %d times", s.said(member, fetching), s.said(member, restoring), s.said(member, cloning)-cloned)
	}

	away := s.Plan().RepositoryDir() + ".away"
	s.gone(member, func(h lab.Host) {
		empty(h)
		if err := os.Rename(s.Plan().RepositoryDir(), away); err != nil {
			t.Fatal(err)
		}
	})
	s.back(member, 7000)
	if s.said(member, "no copy is made from the backup") == 0 || s.said(member, cloning) == cloned {
		t.Error("without a repository it was not copied from a member")
	}
}
