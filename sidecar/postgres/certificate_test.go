package postgres

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFilesState: each way in which certificates are renewed is another state, and nothing
// else is.
func TestFilesState(t *testing.T) {
	dir := t.TempDir()
	s := &Server{o: Options{DataDir: dir}}
	cert, elsewhere := filepath.Join(dir, "server.crt"), filepath.Join(dir, "v2")
	must(t, errors.Join(os.WriteFile(cert, []byte("one"), 0o600), os.WriteFile(elsewhere, []byte("two"), 0o600)))
	names := []string{"server.crt", filepath.Join(dir, "gone.crt")}
	before := s.FilesState(names)
	if s.FilesState(names) != before {
		t.Fatal("two states of what has not changed")
	}
	for what, change := range map[string]func() error{
		"written in place": func() error {
			return errors.Join(os.WriteFile(cert, []byte("ONE"), 0o600), os.Chtimes(cert, time.Time{}, time.Now().Add(time.Hour)))
		},
		"replaced by a rename": func() error {
			return errors.Join(os.WriteFile(cert+".new", []byte("ONE"), 0o600), os.Rename(cert+".new", cert))
		},
		"a link":  func() error { return errors.Join(os.Remove(cert), os.Symlink("v2", cert)) },
		"removed": func() error { return os.Remove(cert) },
	} {
		was := s.FilesState(names)
		must(t, change())
		if s.FilesState(names) == was {
			t.Errorf("%s: the same state", what)
		}
		must(t, errors.Join(os.RemoveAll(cert), os.WriteFile(cert, []byte("one"), 0o600)))
	}
}

// TestKeepPassfile: a password that has changed in its file is what libpq reads from then
// on; one that has not is not written again.
func TestKeepPassfile(t *testing.T) {
	password := "one"
	dir := t.TempDir()
	s := &Server{o: Options{DataDir: filepath.Join(dir, "data"), StateDir: filepath.Join(dir, "state"), ReplicationName: "replicator", ReplicationPassword: func() (string, error) { return password, nil }}}
	s.sock = filepath.Join(dir, "state", "sock")
	for _, c := range []struct{ password, line string }{{"one", "*:*:*:replicator:one\n"}, {`t:w\o`, `*:*:*:replicator:t\:w\\o` + "\n"}} {
		password = c.password
		must(t, s.KeepPassfile())
		before, err := os.Stat(s.Passfile())
		must(t, err)
		must(t, s.KeepPassfile())
		after, err := os.Stat(s.Passfile())
		must(t, err)
		line, err := os.ReadFile(s.Passfile())
		must(t, err)
		if string(line) != c.line || before.Mode().Perm() != 0o600 || !os.SameFile(before, after) {
			t.Errorf("%q, mode %v, written again: %t", line, before.Mode(), !os.SameFile(before, after))
		}
	}
}

// TestStreamProblem: the last failure to receive log is told in PostgreSQL's words, of the
// server's present life, and not for ever.
func TestStreamProblem(t *testing.T) {
	refused := `2026-11-30 10:58:15 UTC [4095] FATAL:  could not connect to the primary server: connection to server at "10.0.0.1", port 5432 failed: FATAL:  password authentication failed for user "replicator"` + "\n\tpassword retrieved from file \"/s/passfile\"\n"
	gone := "x=1,FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed\n"
	for name, c := range map[string]struct {
		log  string
		from int64
		want string
	}{
		"no log":          {"", 0, ""},
		"nothing of it":   {"LOG:  started streaming WAL from primary at 0/3000000 on timeline 1\nFATAL:  role \"x\" does not exist\n", 0, ""},
		"the last":        {gone + refused + "LOG:  waiting\n", 0, `could not connect to the primary server: connection to server at "10.0.0.1", port 5432 failed: FATAL:  password authentication failed for user "replicator"`},
		"an earlier life": {refused + "LOG:  starting\n", int64(len(refused)), ""},
		"long":            {"FATAL:  could not start WAL streaming: " + strings.Repeat("ä", 400) + "\n", 0, "could not start WAL streaming: " + strings.Repeat("ä", 134) + "…"},
	} {
		dir := t.TempDir()
		s := &Server{o: Options{DataDir: filepath.Join(dir, "data"), StateDir: dir}}
		must(t, os.WriteFile(filepath.Join(dir, "life"), fmt.Appendf(nil, `{"log_at": %d}`, c.from), 0o600))
		if c.log != "" {
			must(t, os.WriteFile(s.logFile(), []byte(c.log), 0o600))
		}
		if got := s.StreamProblem(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
