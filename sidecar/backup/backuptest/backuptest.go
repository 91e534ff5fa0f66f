// Package backuptest has a PostgreSQL server that the tests of backups save and
// restore. It runs as the user postgres where the test is root, and ends with it.
package backuptest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// Server is one server in a folder of its own.
type Server struct {
	testing.TB
	User    program.User
	Bin     string // of PostgreSQL's programs
	Dir     string // belongs to User; everything is in it
	DataDir string
	Socket  string // a directory
	Port    int
}

// limit is more than any step of these tests takes under load.
const limit = 2 * time.Minute

// New makes a server with checksums, and does not start it.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{TB: t, Bin: labtest.Program(t, programs.PostgresBin), Port: labtest.FreePort(t)}
	name := ""
	if os.Geteuid() == 0 {
		name = "postgres"
	}
	var err error
	if s.User, err = program.Lookup(name); err != nil {
		t.Skip(err)
	}
	if s.Dir, err = os.MkdirTemp("", "pgsidecar-backup-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(s.Dir) })
	s.own(s.Dir)
	s.DataDir, s.Socket = filepath.Join(s.Dir, "data"), s.Folder("sock")
	s.Run("initdb", "-D", s.DataDir, "--data-checksums", "-A", "trust", "-U", "postgres", "-N")
	return s
}

func (s *Server) own(path string) {
	s.Helper()
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Lchown(path, int(s.User.UID), int(s.User.GID)); err != nil {
		s.Fatal(err)
	}
}

// Folder makes a folder of the server's user.
func (s *Server) Folder(name string) string {
	s.Helper()
	path := filepath.Join(s.Dir, name)
	if err := os.MkdirAll(path, 0o700); err != nil {
		s.Fatal(err)
	}
	s.own(path)
	return path
}

// File writes a file of the server's user.
func (s *Server) File(name, content string) string {
	s.Helper()
	path := filepath.Join(s.Dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.Fatal(err)
	}
	s.own(path)
	return path
}

// Run runs one of PostgreSQL's programs, which must succeed.
func (s *Server) Run(args ...string) string {
	s.Helper()
	out, err := s.Try(args...)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// Try runs one of PostgreSQL's programs.
func (s *Server) Try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	args[0] = filepath.Join(s.Bin, args[0])
	out, err := program.Command{User: s.User, Args: args, Dir: s.Dir}.Run(ctx)
	return strings.TrimSpace(out), err
}

// Start starts the server with an archive_command, and stops it with the test.
func (s *Server) Start(archive string) {
	s.Helper()
	s.Cleanup(s.Stop)
	s.StartOn(s.DataDir, "archive_mode=on", "archive_command="+archive)
}

// StartOn starts a server on another directory, in the place of this one, with
// further parameters, each NAME=VALUE.
func (s *Server) StartOn(dataDir string, parameters ...string) {
	s.Helper()
	all := append([]string{"listen_addresses=", "fsync=off", "shared_buffers=16MB", "wal_level=replica",
		"unix_socket_directories=" + s.Socket, fmt.Sprintf("port=%d", s.Port)}, parameters...)
	var options []string
	for _, p := range all {
		options = append(options, "-c", p)
	}
	log := s.log(dataDir)
	if _, err := s.Try("pg_ctl", "-D", dataDir, "-l", log, "-w", "-t", "60", "-o", program.Quote(options...), "start"); err != nil {
		said, _ := os.ReadFile(log)
		s.Fatalf("%v\n%s", err, said)
	}
	s.DataDir = dataDir
}

// log is the file of what the server says.
func (s *Server) log(dataDir string) string {
	return filepath.Join(s.Dir, filepath.Base(dataDir)+".log")
}

// Stop ends the server at once, if it runs.
func (s *Server) Stop() {
	if _, err := os.Stat(filepath.Join(s.DataDir, "postmaster.pid")); err == nil {
		if _, err := s.Try("pg_ctl", "-D", s.DataDir, "-m", "immediate", "stop"); err != nil {
			s.Error(err)
		}
	}
}

// SQL returns what a statement prints, without decoration.
func (s *Server) SQL(statement string) string {
	s.Helper()
	return s.Run("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", s.Socket, "-p", fmt.Sprint(s.Port), "-U", "postgres", "-d", "postgres", "-c", statement)
}

// Eventually asks until the answer to a statement is as wanted.
func (s *Server) Eventually(statement, want string) {
	s.Helper()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	got := ""
	for end := time.Now().Add(limit); time.Now().Before(end); <-ticker.C {
		if got = s.SQL(statement); got == want {
			return
		}
	}
	said, _ := os.ReadFile(s.log(s.DataDir)) // what there is
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	s.Fatalf("%s: still %q, want %q; archiver: %s\n%s", statement, got, want, s.SQL("select a::text from pg_stat_archiver a"), strings.Join(lines[max(0, len(lines)-30):], "\n"))
}

// Archive lets the server begin a new segment of log, and waits until the one
// before it has been archived.
func (s *Server) Archive() {
	s.Helper()
	segment := s.SQL("select pg_walfile_name(pg_switch_wal())")
	s.Eventually("select last_archived_wal >= '"+segment+"' from pg_stat_archiver", "t")
}
