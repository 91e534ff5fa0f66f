package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

var (
	archiveFails = flag.Duration("figures.archive", 0, "how long the repository is full in TestArchiveFails; 0: it is not run")
	memberSize   = flag.Int("figures.member", 0, "how many MB TestNewMember copies from the repository; 0: it is not run")
)

// onSmallDisk moves the lab's repository to a file system in memory.
func (s *saved) onSmallDisk(size string) (path string, resize func(size string)) {
	s.t.Helper()
	if os.Geteuid() != 0 {
		s.t.Skip("a small file system needs root")
	}
	path = s.Plan().RepositoryDir()
	s.must(os.Rename(path, path+".was"))
	s.must(os.Mkdir(path, 0o750))
	s.must(syscall.Mount("repository", path, "tmpfs", 0, "size="+size+",mode=0700"))
	s.t.Cleanup(func() { s.must(syscall.Unmount(path, syscall.MNT_DETACH)) })
	s.must(exec.Command("cp", "-a", path+".was/.", path).Run())
	return path, func(size string) {
		s.t.Helper()
		s.must(syscall.Mount("repository", path, "tmpfs", syscall.MS_REMOUNT, "size="+size))
	}
}

func (s *saved) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// TestArchiveFails: the repository's disk is full for a while. The primary serves, status
// tells, and when there is room again all of the log is archived.
func TestArchiveFails(t *testing.T) {
	if *archiveFails == 0 {
		t.Skip("it takes minutes: -figures.archive 3m")
	}
	s := newSaved(t)
	st := s.whole("a cluster", 1)
	conn := s.connect(st.Member)
	s.sql(conn, "create table t(n bigint, pad text)", "select pg_switch_wal()")
	s.await("an archive of all", func(st *api.Status) bool { return st.Archive.Files == 0 })
	_, resize := s.onSmallDisk("16m")
	var acked atomic.Int64
	longest, ended := time.Duration(0), make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() { // ends by stop
		writer, pause, last := s.connect(st.Member), time.NewTicker(5*time.Millisecond), time.Now()
		defer pause.Stop()
		for {
			select {
			case <-ctx.Done():
				ended <- nil
				return
			case <-pause.C:
			}
			if _, err := writer.Exec(context.Background(), "insert into t select $1, string_agg(md5(random()::text), '') from generate_series(1, 64)", acked.Load()); err != nil {
				ended <- err
				return
			}
			longest, last = max(longest, time.Since(last)), time.Now()
			acked.Add(1)
		}
	}()
	seen := s.await("word of it", func(st *api.Status) bool { return st.Archive.Files >= 3 })
	began := time.Now()
	t.Logf("%d rows: %s", acked.Load(), s.command("status"))
	late := s.await("word of since when", func(st *api.Status) bool { return st.Archive.Oldest > 60 && st.Archive.FullIn != nil })
	text, err := json.Marshal(late.Archive)
	s.must(err)
	t.Logf("after %s: %s\n%s", time.Since(began).Round(time.Second), text, s.command("status"))
	select {
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(time.Until(began.Add(*archiveFails))):
	}
	now := s.status()
	t.Logf("after %s: %d files wait, the first for %.0f s, the disk is full in %v; was %d files", time.Since(began).Round(time.Second), now.Archive.Files, now.Archive.Oldest, now.Archive.FullIn, seen.Archive.Files)
	waiting := now.Archive.Files
	resize("2g")
	well := time.Now()
	stop()
	s.must(<-ended)
	s.sql(conn, "select pg_switch_wal()")
	s.await("an archive of all", func(st *api.Status) bool { return st.Archive.Files == 0 })
	t.Logf("%d files archived %s after there was room; %d rows acknowledged, longest pause %s, term %d to %d", waiting, time.Since(well).Round(time.Second),
		acked.Load(), longest, st.Term, s.status().Term)
	names := s.archived("00000001")
	for i := 1; i < len(names); i++ {
		if next(names[i-1]) != names[i] {
			t.Errorf("a hole between %s and %s", names[i-1], names[i])
		}
	}
}

// sent is how many bytes have left a host by its network.
func (s *saved) sent(h lab.Host) (bytes int64) {
	s.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", h.Namespace, "cat", "/proc/net/dev").Output()
	s.must(err)
	for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
		name, rest, found := strings.Cut(lines.Text(), ":")
		if fields := strings.Fields(rest); found && strings.TrimSpace(name) != "lo" && len(fields) > 8 {
			n, err := strconv.ParseInt(fields[8], 10, 64)
			s.must(err)
			bytes += n
		}
	}
	return bytes
}

// TestNewMember: what a member that lost its data takes from the primary, if it is
// restored from the repository. All that the primary's host sends counts.
func TestNewMember(t *testing.T) {
	if *memberSize == 0 {
		t.Skip("it takes a large database: -figures.member 300")
	}
	s := newSavedOn(t, lab.Options{Isolated: true})
	rec, err := s.Record(s.within(time.Minute))
	s.must(err)
	primary := s.host(rec.Leader)
	config, err := s.ConnConfig(lab.SuperuserRole, primary.Name)
	s.must(err)
	conn, err := pgx.ConnectConfig(s.within(time.Minute), config)
	s.must(err)
	defer conn.Close(context.Background())
	s.sql(conn, "create table t as select n, repeat(md5(n::text), 30) pad from generate_series(1, "+fmt.Sprint(*memberSize*1000)+") n", "checkpoint")
	size := ask[int64](s, conn, "select sum(pg_database_size(oid))::bigint from pg_database")
	s.must(s.Change(s.within(time.Minute), primary.Name, "/backup", []byte("{}")))
	for list := filepath.Join(s.Plan().RepositoryDir(), "backup", "*", "latest"); ; {
		if found, _ := filepath.Glob(list); len(found) > 0 {
			break
		}
		select {
		case <-t.Context().Done():
			t.Fatal("no backup")
		case <-time.After(200 * time.Millisecond):
		}
	}
	s.sql(conn, "select pg_switch_wal()")
	member := rec.Durability.Voters[0]
	before, began := int64(0), time.Time{}
	s.gone(member, func(h lab.Host) {
		s.must(os.RemoveAll(h.DataDir()))
		f, err := os.OpenFile(filepath.Join(h.Dir, "pg.hcl"), os.O_APPEND|os.O_WRONLY, 0)
		s.must(err)
		_, err = f.WriteString("\nclone { methods = [\"backup\", \"basebackup\"] }\n")
		s.must(err)
		s.must(f.Close())
		before, began = s.sent(primary), time.Now()
	})
	for ask[int](s, conn, "select count(*)::int from pg_stat_replication where state = 'streaming'") < 2 {
		if time.Since(began) > 2*time.Minute {
			t.Fatal("it does not stream")
		}
		select {
		case <-t.Context().Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	took, sent := time.Since(began), s.sent(primary)-before
	t.Logf("%d MB, streaming after %s; the primary's host sent %d kB to all hosts, %.2f %% of the database", size>>20, took.Round(100*time.Millisecond), sent>>10, 100*float64(sent)/float64(size))
	if s.said(member, "restoring a copy from the backup") == 0 || sent*20 > size {
		t.Errorf("%d of %d bytes came from the primary", sent, size)
	}
}
