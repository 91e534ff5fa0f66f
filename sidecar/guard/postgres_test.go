package guard_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// cluster is a rig whose server is PostgreSQL, reached by a socket in its data
// directory.
type cluster struct {
	*rig
	bin string
}

func newCluster(tb testing.TB) *cluster {
	tb.Helper()
	bin := labtest.Program(tb, programs.PostgresBin)
	c := &cluster{rig: newDirs(tb, ""), bin: bin}
	out, err := c.program("initdb", "--no-sync", "--auth=trust", "--username=postgres", "-D", c.dataDir).CombinedOutput()
	if err != nil {
		tb.Fatalf("initdb: %v: %s", err, out)
	}
	c.command.Path = filepath.Join(bin, "postgres")
	c.command.Args = []string{"-D", c.dataDir, "-c", "listen_addresses=", "-c", "fsync=off",
		"-c", "unix_socket_directories=" + c.dataDir, "-c", "shared_buffers=16MB"}
	c.command.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")} // PostgreSQL looks for itself there
	c.Client = attach(tb, c.stateDir)
	tb.Cleanup(c.end)
	return c
}

// program is one of PostgreSQL's, run as the server's user.
func (c *cluster) program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dataDir
	if os.Getuid() == 0 {
		uid, gid := serverUser()
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	}
	return cmd
}

func (c *cluster) psql(args ...string) *exec.Cmd {
	return c.program("psql", append([]string{"-XAtq", "-h", c.dataDir, "-U", "postgres", "-d", "postgres"}, args...)...)
}

func (c *cluster) start(tb testing.TB) {
	tb.Helper()
	must(tb, c.Start(deadline(tb), c.command))
	c.awaitAnswer(tb)
}

func (c *cluster) awaitAnswer(tb testing.TB) {
	tb.Helper()
	eventually(tb, "PostgreSQL answers", func() bool { return c.psql("-c", "select 1").Run() == nil })
}

// writer inserts rows as fast as it can until the server goes away, and then
// sends when the server made the last one that was acknowledged. That is the
// server's clock, because the test may be held up before it reads.
func (c *cluster) writer(t *testing.T) (writing chan struct{}, last chan ha.Instant) {
	t.Helper()
	cmd := c.psql("-v", "ON_ERROR_STOP=1")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	writing, last = make(chan struct{}), make(chan ha.Instant, 1)
	bootedAt := ha.Instant(time.Now().UnixNano()) - guard.Now()
	go func() {
		var at ha.Instant
		answers := bufio.NewReader(out)
		for n := 0; ; n++ {
			if _, err := io.WriteString(in, "insert into w values (1) returning extract(epoch from clock_timestamp());\n"); err != nil {
				break
			}
			answer, err := answers.ReadString('\n')
			if err != nil {
				break
			}
			epoch, _ := strconv.ParseFloat(strings.TrimSpace(answer), 64)
			at = ha.Instant(epoch*1e9) - bootedAt
			if n == 10 {
				close(writing)
			}
		}
		in.Close()
		cmd.Wait()
		last <- at
	}()
	return writing, last
}

// TestPostgresLease: a client of PostgreSQL is never answered after the end of
// the lease, and the server recovers afterwards.
func TestPostgresLease(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		t.Run(fmt.Sprintf("postmaster stopped %t", stopped), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.start(t)
			must(t, c.psql("-c", "create table w (n int)").Run())
			writing, last := c.writer(t)
			receive(t, writing)
			until := guard.Now().Add(2500 * time.Millisecond)
			must(t, c.Lease(deadline(t), until))
			if stopped { // the postmaster alone: its backends go on, and nobody tells them
				must(t, c.Signal(deadline(t), int(syscall.SIGSTOP)))
			}
			acknowledged := receive(t, last).Sub(until)
			s := c.awaitStatus(t, "server down", func(s guard.Status) bool { return !s.Running })
			t.Logf("last acknowledged row made %.1f ms, server down %.1f ms after the end of the lease (%s)",
				ms(acknowledged), ms(s.ExitedAt.Sub(until)), s.ExitStatus)
			if acknowledged > 0 {
				t.Error("acknowledged after the end of the lease")
			}
			must(t, c.Disarm(deadline(t)))
			c.start(t)
			must(t, c.Stop(deadline(t), false))
			if s := c.Status(); s.ExitStatus != "exit status 0" {
				t.Errorf("fast shutdown: %+v", s)
			}
		})
	}
}

// TestPostgresGuardKilled: PostgreSQL hears the parent-death signal, which the
// kernel forgets at a change of user unless it is set after that.
func TestPostgresGuardKilled(t *testing.T) {
	c := newCluster(t)
	c.start(t)
	must(t, c.psql("-c", "create table w (n int)").Run())
	writing, last := c.writer(t)
	receive(t, writing)
	pid := c.Status().PID
	must(t, c.Close()) // nobody starts another guard
	killed := guard.Now()
	must(t, syscall.Kill(c.rigGuard(t), syscall.SIGKILL))
	at := receive(t, last)
	eventually(t, "PostgreSQL gone", func() bool { return len(c.leftovers(t)) == 0 })
	t.Logf("guard killed: last acknowledged row %.1f ms later, all of PostgreSQL gone %.1f ms later",
		ms(at.Sub(killed)), ms(guard.Now().Sub(killed)))
	log, err := os.ReadFile(c.command.LogFile)
	must(t, err)
	if !strings.Contains(string(log), "received immediate shutdown request") {
		t.Errorf("postmaster %d did not hear SIGQUIT", pid)
	}
	c.Client = attach(t, c.stateDir)
	c.start(t)
}

