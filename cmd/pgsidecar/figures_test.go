package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

var largeMB = flag.Int("figures.mb", 0, "of how many MB the database of TestLargeDatabase is; 0: it is not run")

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

// TestLargeDatabase measures, on a database of so many MB: what a member that lost its data
// takes from the primary, if it is restored from the repository (all that the primary's
// host sends counts); and after a table was dropped, how long a restore in place to the
// moment before takes to the first write, and how much of that is the backup program's own.
//
//	TMPDIR=/dev/shm go test -run TestLargeDatabase -v -timeout 30m ./cmd/pgsidecar -args -figures.mb 2048
func TestLargeDatabase(t *testing.T) {
	if *largeMB == 0 {
		t.Skip("it takes a large database: -args -figures.mb 300")
	}
	s := newSavedOn(t, lab.Options{Isolated: true})
	rec, err := s.Record(s.within(time.Minute))
	s.must(err)
	primary := s.host(rec.Leader)
	conn := s.superuser(primary.Name)
	began := time.Now()
	// No two of 256 pads are within what a program looks back for to compress.
	s.sql(conn, "create table pads as select i, string_agg(md5(i || ',' || j), '') pad from generate_series(0, 255) i, generate_series(1, 128) j group by i",
		"create table t(n int, pad text)", "alter table t alter pad set storage external")
	for from := 0; from < *largeMB; from += 64 { // a MB is 240 rows of 4 kB
		s.sql(conn, fmt.Sprintf("insert into t select n, pad from generate_series(%d, %d) n join pads on i = n %% 256", from*240, min(from+64, *largeMB)*240-1))
	}
	// Else autovacuum does it at some moment: two thirds of the database as log, for all replicas.
	s.sql(conn, "vacuum (freeze) t", "checkpoint")
	size := ask[int64](s, conn, "select sum(pg_database_size(oid))::bigint from pg_database")
	t.Logf("a database of %d MB, made in %s", size>>20, time.Since(began).Round(time.Second))
	began = time.Now()
	s.operate(primary.Name, "backup", "run")
	t.Logf("the backup took %s; the repository has %d MB", time.Since(began).Round(100*time.Millisecond), s.stored()>>20)
	s.sql(conn, "select pg_switch_wal()")
	s.newMember(conn, primary, rec.Durability.Voters[0], size)
	s.accident(conn, primary, size)
}

// superuser connects to a member of an isolated lab.
func (s *saved) superuser(member string) *pgx.Conn {
	s.t.Helper()
	config, err := s.ConnConfig(lab.SuperuserRole, member)
	s.must(err)
	conn, err := pgx.ConnectConfig(s.within(time.Minute), config)
	s.must(err)
	s.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// operate runs a command on a member's host.
func (s *saved) operate(member string, args ...string) string {
	s.t.Helper()
	said, err := s.Pgsidecar(s.within(20*time.Minute), member, "pg", args...)
	s.must(err)
	return said
}

// stored is how much of its disk the repository takes.
func (s *saved) stored() (bytes int64) {
	s.t.Helper()
	s.must(filepath.Walk(s.Plan().RepositoryDir(), func(_ string, info os.FileInfo, err error) error {
		if err == nil {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	}))
	return bytes
}

// newMember has a member lose its data, and measures how it comes back.
func (s *saved) newMember(conn *pgx.Conn, primary lab.Host, member string, size int64) {
	s.t.Helper()
	before, began := int64(0), time.Time{}
	s.gone(member, func(h lab.Host) {
		s.must(os.RemoveAll(h.DataDir()))
		f, err := os.OpenFile(h.ConfigFile(), os.O_APPEND|os.O_WRONLY, 0)
		s.must(err)
		_, err = f.WriteString("\nclone { methods = [\"backup\", \"basebackup\"] }\n")
		s.must(err)
		s.must(f.Close())
		before, began = s.sent(primary), time.Now()
	})
	s.poll(10*time.Minute, "its stream", func() bool {
		return ask[int](s, conn, "select count(*)::int from pg_stat_replication where state = 'streaming'") == 2
	})
	took, sent := time.Since(began), s.sent(primary)-before
	s.t.Logf("a new member of %d MB streams after %s, of which the backup's program took %s; the primary's host sent %d kB to all hosts, %.3f %% of the database",
		size>>20, took.Round(100*time.Millisecond), s.restoredIn(member), sent>>10, 100*float64(sent)/float64(size))
	if s.said(member, "restoring a copy from the backup") == 0 || sent*20 > size {
		s.t.Errorf("%d of %d bytes came from the primary", sent, size)
	}
}

// accident drops the table, restores it, and measures that.
func (s *saved) accident(conn *pgx.Conn, primary lab.Host, size int64) {
	s.t.Helper()
	rows := ask[int](s, conn, "select count(*)::int from t")
	target := ask[time.Time](s, conn, "select clock_timestamp()")
	s.sql(conn, "select pg_sleep(0.01)", "drop table t")
	config, err := s.ConnConfig(lab.SuperuserRole, primary.Name)
	s.must(err)
	began, begun := time.Now(), make(chan time.Duration, 1)
	go func() {
		if _, err := s.WaitRecord(s.within(10*time.Minute), func(r ha.Record) bool { return r.Restore.ID != "" }); err == nil {
			begun <- time.Since(began)
		}
		close(begun)
	}()
	s.operate(primary.Name, "restore", "--to-time", target.UTC().Format(time.RFC3339Nano), "--yes", "--detach")
	s.poll(20*time.Minute, "the first write", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // one that is sent is waited for
		defer cancel()
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return false
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "insert into t values (-1)") // before the restore there is no table
		return err == nil
	})
	total, own := time.Since(began), s.restoredIn(primary.Name)
	s.t.Logf("restored %d MB to the moment before: the first write after %s; planned and begun after %s, the backup's program took %s (%.0f %%)",
		size>>20, total.Round(10*time.Millisecond), (<-begun).Round(10*time.Millisecond), own, 100*own.Seconds()/total.Seconds())
	if got := ask[int](s, s.superuser(primary.Name), "select count(*)::int from t"); got != rows+1 {
		s.t.Errorf("%d rows, want %d", got, rows+1)
	}
}

var tookWords = regexp.MustCompile(`the backup's program has restored the data.* took=(\S+)`)

// restoredIn is what a member's log says of the backup program's last restore.
func (s *saved) restoredIn(member string) time.Duration {
	s.t.Helper()
	log, err := os.ReadFile(filepath.Join(s.host(member).Dir, "sidecar.log"))
	s.must(err)
	all := tookWords.FindAllStringSubmatch(string(log), -1)
	if len(all) == 0 {
		s.t.Fatalf("%s does not say how long its restore took", member)
	}
	took, err := time.ParseDuration(all[len(all)-1][1])
	s.must(err)
	return took
}

// poll asks until something is so.
func (s *saved) poll(limit time.Duration, what string, is func() bool) {
	s.t.Helper()
	ctx := s.within(limit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			s.t.Fatalf("%s did not come", what)
		case <-tick.C:
		}
	}
}
