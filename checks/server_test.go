package checks_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/checks"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// frozen is what package postgres starts every standby with.
const frozen = `FIRST 999 ("pgsidecar:nobody")`

// server is one PostgreSQL server of a test.
type server struct {
	t    testing.TB
	name string
	dir  string // has data, sock, the gate and the log
	port int
	conn *checks.Conn

	process *labtest.Process
}

func now() ha.Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err)
	}
	return ha.Instant(ts.Nano())
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *server) data() string { return filepath.Join(s.dir, "data") }
func (s *server) gate() string { return filepath.Join(s.dir, "upstream") }

func (s *server) command(name string, args ...string) *exec.Cmd {
	s.t.Helper()
	bin := labtest.Program(s.t, programs.PostgresBin)
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"LC_ALL=C.UTF-8", "PATH=/usr/bin:/bin", "PGSERVICEFILE=" + s.gate()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: labtest.ServerUser(s.t), Setpgid: true}
	return cmd
}

func (s *server) run(name string, args ...string) {
	s.t.Helper()
	if out, err := s.command(name, args...).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func newServer(t testing.TB, name string) *server {
	t.Helper()
	dir := labtest.Dir(t)
	labtest.OwnedByServer(t, dir)
	port := labtest.FreePort(t)
	return &server{t: t, name: name, dir: dir, port: port}
}

// primary makes and starts a new server out of recovery.
func primary(t testing.TB, name string) *server {
	t.Helper()
	s := newServer(t, name)
	s.run("initdb", "-D", s.data(), "-U", "postgres", "--auth=trust", "--no-sync", "--data-checksums")
	s.configure("")
	s.start()
	return s
}

// standby clones and starts one that receives from nobody.
func (s *server) standby(name string) *server {
	s.t.Helper()
	r := newServer(s.t, name)
	r.run("pg_basebackup", "-D", r.data(), "-h", "127.0.0.1", "-p", strconv.Itoa(s.port), "-U", "postgres",
		"-X", "stream", "--checkpoint=fast", "--no-sync")
	r.makeStandby()
	r.start()
	return r
}

func (s *server) makeStandby() {
	s.t.Helper()
	s.configure(frozen)
	must(s.t, os.WriteFile(filepath.Join(s.data(), "standby.signal"), nil, 0o644))
	_ = os.Remove(s.gate())
}

func (s *server) configure(names string) {
	s.t.Helper()
	conf := fmt.Sprintf(`
include 'postgresql.conf'
port = %d
listen_addresses = '127.0.0.1'
unix_socket_directories = '%s'
shared_buffers = 16MB
max_wal_size = 256MB
wal_log_hints = on
restart_after_crash = off
cluster_name = '%s'
wal_retrieve_retry_interval = 100ms
wal_receiver_timeout = 2s
wal_receiver_status_interval = 1s
wal_sender_timeout = 5s
wal_keep_size = 64MB
max_wal_senders = 16
max_replication_slots = 16
`, s.port, s.dir, s.name)
	must(s.t, os.WriteFile(filepath.Join(s.data(), "test.conf"), []byte(conf), 0o644))
	auto := filepath.Join(s.data(), "postgresql.auto.conf")
	must(s.t, os.WriteFile(auto, []byte("primary_conninfo = ''\nsynchronous_standby_names = '"+names+"'\n"), 0o600))
	labtest.OwnedByServer(s.t, auto)
}

func (s *server) start() {
	s.t.Helper()
	s.process = labtest.Start(s.t, s.command("postgres", "-D", s.data(), "-c", "config_file="+filepath.Join(s.data(), "test.conf")))
	s.t.Cleanup(func() { s.stop(syscall.SIGQUIT) })
	if s.conn == nil {
		s.conn = s.newConn()
		conn := s.conn
		s.t.Cleanup(conn.Close)
	}
	must(s.t, s.conn.Await(within(s.t, 20*time.Second)))
}

// newConn is what a sidecar has of its own server.
func (s *server) newConn() *checks.Conn {
	s.t.Helper()
	return s.newConnAs("postgres")
}

func (s *server) newConnAs(user string) *checks.Conn {
	s.t.Helper()
	conn, err := checks.New(checks.Options{Socket: s.dir, Port: s.port, User: user, Member: s.name, Major: s.major(), Now: now,
		Shut: func() bool { _, err := os.Stat(s.gate()); return err != nil }})
	must(s.t, err)
	return conn
}

// stop ends the server by a signal, and waits for it and for its children.
func (s *server) stop(sig syscall.Signal) {
	if s.process == nil {
		return
	}
	pid := s.process.Cmd.Process.Pid
	_ = syscall.Kill(pid, sig)
	select {
	case <-s.process.Ended():
	case <-time.After(10 * time.Second):
		s.process.Kill()
	}
	poll(s.t, 5*time.Second, "children to end", func() bool { return errors.Is(syscall.Kill(-pid, 0), syscall.ESRCH) })
	s.process = nil
}

// poll waits for what has no event.
func poll(t testing.TB, d time.Duration, what string, done func() bool) {
	t.Helper()
	labtest.Until(t, d, what, done)
}

// follow opens the gate and follows.
func (s *server) follow(from *server) { s.followBySlot(from, "") }

func (s *server) followBySlot(from *server, slot string) {
	s.t.Helper()
	service := "pgsidecar:" + from.name
	must(s.t, os.WriteFile(s.gate(), []byte("["+service+"]\n"), 0o644))
	must(s.t, s.conn.Follow(within(s.t, 10*time.Second), checks.ConnInfo(checks.Upstream{Service: service,
		Host: "127.0.0.1", Port: from.port, User: "postgres", Self: s.name, Timeout: 2 * time.Second}), slot, ""))
}

func (s *server) shut() { _ = os.Remove(s.gate()) }

func (s *server) streaming() *server {
	s.t.Helper()
	poll(s.t, 20*time.Second, s.name+" to stream", func() bool {
		facts, err := s.conn.Read(within(s.t, 5*time.Second))
		return err == nil && facts.Receiving == ha.Yes
	})
	return s
}

// sql connects as an application.
func (s *server) sql() *pgx.Conn {
	s.t.Helper()
	c, err := pgx.Connect(within(s.t, 10*time.Second), fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", s.dir, s.port))
	must(s.t, err)
	s.t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

func (s *server) exec(query string) {
	s.t.Helper()
	_, err := s.sql().Exec(within(s.t, 20*time.Second), query)
	must(s.t, err)
}

func (s *server) value(query string) string {
	s.t.Helper()
	var v string
	must(s.t, s.sql().QueryRow(within(s.t, 20*time.Second), "select ("+query+")::text").Scan(&v))
	return v
}

func (s *server) lsn(query string) ha.LSN {
	s.t.Helper()
	l, err := ha.ParseLSN(s.value(query))
	must(s.t, err)
	return l
}

// load writes to the server from several connections until stopped; each remembers
// the number of rows whose commit was acknowledged.
type load struct {
	stop context.CancelFunc
	wg   sync.WaitGroup
	rows []atomic.Int64
}

func (s *server) load(writers int) *load {
	s.t.Helper()
	s.exec("create table if not exists load (writer int, n int, filler text)")
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel, rows: make([]atomic.Int64, writers)}
	for w := range writers {
		c := s.sql()
		l.wg.Go(func() {
			for n := 1; ; n++ {
				_, err := c.Exec(ctx, "insert into load values ($1, $2, repeat('x', 200))", w, n)
				if err != nil {
					return
				}
				l.rows[w].Store(int64(n))
			}
		})
	}
	s.t.Cleanup(l.end)
	return l
}

// acked returns how many rows of each writer were acknowledged.
func (l *load) acked() []int {
	rows := make([]int, len(l.rows))
	for w := range l.rows {
		rows[w] = int(l.rows[w].Load())
	}
	return rows
}

func (l *load) end() { l.stop(); l.wg.Wait() }

// writeHBA replaces pg_hba.conf and has it read.
func writeHBA(s *server, content string) error {
	if err := os.WriteFile(filepath.Join(s.data(), "pg_hba.conf"), []byte(content), 0o600); err != nil {
		return err
	}
	s.exec("select pg_reload_conf()")
	return nil
}
