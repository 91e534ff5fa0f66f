package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// refusals run commands that must be refused, each in one line, and touch nothing.
type refusals struct {
	*saved
	backups map[string]string // the files of the backups, as they are to stay
}

// stock is what the repository has of backups: size and time of each file.
func (r *refusals) stock() map[string]string {
	r.t.Helper()
	all := map[string]string{}
	dir := filepath.Join(r.Plan().RepositoryDir(), "backup")
	r.must(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			all[path] = info.ModTime().String()
		}
		return err
	}))
	return all
}

// progressLines are how far a backup has come before it fails.
var progressLines = regexp.MustCompile(`(?m)^\d+ %\n`)

// refuse runs a command.
func (r *refusals) refuse(what, says string, args ...string) {
	r.t.Helper()
	before := r.await("a primary", func(*api.Status) bool { return true })
	code, _, stderr := r.run(args...)
	said := strings.TrimSpace(progressLines.ReplaceAllString(stderr, ""))
	if code != 1 || !strings.Contains(said, says) || strings.Contains(said, "\n") {
		r.t.Errorf("%s: %q: exit status %d: %s\nwant 1 and %q, in one line", what, args, code, said, says)
	}
	r.t.Logf("%s: pgsidecar %s: %s", what, strings.Join(args, " "), said)
	if now := r.await("the primary", func(*api.Status) bool { return true }); now.Term != before.Term || now.Restore != nil || now.Restored != before.Restored {
		r.t.Errorf("%s: %q: term %d, was %d; restore %v", what, args, now.Term, before.Term, now.Restore)
	}
}

// untouched looks at what was not to be touched. What a backup that came to nothing left is
// besides it.
func (r *refusals) untouched(what, member string) {
	r.t.Helper()
	now := r.stock()
	for path, at := range r.backups {
		if now[path] != at {
			r.t.Errorf("%s: %s has changed: %s, was %s", what, path, now[path], at)
		}
	}
	if n := r.rows(member); n != 1000 {
		r.t.Errorf("%s: %d rows, want 1000", what, n)
	}
	if left := r.replaced(); len(left) > 0 {
		r.t.Errorf("%s: left: %v", what, left)
	}
}

// cancelled has what failed not be tried again.
func (r *refusals) cancelled() {
	r.t.Helper()
	if out := r.command("backup", "cancel"); !strings.Contains(out, "is not tried again") {
		r.t.Errorf("cancel: %s", out)
	}
}

// wellAgain waits until all is archived, and sees that nothing was touched.
func (r *refusals) wellAgain(what, member string) {
	r.t.Helper()
	if now := r.status(); now != nil && len(now.Backups) == 1 && now.Backups[0].Running != nil {
		r.cancelled()
	}
	r.awaitFor(3*time.Minute, "an archive of all after "+what, func(st *api.Status) bool {
		return st.Primary && st.Archive != nil && st.Archive.Leads && st.Archive.Files == 0
	})
	r.untouched(what, member)
}

// fill leaves so many bytes on a file system.
func (s *saved) fill(filler string, leave uint64) {
	s.t.Helper()
	var free syscall.Statfs_t
	s.must(syscall.Statfs(filepath.Dir(filler), &free))
	s.must(os.WriteFile(filler, make([]byte, free.Bavail*uint64(free.Bsize)-leave), 0o600))
}

// configured changes a line of a member's configuration, and starts it with that.
func (r *refusals) configured(member, old, with string) {
	r.t.Helper()
	r.gone(member, func(h lab.Host) {
		text, err := os.ReadFile(h.ConfigFile())
		r.must(err)
		if !strings.Contains(string(text), old) {
			r.t.Fatalf("the configuration has no %q", old)
		}
		r.must(os.WriteFile(h.ConfigFile(), []byte(strings.Replace(string(text), old, with, 1)), 0o644))
	})
}

// TestBackupRefused: what cannot be backed up or restored is refused with one clear line,
// and nothing is touched.
func TestBackupRefused(t *testing.T) {
	s := newSavedOn(t, lab.Options{Members: 1})
	leads := func(st *api.Status) bool { return st.Archive != nil && st.Archive.Leads && st.Archive.Files == 0 }
	member := s.await("a cluster", leads).Member
	s.sql(s.connect(member), "create table t as select generate_series(1, 1000) n")
	s.command("backup", "run")
	s.await("an archive of all", leads)
	r := &refusals{saved: s}
	r.backups = r.stock()
	restore := func(more ...string) []string { return append([]string{"restore", "--yes"}, more...) }

	r.refuse("before the first backup", "what can be restored", restore("--to-time", "2020-01-01 00:00:00Z")...)
	r.refuse("after the last log", "in the future", restore("--to-time", "2120-01-01 00:00:00Z")...)
	r.refuse("after the last log", "what can be restored", restore("--to-lsn", "F0/0")...)
	r.refuse("no such backup", "20200101-000000F", restore("--backup", "20200101-000000F")...)
	r.untouched("targets", member)

	path := s.Plan().RepositoryDir()
	s.must(os.Rename(path, path+".away"))
	for _, args := range [][]string{{"backup", "check"}, restore(), {"backup", "run"}} {
		r.refuse("no repository", "no repository", args...)
	}
	s.must(os.Rename(path+".away", path))
	r.wellAgain("no repository", member)

	s.onSmallDisk(16)
	filler := filepath.Join(path, "filler")
	s.fill(filler, 2<<20)
	r.refuse("a full repository", "no space left", "backup", "run")
	s.must(os.Remove(filler))
	r.wellAgain("a full repository", member)
	s.command("backup", "run")
	r.backups = r.stock()

	key := filepath.Join(s.host(member).Dir, "key")
	s.must(os.WriteFile(key, []byte("another\n"), 0o644))
	r.configured(member, "  repository {\n", "  repository {\n    key_file = \""+key+"\"\n")
	s.await("word of it", func(st *api.Status) bool { return st.Archive != nil && strings.Contains(st.Archive.Problem, "key") })
	for _, args := range [][]string{{"backup", "check"}, restore(), {"backup", "run"}} {
		r.refuse("a wrong key", "the repository was made with another key, or with none", args...)
	}
	r.cancelled()
	r.configured(member, "    key_file = \""+key+"\"\n", "")
	r.wellAgain("a wrong key", member)

	r.gone(member, func(h lab.Host) {
		s.must(errors.Join(os.RemoveAll(h.DataDir()), os.RemoveAll(h.DataDir()+".pgsidecar"), s.DeleteKeys(context.Background(), lab.AllKeys)))
	})
	s.await("word of another cluster's repository", func(st *api.Status) bool {
		return st.Archive != nil && strings.Contains(st.Archive.Problem, "another cluster's repository")
	})
	s.sql(s.connect(member), "create table t as select generate_series(1, 1000) n")
	for _, args := range [][]string{{"backup", "check"}, restore(), {"backup", "run"}} {
		r.refuse("another cluster's", "another cluster's repository", args...)
	}
	r.untouched("another cluster's", member)
}
