package guard_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

func TestStartAndStop(t *testing.T) {
	r := newRig(t, "polite")
	if s := r.Status(); !s.Known || s.Running || s.Version != "test" {
		t.Fatalf("fresh guard says %+v", s)
	}
	r.start(t)
	s := r.Status()
	if !s.Running || s.PID == 0 || s.StartedAt == 0 || s.ExitedAt != 0 {
		t.Fatalf("after start: %+v", s)
	}
	if err := r.Start(deadline(t), r.command); !errors.Is(err, guard.ErrRunning) {
		t.Errorf("second start: %v", err)
	}
	if err := r.Shutdown(deadline(t)); !errors.Is(err, guard.ErrRunning) {
		t.Errorf("shutdown of a guard with a server: %v", err)
	}
	must(t, r.Stop(deadline(t), false))
	s = r.Status()
	if s.Running || s.ExitedAt < s.StartedAt || s.ExitStatus != "exit status 0" {
		t.Errorf("after stop: %+v", s)
	}
	if left := r.leftovers(t); len(left) > 0 {
		t.Errorf("left after stop: %v", left)
	}
	if err := r.Signal(deadline(t), int(syscall.SIGHUP)); !errors.Is(err, guard.ErrNotRunning) {
		t.Errorf("signal to nobody: %v", err)
	}
	must(t, r.Stop(deadline(t), true)) // nothing to stop
	info, err := os.Stat(r.command.LogFile)
	must(t, err)
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != r.command.UID || info.Size() == 0 {
		t.Errorf("server log: owner %d, %d bytes", uid, info.Size())
	}
}

// TestImmediateStopOfTheStubborn: SIGQUIT is ignored, so SIGKILL follows.
func TestImmediateStopOfTheStubborn(t *testing.T) {
	r := newRig(t, "stubborn")
	r.start(t)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Stop(short, false); !errors.Is(err, context.DeadlineExceeded) || !r.Status().Running {
		t.Fatalf("a fast stop that is ignored: %v, %+v", err, r.Status())
	}
	must(t, r.Stop(deadline(t), true))
	if left := r.leftovers(t); len(left) > 0 {
		t.Errorf("left after stop: %v", left)
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t, "polite")
	for _, c := range []struct {
		name   string
		change func(*guard.Command)
		is     error
		text   string
	}{
		{"root", func(c *guard.Command) { c.UID = 0 }, guard.ErrRoot, "root"},
		{"no program", func(c *guard.Command) { c.Path += "x" }, syscall.ENOENT, "postgresx"},
		{"relative data directory", func(c *guard.Command) { c.Dir = "data" }, nil, "absolute"},
		{"log of another user", func(c *guard.Command) { c.LogFile = filepath.Join(r.stateDir, "log") }, nil, "open log file as user"},
	} {
		t.Run(c.name, func(t *testing.T) {
			command := r.command
			c.change(&command)
			err := r.Start(deadline(t), command)
			if err == nil || !strings.Contains(err.Error(), c.text) || r.Status().Running {
				t.Fatalf("got %v", err)
			}
			if c.is == guard.ErrRoot && !errors.Is(err, c.is) {
				t.Errorf("%v is not %v", err, c.is)
			}
		})
	}
}

// TestServerLogIsBounded: one older file is kept, and it is the server's user
// who writes both.
func TestServerLogIsBounded(t *testing.T) {
	r := newRig(t, "polite")
	log, older := r.command.LogFile, r.command.LogFile+".1"
	must(t, os.WriteFile(log, []byte("first"), 0o600))
	must(t, os.Truncate(log, 65<<20))
	must(t, os.Chown(log, int(r.command.UID), int(r.command.GID)))
	r.start(t)
	if info, err := os.Stat(older); err != nil || info.Size() != 65<<20 {
		t.Errorf("older log: %v, %v", info, err)
	}
	must(t, guard.MoveLog(r.command)) // under the running server
	b, err := os.ReadFile(older)
	must(t, err)
	if !strings.HasPrefix(string(b), "postmaster ") {
		t.Errorf("older log begins %q", b[:min(20, len(b))])
	}
	must(t, r.Stop(deadline(t), true))
	r.start(t)
	eventually(t, "the log begins anew", func() bool {
		b, err := os.ReadFile(log)
		return err == nil && strings.HasPrefix(string(b), "postmaster ")
	})
	info, err := os.Stat(older)
	must(t, err)
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != r.command.UID {
		t.Errorf("older log belongs to %d", uid)
	}
}

// TestPostmasterKilled: when the sidecar hears that the postmaster is gone, all
// that it left is dead, or at least will not run again.
func TestPostmasterKilled(t *testing.T) {
	r := newRig(t, "stubborn")
	down := make(chan ha.Instant, 8)
	r.start(t)
	r.Notify(func() { down <- guard.Now() })
	must(t, syscall.Kill(r.Status().PID, syscall.SIGKILL))
	told := receive(t, down)
	eventually(t, "nothing left", func() bool { return len(r.leftovers(t)) == 0 })
	after := r.lastBeat().Sub(told)
	t.Logf("last sign of life of what the postmaster left: %.2f ms after the sidecar was told", ms(after))
	if after > 0 {
		t.Error("something of the server ran when it was said to be down")
	}
	must(t, r.Start(deadline(t), r.command))
}