// rigGuard is the pid of the guard in the state directory, by its lock.
func (c *cluster) rigGuard(t *testing.T) int {
	t.Helper()
	other := attach(t, c.stateDir)
	defer other.Close()
	return other.GuardPID()
}

// TestPostgresPostmasterKilled: when the sidecar hears that the postmaster was
// killed, its backends cannot answer anybody any more.
func TestPostgresPostmasterKilled(t *testing.T) {
	c := newCluster(t)
	c.start(t)
	must(t, c.psql("-c", "create table w (n int)").Run())
	var lasts []chan ha.Instant
	for range 8 {
		writing, last := c.writer(t)
		receive(t, writing)
		lasts = append(lasts, last)
	}
	down := make(chan ha.Instant, 1)
	c.Notify(func() {
		if !c.Status().Running {
			select {
			case down <- guard.Now():
			default:
			}
		}
	})
	killed := guard.Now()
	must(t, syscall.Kill(c.Status().PID, syscall.SIGKILL))
	told := receive(t, down)
	for _, last := range lasts {
		if after := receive(t, last).Sub(told); after > 0 {
			t.Errorf("a row was made %v after the server was said to be down", after)
		}
	}
	t.Logf("postmaster with 8 busy backends killed: guard knew after %.1f ms, client told after %.1f ms",
		ms(c.Status().ExitedAt.Sub(killed)), ms(told.Sub(killed)))
	c.start(t) // at once, although the backends may still be ending
	must(t, c.Stop(deadline(t), true))
	if left := c.leftovers(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestSweep kills the servers of the one directory and nothing else.
func TestSweep(t *testing.T) {
	c := newCluster(t)
	must(t, c.Shutdown(deadline(t)))
	server := c.program("postgres", c.command.Args...)
	must(t, server.Start())
	defer server.Wait()
	c.awaitAnswer(t)
	writing, last := c.writer(t)
	_ = writing
	bystander := exec.Command("cat") // somebody's shell in the data directory
	bystander.Dir = c.dataDir
	stdin, err := bystander.StdinPipe()
	must(t, err)
	must(t, bystander.Start())
	if left := c.leftovers(t); len(left) < 5 || !slices.Contains(left, server.Process.Pid) || slices.Contains(left, bystander.Process.Pid) {
		t.Errorf("found %v; the postmaster is %d, the bystander %d", left, server.Process.Pid, bystander.Process.Pid)
	}
	killed, err := guard.Sweep(deadline(t), c.dataDir)
	must(t, err)
	if killed < 5 || len(c.leftovers(t)) > 0 {
		t.Errorf("killed %d, left %v", killed, c.leftovers(t))
	}
	receive(t, last)
	stdin.Close()
	must(t, bystander.Wait()) // exit status 0: it was not killed

	for _, f := range []struct {
		name, content string
		stays         bool
	}{
		{"pid of a living process that is no server", fmt.Sprintf("%d\n%s\n", os.Getpid(), c.dataDir), false},
		{"pid of nobody", fmt.Sprintf("%d\n%s\n", 1<<22+1, c.dataDir), true},
		{"damaged", "x\n", true},
	} {
		name := filepath.Join(c.dataDir, "postmaster.pid")
		must(t, os.WriteFile(name, []byte(f.content), 0o600))
		labtest.OwnedByServer(t, name)
		_, err := guard.Sweep(deadline(t), c.dataDir)
		must(t, err)
		if _, err := os.Stat(name); (err == nil) != f.stays {
			t.Errorf("%s: postmaster.pid: %v", f.name, err)
		}
	}
	if _, err := guard.Sweep(deadline(t), c.dataDir+"x"); err != nil {
		t.Errorf("no directory: %v", err)
	}
	c.Client = attach(t, c.stateDir)
}

// BenchmarkExitNotice measures from the SIGKILL of a postmaster to the
// sidecar's knowledge that it, and all it left, is down.
func BenchmarkExitNotice(b *testing.B) {
	r := newRig(b, "polite")
	r.command.Args[2] = "0" // no children
	down := make(chan ha.Instant, 8)
	r.Notify(func() {
		if s := r.Status(); s.Known && !s.Running {
			down <- guard.Now()
		}
	})
	var all []time.Duration
	for b.Loop() {
		must(b, r.Start(deadline(b), r.command))
		pid := r.Status().PID
		killed := guard.Now()
		must(b, syscall.Kill(pid, syscall.SIGKILL))
		all = append(all, receive(b, down).Sub(killed))
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkLease measures one extension of the lease, acknowledged.
func BenchmarkLease(b *testing.B) {
	r := newRig(b, "polite")
	ctx := deadline(b)
	for b.Loop() {
		must(b, r.Lease(ctx, guard.Now().Add(time.Hour)))
	}
}
