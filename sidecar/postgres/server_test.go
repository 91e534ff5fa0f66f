package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/sidecar/rights"
)

// testGuard is the postmaster's parent in a test.
type testGuard struct {
	cmd  *exec.Cmd
	done chan struct{}
}

var _ Guard = (*testGuard)(nil)

func (g *testGuard) Start(_ context.Context, c Command) error {
	log, err := rights.Of(c.UID, c.GID).OpenFile(c.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	g.cmd = exec.Command(c.Path, c.Args...)
	g.cmd.Env, g.cmd.Dir, g.cmd.Stdout, g.cmd.Stderr = c.Env, c.Dir, log, log
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		g.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID}
	}
	if err := g.cmd.Start(); err != nil {
		return err
	}
	done, cmd := make(chan struct{}), g.cmd
	g.done = done
	go func() { _ = cmd.Wait(); close(done) }()
	return nil
}

func (g *testGuard) Stop(ctx context.Context, immediate bool) error {
	if g.cmd == nil {
		return nil
	}
	sig := syscall.SIGINT
	if immediate {
		sig = syscall.SIGQUIT
	}
	_ = g.cmd.Process.Signal(sig)
	return g.gone(ctx)
}

func (g *testGuard) gone(ctx context.Context) error {
	select {
	case <-g.done:
	case <-ctx.Done():
		_ = syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL)
		<-g.done
	}
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for syscall.Kill(-g.cmd.Process.Pid, 0) == nil {
		<-ticker.C
	}
	g.cmd = nil
	return nil
}

func (g *testGuard) Signal(_ context.Context, sig int) error {
	return g.cmd.Process.Signal(syscall.Signal(sig))
}

// crash ends the server as a fall of the machine would.
func (g *testGuard) crash() {
	if g.cmd == nil {
		return
	}
	_ = syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL)
	_ = g.gone(context.Background())
}

// member is a server of a test, with its guard.
type member struct {
	*Server
	t     testing.TB
	guard *testGuard
	base  string
}

