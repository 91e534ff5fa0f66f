package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

var (
	archiveFails = flag.Duration("archive.full", 0, "how long the repository is full in TestArchiveFails; 0: it is not run")
	archiveRows  = flag.Int("archive.rows", 200, "how many rows of 2 kB TestArchiveFails writes a second")
)

// onSmallDisk moves the lab's repository to a file system in memory, in which so many MB are
// free. Nothing must wait to be archived meanwhile.
func (s *saved) onSmallDisk(spare int64) (resize func(size string)) {
	s.t.Helper()
	if os.Geteuid() != 0 {
		s.t.Skip("a small file system needs root")
	}
	path, size := s.Plan().RepositoryDir(), fmt.Sprintf("%dm", s.stored()>>20+1+spare)
	s.must(os.Rename(path, path+".was"))
	s.must(os.Mkdir(path, 0o750))
	s.must(syscall.Mount("repository", path, "tmpfs", 0, "size="+size+",mode=0700"))
	s.t.Cleanup(func() { s.must(syscall.Unmount(path, syscall.MNT_DETACH)) })
	s.must(exec.Command("cp", "-a", path+".was/.", path).Run())
	return func(size string) {
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

// get asks a member's API.
func (s *saved) get(member, path string) string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.within(10*time.Second), http.MethodGet, "http://"+s.host(member).APIAddress()+path, nil)
	s.must(err)
	res, err := http.DefaultClient.Do(req)
	s.must(err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	s.must(err)
	return string(text)
}

// TestArchiveFails: the repository's disk is full for a while. The primary serves; status,
// metrics and log tell since when, why, and until when that can go on; and when there is
// room again all of the log is archived: a restore gives each row that was acknowledged.
//
//	go test -run TestArchiveFails -v -timeout 2h ./cmd/pgsidecar -args -archive.full 1h -archive.rows 20
func TestArchiveFails(t *testing.T) {
	if *archiveFails == 0 {
		t.Skip("it takes minutes: -args -archive.full 3m")
	}
	s := newSaved(t)
	st := s.whole("a cluster", 1)
	s.command("backup", "run")
	s.await("an archive of all", func(st *api.Status) bool { return st.Archive.Files == 0 })
	resize := s.onSmallDisk(0)
	l := newLedger(s, st.Member, *archiveRows, 2048)
	s.awaitFor(5*time.Minute, "word of it", func(st *api.Status) bool { return st.Primary && st.Archive.Files > 0 && st.Archive.Oldest > 15 })
	began := time.Now()
	rows, _, _ := l.acked()
	t.Logf("%d rows: %s", rows, s.command("status"))
	late := s.awaitFor(5*time.Minute, "word of since when, why and until when", func(st *api.Status) bool {
		return st.Primary && st.Archive.Oldest > 60 && st.Archive.FullIn != nil && st.Archive.Problem != ""
	})
	if !strings.Contains(late.Archive.Problem, "no space left") || strings.Contains(late.Archive.Problem, "\n") {
		t.Errorf("why: %q", late.Archive.Problem)
	}
	said := s.command("status")
	for _, want := range []string{"files that wait to be archived: ", ", the oldest for ", "; the disk will be full in ", "The log is not archived: "} {
		if !strings.Contains(said, want) {
			t.Errorf("status has no %q", want)
		}
	}
	metrics := s.get(late.Member, "/metrics")
	for _, want := range []string{"pgsidecar_archive_waiting_files", "pgsidecar_archive_waiting_seconds", "pgsidecar_archive_disk_full_seconds"} {
		if !strings.Contains(metrics, "\n"+want) {
			t.Errorf("no metric %s", want)
		}
	}
	t.Logf("after %s: %s", time.Since(began).Round(time.Second), said)
	for end := began.Add(*archiveFails); time.Now().Before(end); {
		pass(t.Context(), min(time.Until(end), *archiveFails/12))
		now := s.await("a primary", func(st *api.Status) bool { return st.Archive != nil && st.Archive.Leads })
		text, err := json.Marshal(now.Archive)
		s.must(err)
		rows, longest, errors := l.acked()
		t.Logf("after %s: term %d, %d rows acknowledged, longest pause %s, %d errors, %s", time.Since(began).Round(time.Second), now.Term, rows, longest, errors, text)
	}
	now := s.await("a primary", func(st *api.Status) bool { return st.Archive != nil })
	waiting := now.Archive.Files
	if now.Archive.Oldest < archiveFails.Seconds()/2 {
		t.Errorf("the oldest waits for %.0f s, and the disk was full for %s", now.Archive.Oldest, *archiveFails)
	}
	resize("2g")
	well := time.Now()
	end := time.Now()
	l.stop()
	s.command("backup", "check")
	s.awaitFor(10*time.Minute, "an archive of all", func(st *api.Status) bool {
		return st.Primary && st.Archive != nil && st.Archive.Files == 0 && st.Archive.Problem == ""
	})
	rows, longest, errors := l.acked()
	t.Logf("%d files archived %s after there was room; %d rows acknowledged, longest pause %s, %d errors, term %d to %d", waiting, time.Since(well).Round(time.Second),
		rows, longest, errors, st.Term, s.status().Term)
	for _, hole := range s.holes() {
		t.Error(hole)
	}
	s.restored(l, end)
}

// restoreLimit is what one restore may take: it replays up to all that was written.
const restoreLimit = 10 * time.Minute

// restored restores the cluster to a moment, and compares its rows.
func (s *saved) restored(l *ledger, moment time.Time) {
	s.t.Helper()
	began, moment := time.Now(), moment.Truncate(time.Microsecond) // as PostgreSQL has it
	s.commandFor(restoreLimit, "restore", "--to-time", moment.UTC().Format(time.RFC3339Nano), "--yes")
	took := time.Since(began)
	st := s.await("the restored cluster", func(st *api.Status) bool {
		return st.Primary && st.Restored != "" && st.Archive != nil && st.Archive.Leads
	})
	s.t.Logf("the restore took %s", took.Round(10*time.Millisecond))
	l.check(st.Member, moment)
}

// pass lets time pass.
func pass(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