// TestGuardKilled: the server dies with its guard, and what did not hear the
// signal is swept by the guard that the client starts next.
func TestGuardKilled(t *testing.T) {
	for _, c := range []struct {
		name, manner string
		swept        bool
	}{
		{"polite", "polite", true}, // its children, which the false postmaster does not take with it
		{"stubborn", "stubborn", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.manner)
			unknown := make(chan ha.Instant, 1)
			r.Notify(func() {
				if !r.Status().Known {
					select {
					case unknown <- guard.Now():
					default:
					}
				}
			})
			r.start(t)
			old := r.GuardPID()
			killed := guard.Now()
			must(t, syscall.Kill(old, syscall.SIGKILL))
			at := receive(t, unknown)
			s := r.awaitStatus(t, "new guard", func(s guard.Status) bool { return s.Known })
			known := guard.Now()
			if s.Running || s.StartedAt != 0 || r.GuardPID() == old {
				t.Errorf("new guard says %+v", s)
			}
			if left := r.leftovers(t); len(left) > 0 {
				t.Errorf("left when the new guard spoke: %v", left)
			}
			t.Logf("guard killed: client knew after %.1f ms, last sign of life after %.1f ms, new guard after %.1f ms",
				ms(at.Sub(killed)), ms(r.lastBeat().Sub(killed)), ms(known.Sub(killed)))
			r.start(t)
		})
	}
}

// TestGuardStopped: a guard that does not answer can be killed, and takes its
// server with it.
func TestGuardStopped(t *testing.T) {
	r := newRig(t, "stubborn")
	r.start(t)
	must(t, syscall.Kill(r.GuardPID(), syscall.SIGSTOP))
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := r.Lease(short, guard.Now().Add(time.Hour)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("lease from a stopped guard: %v", err)
	}
	must(t, r.Kill())
	r.awaitStatus(t, "new guard", func(s guard.Status) bool { return s.Known && !s.Running })
	if left := r.leftovers(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestStopWithGuardStopped: a server whose guard does not answer is stopped all the same.
func TestStopWithGuardStopped(t *testing.T) {
	r := newRig(t, "polite")
	r.start(t)
	must(t, syscall.Kill(r.GuardPID(), syscall.SIGSTOP))
	if err := r.Stop(deadline(t), true); !errors.Is(err, guard.ErrLost) {
		t.Errorf("stop: %v", err)
	}
	r.awaitStatus(t, "a new guard without a server", func(s guard.Status) bool { return s.Known && !s.Running })
	if left := r.leftovers(t); len(left) > 0 {
		t.Errorf("left after stop: %v", left)
	}
}

// TestGuardTerminated: SIGTERM is a fast shutdown of the server, then the end.
func TestGuardTerminated(t *testing.T) {
	r := newRig(t, "polite")
	r.start(t)
	exits := make(chan guard.Status, 10)
	r.Notify(func() { exits <- r.Status() })
	must(t, syscall.Kill(r.GuardPID(), syscall.SIGTERM))
	if s := receive(t, exits); s.Running || s.ExitStatus != "exit status 0" {
		t.Errorf("first change: %+v", s)
	}
}

// TestReattach: a sidecar that went away finds its server untouched.
func TestReattach(t *testing.T) {
	r := newRig(t, "stubborn")
	r.start(t)
	until := guard.Now().Add(time.Hour)
	must(t, r.Lease(deadline(t), until))
	before, pid := r.Status(), r.GuardPID()
	must(t, r.Close())
	if err := r.Disarm(deadline(t)); !errors.Is(err, guard.ErrLost) {
		t.Errorf("request of a closed client: %v", err)
	}
	r.Client = attach(t, r.stateDir)
	if after := r.Status(); after != before || r.GuardPID() != pid {
		t.Errorf("before %+v, after %+v", before, after)
	}
	second := exec.Command(guardOptions(r.stateDir).Executable, guardOptions(r.stateDir).Args...)
	out, err := second.CombinedOutput()
	if err == nil || !strings.Contains(string(out), guard.ErrGuarded.Error()) {
		t.Errorf("a second guard: %v: %s", err, out)
	}
	must(t, r.Disarm(deadline(t)))
}

// TestManyAttach: clients that start a guard at the same time end up with one.
func TestManyAttach(t *testing.T) {
	r := newDirs(t, "stubborn")
	var group sync.WaitGroup
	pids := make(chan int, 4)
	for range cap(pids) {
		group.Go(func() {
			c, err := guard.Attach(deadline(t), guardOptions(r.stateDir))
			if err != nil {
				t.Error(err)
				return
			}
			pids <- c.GuardPID()
			c.Close()
		})
	}
	group.Wait()
	close(pids)
	first := <-pids
	for pid := range pids {
		if pid != first {
			t.Errorf("guards %d and %d", first, pid)
		}
	}
	r.Client = attach(t, r.stateDir)
	r.end()
}

// TestIdleGuardEnds: nobody needs it, so it goes; the next client starts one.
func TestIdleGuardEnds(t *testing.T) {
	r := newDirs(t, "polite")
	options := guardOptions(r.stateDir)
	options.Args[3] = "100ms"
	c, err := guard.Attach(deadline(t), options)
	must(t, err)
	first := c.GuardPID()
	must(t, c.Close())
	lock, err := os.Open(filepath.Join(r.stateDir, "guard.lock"))
	must(t, err)
	defer lock.Close()
	must(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)) // waits for its end
	lock.Close()
	r.Client = attach(t, r.stateDir)
	defer r.end()
	if r.GuardPID() == first {
		t.Error("the guard still lives")
	}
}

func TestShutdownFreesStateDir(t *testing.T) {
	r := newDirs(t, "polite")
	for range 3 {
		c := attach(t, r.stateDir)
		must(t, c.Shutdown(deadline(t)))
		lock, err := os.Open(filepath.Join(r.stateDir, "guard.lock"))
		must(t, err)
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			t.Errorf("state directory after shutdown: %v", err)
		}
		lock.Close()
	}
}

func TestLongStateDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	c := attach(t, dir)
	must(t, c.Shutdown(deadline(t)))
}

func TestAttachFails(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name    string
		options guard.ClientOptions
		text    string
	}{
		{"no guard, none to start", guard.ClientOptions{StateDir: dir}, "no such file"},
		{"no such program", guard.ClientOptions{StateDir: dir, Executable: "/nonexistent"}, "/nonexistent"},
		{"program that is no guard", guard.ClientOptions{StateDir: dir, Executable: "/bin/true"}, "guard.log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := guard.Attach(deadline(t), c.options)
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
}

// TestProtocolTolerance speaks to the guard as an older, a newer and a broken
// client would.
func TestProtocolTolerance(t *testing.T) {
	r := newRig(t, "polite")
	ask := func(text string) string {
		conn, err := net.Dial("unix", filepath.Join(r.stateDir, "guard.sock"))
		must(t, err)
		defer conn.Close()
		lines := bufio.NewReader(conn)
		_, err = lines.ReadString('\n') // the greeting
		must(t, err)
		fmt.Fprintln(conn, text)
		answer, _ := lines.ReadString('\n')
		return answer
	}
	for _, c := range []struct{ name, text, want string }{
		{"future field", `{"v":9,"id":7,"op":"status","colour":"blue"}`, `"id":7,"status":{"running":false`},
		{"future request", `{"v":9,"id":8,"op":"dance"}`, `does not know the request \"dance\"`},
		{"start of nothing", `{"id":9,"op":"start"}`, "no command"},
		{"deadline passed", `{"id":9,"op":"lease","deadline":1,"until":5}`, "too late"},
		{"garbage", "GET / HTTP/1.0", ""},
	} {
		if got := ask(c.text); !strings.Contains(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	if r.Status().Armed {
		t.Error("a request after its deadline was done")
	}
	info, err := os.Stat(filepath.Join(r.stateDir, "guard.sock"))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %v", info.Mode())
	}
}

// TestStuckClient: a client that does not read is dropped, and costs the others
// nothing.
func TestStuckClient(t *testing.T) {
	r := newRig(t, "polite")
	conn, err := net.Dial("unix", filepath.Join(r.stateDir, "guard.sock"))
	must(t, err)
	defer conn.Close()
	must(t, conn.SetWriteDeadline(time.Now().Add(10*time.Second)))
	for err == nil {
		_, err = fmt.Fprintln(conn, `{"id":1,"op":"status"}`)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the guard waits for a client that does not read")
	}
	must(t, r.Disarm(deadline(t)))
}

// TestConcurrency is for the race detector.
func TestConcurrency(t *testing.T) {
	r := newRig(t, "polite")
	r.Notify(func() { r.Status() })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var group sync.WaitGroup
	loop := func(f func() error) {
		group.Go(func() {
			for ctx.Err() == nil {
				err := f()
				for _, expected := range []error{nil, guard.ErrRunning, guard.ErrNotRunning, guard.ErrLost,
					context.DeadlineExceeded} {
					if errors.Is(err, expected) {
						err = nil
					}
				}
				if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	loop(func() error { return r.Lease(ctx, guard.Now().Add(time.Hour)) })
	loop(func() error { return r.Disarm(ctx) })
	loop(func() error { return r.Start(ctx, r.command) })
	loop(func() error { return r.Stop(ctx, true) })
	loop(func() error { return r.Signal(ctx, int(syscall.SIGCONT)) })
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for range 2 {
		<-tick.C
		_ = r.Kill()
	}
	group.Wait()
}
