package pgbouncer_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
	"github.com/pgsidecar/pgsidecar/templates"
	"github.com/pgsidecar/pgsidecar/templates/pgbouncer"
)

// This test binary is also the watchdog process, and a process that pauses and
// then hangs until it is killed.
func TestMain(m *testing.M) {
	switch os.Getenv("PGBOUNCER_TEST_ROLE") {
	case "watchdog":
		if err := pgbouncer.Watchdog(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "pauser":
		p, err := pgbouncer.New(pgbouncer.Options{Address: os.Args[1], User: "app", Watchdog: watchdogCommand()})
		if err == nil {
			err = p.Pause(context.Background(), time.Hour)
		}
		fmt.Println("paused", err)
		select {}
	default:
		os.Exit(m.Run())
	}
}

func watchdogCommand() []string {
	return []string{"/usr/bin/env", "PGBOUNCER_TEST_ROLE=watchdog", os.Args[0]}
}

// pool is a PgBouncer in transaction mode before one PostgreSQL server.
type pool struct {
	t    *testing.T
	port int
}

func eventually(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	labtest.Until(t, d, what, ok)
}

func newPool(t *testing.T) *pool {
	t.Helper()
	return newPoolBefore(t, func(server int) int { return server })
}

// newPoolBefore makes one whose PgBouncer connects to the port that before returns for
// the server's.
func newPoolBefore(t *testing.T, before func(server int) int) *pool {
	t.Helper()
	bouncer := labtest.Program(t, programs.PgBouncer)
	dir := labtest.Dir(t)
	p := &pool{t: t, port: labtest.FreePort(t)}
	server := before(p.startPostgres(dir))
	users := filepath.Join(dir, "users")
	ini := filepath.Join(dir, "pgbouncer.ini")
	for path, text := range map[string]string{
		users: "\"app\" \"\"\n",
		ini: fmt.Sprintf("[databases]\n* = host=127.0.0.1 port=%d\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port=%d\nunix_socket_dir=\n"+
			"auth_type=trust\nauth_file=%s\nadmin_users=app\npool_mode=transaction\nserver_login_retry=0.05\n", server, p.port, users),
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p.start(exec.Command(bouncer, ini), dir)
	eventually(t, 20*time.Second, "the pool", func() bool { return p.query("select 1") == nil })
	return p
}

// start runs a program as postgres, which refuses to be root's, like PgBouncer.
func (p *pool) start(cmd *exec.Cmd, dir string) {
	p.t.Helper()
	labtest.OwnedByServer(p.t, dir)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: labtest.ServerUser(p.t)}
	labtest.Start(p.t, cmd)
}

func (p *pool) startPostgres(dir string) int {
	p.t.Helper()
	bin := labtest.Program(p.t, programs.PostgresBin)
	labtest.OwnedByServer(p.t, dir)
	data, port := filepath.Join(dir, "data"), labtest.FreePort(p.t)
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-A", "trust", "-U", "app", "-N", "--no-instructions")
	initdb.Dir, initdb.SysProcAttr = dir, &syscall.SysProcAttr{Credential: labtest.ServerUser(p.t)}
	if out, err := initdb.CombinedOutput(); err != nil {
		p.t.Fatalf("initdb: %v\n%s", err, out)
	}
	p.start(exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "fsync=off", "-c", "shared_buffers=8MB", "-p", strconv.Itoa(port)), dir)
	return port
}

func (p *pool) connect(ctx context.Context) (*pgconn.PgConn, error) {
	return pgconn.Connect(ctx, fmt.Sprintf("host=127.0.0.1 port=%d user=app dbname=postgres sslmode=disable", p.port))
}

func (p *pool) query(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, sql).ReadAll()
	return err
}

func (p *pool) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)) }

func (p *pool) bouncer(o pgbouncer.Options) *pgbouncer.Pooler {
	p.t.Helper()
	o.Address, o.User = p.address(), "app"
	b, err := pgbouncer.New(o)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// clients run queries until stop is called, which returns how many were done
// and the longest.
func (p *pool) clients(n int) (stop func() (done int64, longest time.Duration)) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var done, longest atomic.Int64
	for range n {
		c, err := p.connect(ctx)
		if err != nil {
			p.t.Fatal(err)
		}
		all.Go(func() {
			defer c.Close(context.Background()) //nolint:errcheck // the test is over
			for ctx.Err() == nil {
				start := time.Now()
				if _, err := c.Exec(context.Background(), "begin; select pg_sleep(0.002); commit").ReadAll(); err != nil {
					p.t.Errorf("a client's transaction failed: %v", err)
					return
				}
				done.Add(1)
				for took := int64(time.Since(start)); ; {
					was := longest.Load()
					if took <= was || longest.CompareAndSwap(was, took) {
						break
					}
				}
			}
		})
	}
	return func() (int64, time.Duration) {
		cancel()
		all.Wait()
		return done.Load(), time.Duration(longest.Load())
	}
}