// own gives a file to the server's user.
func (m *member) own(path string) error {
	if !m.switchID {
		return nil
	}
	return os.Lchown(path, int(m.uid), int(m.gid))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func secret(s string) Secret { return func() (string, error) { return s, nil } }

const replicationPassword = `it's a:secret\`

// testOptions are those of a member with a port and directories of its own.
func testOptions(t testing.TB, base, name string, port int, guard Guard) Options {
	t.Helper()
	bin := labtest.Program(t, programs.PostgresBin)
	return Options{Member: name, BinDir: bin, DataDir: filepath.Join(base, "data"),
		Listen:            fmt.Sprintf("127.0.0.1:%d", port),
		SuperuserPassword: secret("root's"), ReplicationPassword: secret(replicationPassword),
		Parameters: map[string]string{"shared_buffers": "16MB", "max_wal_size": "256MB", "wal_keep_size": "64MB"},
		Guard:      guard}
}

func testDir(t testing.TB) string {
	t.Helper()
	base, err := os.MkdirTemp("", "pgsidecar-postgres-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(base) })
	must(t, os.Chmod(base, 0o755))
	return base
}

func freePort(t testing.TB) int {
	t.Helper()
	return labtest.FreePort(t)
}

func newMember(t testing.TB, name string, changes ...func(*Options)) *member {
	t.Helper()
	base, guard := testDir(t), &testGuard{}
	o := testOptions(t, base, name, freePort(t), guard)
	for _, change := range changes {
		change(&o)
	}
	s, err := New(o)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(s.logFile())
			t.Logf("log of %s:\n%s", name, log[max(0, len(log)-2500):])
		}
		guard.crash()
	})
	return &member{Server: s, t: t, guard: guard, base: base}
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// psql asks the server as the sidecar would, over its socket.
func (m *member) psql(query string) (string, error) {
	cmd := exec.Command(filepath.Join(m.o.BinDir, "psql"), "-h", m.SocketDir(), "-p", strconv.Itoa(m.Port()),
		"-U", "postgres", "-d", "postgres", "-XAtq", "-v", "ON_ERROR_STOP=1")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "PGCONNECT_TIMEOUT=5"}
	cmd.Stdin = strings.NewReader(query)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m *member) sql(query string) string {
	m.t.Helper()
	out, err := m.psql(query)
	if err != nil {
		m.t.Fatalf("%s: %v: %s", query, err, out)
	}
	return out
}

func (m *member) lsn(query string) ha.LSN {
	m.t.Helper()
	l, err := ha.ParseLSN(m.sql("select " + query))
	must(m.t, err)
	return l
}

// poll waits for what has no event.
func poll(t testing.TB, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(60 * time.Second)
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("waited a minute for %s", what)
		case <-ticker.C:
		}
	}
}

func (m *member) up() {
	m.t.Helper()
	poll(m.t, m.o.Member+" to answer", func() bool { _, err := m.psql("select 1"); return err == nil })
}

func (m *member) source() Source {
	return Source{Member: m.o.Member, Host: "127.0.0.1", Port: m.Port()}
}

// newPrimary makes a server and starts it out of recovery, with the role.
func newPrimary(t testing.TB, name string, changes ...func(*Options)) *member {
	t.Helper()
	m := newMember(t, name, changes...)
	must(t, m.Init(soon(t)))
	must(t, m.Start(soon(t), StartOptions{Primary: true}))
	m.up()
	m.sql("create role replicator login replication password '" + strings.ReplaceAll(replicationPassword, "'", "''") + "';" +
		"grant execute on function pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), pg_read_binary_file(text)," +
		"pg_read_binary_file(text, bigint, bigint, boolean) to replicator; create table t (n int)")
	return m
}

// follow admits the source and receives from it.
func (m *member) follow(from *member) {
	m.t.Helper()
	must(m.t, m.Admit(from.o.Member))
	m.sql(fmt.Sprintf("alter system set primary_conninfo = 'service=''%s'' host=127.0.0.1 port=%d user=replicator passfile=''%s'' application_name=%s'",
		Service(from.o.Member), from.Port(), m.Passfile(), m.o.Member))
	m.sql("select pg_reload_conf()")
	poll(m.t, m.o.Member+" to stream", func() bool {
		return m.sql("select count(*) from pg_stat_wal_receiver where status = 'streaming'") == "1"
	})
}

func (m *member) caughtUp(from *member) {
	m.t.Helper()
	end := from.lsn("pg_current_wal_flush_lsn()")
	poll(m.t, m.o.Member+" to catch up", func() bool { return m.lsn("pg_last_wal_replay_lsn()") >= end })
}

// newStandby clones and starts one that streams from the source.
func (m *member) newStandby(name string, changes ...func(*Options)) *member {
	m.t.Helper()
	r := newMember(m.t, name, changes...)
	must(m.t, r.Clone(soon(m.t), m.source(), nil))
	must(m.t, r.Start(soon(m.t), StartOptions{}))
	r.up()
	r.follow(m)
	return r
}

// fenced cuts a standby off and returns its position.
func (m *member) fenced(tli ha.TLI) ha.Position {
	m.t.Helper()
	must(m.t, m.Shut())
	m.sql("alter system set primary_conninfo = ''")
	m.sql("select pg_reload_conf()")
	poll(m.t, "no walreceiver", func() bool {
		return m.sql("select count(*) from pg_stat_activity where backend_type = 'walreceiver'") == "0"
	})
	history, err := m.History(tli)
	must(m.t, err)
	return ha.Position{History: history, TLI: tli,
		LSN: max(m.lsn("coalesce(pg_last_wal_receive_lsn(), '0/0')"), m.lsn("pg_last_wal_replay_lsn()"))}
}

func (m *member) promote() ha.TLI {
	m.t.Helper()
	m.sql("alter system set synchronous_standby_names = ''")
	m.sql("select pg_reload_conf()")
	if m.sql("select pg_promote(true, 60)") != "t" {
		m.t.Fatal("no promotion")
	}
	m.sql("checkpoint")
	tli, err := strconv.ParseUint(m.sql("select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"), 16, 32)
	must(m.t, err)
	return ha.TLI(tli)
}

func (m *member) inspect() Facts {
	m.t.Helper()
	f, err := m.Inspect(soon(m.t))
	must(m.t, err)
	return f
}

// killed runs an operation in a process of its own (TestKilledHere), which kills
// itself with -9 at the step.
func killed(t *testing.T, o Options, step string, env ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledHere$", "-test.v")
	cmd.Env = append(os.Environ(), append(env, "KILL_STEP="+step, "KILL_DATA="+o.DataDir, "KILL_MEMBER="+o.Member,
		"KILL_LISTEN="+o.Listen)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process was to be killed at %q: %v\n%s", step, err, out)
	}
}

// TestKilledHere is the process that dies.
func TestKilledHere(t *testing.T) {
	step := os.Getenv("KILL_STEP")
	if step == "" {
		t.Skip("only run by other tests")
	}
	_, port, _ := net.SplitHostPort(os.Getenv("KILL_LISTEN"))
	n, _ := strconv.Atoi(port)
	o := testOptions(t, filepath.Dir(os.Getenv("KILL_DATA")), os.Getenv("KILL_MEMBER"), n, &testGuard{})
	s, err := New(o)
	must(t, err)
	die := func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL); select {} }
	s.stepped = func(at string) error {
		if at == step {
			die()
		}
		return nil
	}
	source, _ := strconv.Atoi(os.Getenv("KILL_SOURCE"))
	from := Source{Member: "n1", Host: "127.0.0.1", Port: source}
	switch os.Getenv("KILL_DO") {
	case "clone":
		err = s.Clone(soon(t), from, func(int64, int64) {
			if step == "running" {
				die()
			}
		})
	case "rewind":
		_, err = s.Rewind(soon(t), from)
	case "init":
		err = s.Init(soon(t))
	}
	t.Fatalf("lived past %q: %v", step, err)
}
