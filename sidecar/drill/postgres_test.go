package drill_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/sidecar/drill"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// server is one plain PostgreSQL server of a test.
type server struct {
	port int
	t    *testing.T
}

// startPostgres runs a server for the length of the test.
func startPostgres(t *testing.T) *server {
	t.Helper()
	bin := labtest.Program(t, programs.PostgresBin)
	base, err := os.MkdirTemp("", "drill") // t.TempDir's parents keep PostgreSQL's user out
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	attr := &syscall.SysProcAttr{}
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(base, uid, gid); err != nil {
			t.Fatal(err)
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(base, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-N", "--no-instructions")
	initdb.SysProcAttr, initdb.Dir = attr, base
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	port := labtest.FreePort(t)
	s := &server{port: port, t: t}
	postgres := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-p", strconv.Itoa(s.port), "-h", "127.0.0.1",
		"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=8MB")
	postgres.SysProcAttr, postgres.Dir = attr, base
	if err := postgres.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = postgres.Process.Signal(syscall.SIGQUIT)
		_ = postgres.Wait()
	})
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond) // PostgreSQL tells nobody when it is ready
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(t.Context(), s.dsn("postgres"))
		if err == nil {
			conn.Close(t.Context())
			break
		}
		select {
		case <-deadline:
			t.Fatal(err)
		case <-tick.C:
		}
	}
	if err := drill.Prepare(t.Context(), s.connect(), "drill", "it's a \\ \"password\""); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) dsn(role string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=postgres sslmode=disable", s.port, role)
}

// connect connects as superuser, for the length of the test.
func (s *server) connect() *pgx.Conn {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.dsn("postgres"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func (s *server) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.connect().Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatal(err)
	}
}

// route is the way to the server.
func (s *server) route() drill.Route {
	return drill.Route{Name: "plain", Connect: func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.Connect(ctx, s.dsn("drill"))
	}}
}