func TestPgBouncer(t *testing.T) {
	p := newPool(t)
	t.Run("nobody notices", func(t *testing.T) {
		b := p.bouncer(pgbouncer.Options{Watchdog: watchdogCommand()})
		stop := p.clients(10)
		var pauses []time.Duration
		for range 5 {
			start := time.Now()
			if err := b.Pause(t.Context(), 10*time.Second); err != nil {
				t.Fatal(err)
			}
			pauses = append(pauses, time.Since(start))
			if err := b.Pause(t.Context(), 10*time.Second); err != nil || !b.Status().Paused {
				t.Fatalf("a second pause: %v", err)
			}
			for range 2 {
				if err := b.Resume(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		done, longest := stop()
		t.Logf("pause: median %v; %d transactions, the longest %v", median(pauses), done, longest)
		if done == 0 {
			t.Error("no transaction was done")
		}
	})
	t.Run("an open transaction", func(t *testing.T) {
		b := p.bouncer(pgbouncer.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := p.connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(ctx)
		if _, err := c.Exec(ctx, "begin").ReadAll(); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		if err := b.Pause(short, time.Minute); !errors.Is(err, pgbouncer.ErrTransactions) {
			t.Errorf("pause: %v", err)
		}
		if err := p.query("select 1"); err != nil {
			t.Errorf("another client: %v", err)
		}
		if _, err := c.Exec(ctx, "select 1; commit").ReadAll(); err != nil {
			t.Errorf("the open transaction: %v", err)
		}
		if s := b.Status(); s.Paused || s.Error == "" {
			t.Errorf("status %+v", s)
		}
	})
	t.Run("expiry", func(t *testing.T) {
		b := p.bouncer(pgbouncer.Options{})
		if err := b.Pause(t.Context(), 300*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if err := p.query("select 1"); err != nil {
			t.Error(err)
		}
		eventually(t, 5*time.Second, "the expiry", func() bool { s := b.Status(); return !s.Paused && s.Expired == 1 })
	})
	t.Run("killed while it holds clients", func(t *testing.T) {
		cmd := exec.Command(os.Args[0], p.address())
		cmd.Env = append(os.Environ(), "PGBOUNCER_TEST_ROLE=pauser")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		word := make([]byte, len("paused <nil>"))
		if _, err := out.Read(word); err != nil || string(word) != "paused <nil>" {
			t.Fatalf("%q, %v", word, err)
		}
		start := time.Now()
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := p.query("select 1"); err != nil {
			t.Fatal(err)
		}
		t.Logf("clients went on %v after the kill", time.Since(start))
		cmd.Wait() //nolint:errcheck // it was killed
	})
	t.Run("agent", func(t *testing.T) {
		b := p.bouncer(pgbouncer.Options{Watchdog: watchdogCommand()})
		a, err := templates.NewAgent(templates.AgentOptions{Bouncers: []templates.Pooler{b}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); a.Run(ctx) }() //nolint:errcheck // ends with ctx
		stop := p.clients(5)
		steady := top(t, "a")
		gap := steady
		gap.Primary, gap.Phase, gap.Term = nil, ha.PhaseElecting, 2
		for range 3 {
			a.Update(gap)
			eventually(t, 5*time.Second, "the pause", func() bool { return b.Status().Paused })
			a.Update(steady)
			eventually(t, 5*time.Second, "the end of the pause", func() bool { return !b.Status().Paused })
		}
		a.Update(gap)
		eventually(t, 5*time.Second, "the pause", func() bool { return b.Status().Paused })
		cancel()
		<-ended
		if b.Status().Paused {
			t.Error("the agent's end left clients waiting")
		}
		stop()
	})
}

func TestPgBouncerErrors(t *testing.T) {
	for _, address := range []string{"", "x", "x:", "x:0", ":1", "x:99999"} {
		if _, err := pgbouncer.New(pgbouncer.Options{Address: address}); err == nil {
			t.Errorf("address %q was taken", address)
		}
	}
	secret := "hunter2"
	b, err := pgbouncer.New(pgbouncer.Options{
		Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(labtest.FreePort(t))), User: "o'x", Password: func() (string, error) { return secret, nil }})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{b.Pause(t.Context(), time.Second), b.Resume(t.Context()), b.Reload(t.Context())} {
		if err == nil || slices.Contains([]string{err.Error()}, secret) {
			t.Errorf("nobody listens: %v", err)
		}
	}
}

func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}
