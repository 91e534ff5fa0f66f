package guard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/guard"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/postmaster"
)

// byHand starts the server as a person does, beside the guard, and returns the
// postmaster's process id. The test ends it.
func (c *cluster) byHand(t *testing.T) int {
	t.Helper()
	out, err := c.program("pg_ctl", "-D", c.dataDir, "-w", "-l", filepath.Join(c.dataDir, "byhand.log"),
		"-o", strings.Join(quoted(c.command.Args[2:]), " "), "start").CombinedOutput()
	if err != nil {
		t.Fatalf("pg_ctl start: %v: %s", err, out)
	}
	pid, err := postmaster.Find(c.dataDir)
	must(t, err)
	t.Cleanup(func() { _ = postmaster.Signal(pid, c.dataDir, syscall.SIGKILL) })
	return pid
}

func quoted(args []string) []string {
	args = slices.Clone(args)
	for i, a := range args {
		args[i] = "'" + a + "'"
	}
	return args
}

// TestStranger: a server that a person restarted beside the guard is found at once,
// told apart from the guard's own, left alone by the next guard, and its end is seen.
func TestStranger(t *testing.T) {
	c := newCluster(t)
	c.start(t)
	own := c.Status().PID
	if pid, err := guard.Stranger(c.stateDir, c.dataDir); pid != 0 || err != nil {
		t.Fatalf("the guard's own server is a stranger: %d, %v", pid, err)
	}
	out, err := c.program("pg_ctl", "-D", c.dataDir, "-w", "-l", filepath.Join(c.dataDir, "byhand.log"), "restart").CombinedOutput()
	if err != nil {
		t.Fatalf("pg_ctl restart: %v: %s", err, out)
	}
	pid, err := postmaster.Find(c.dataDir)
	must(t, err)
	t.Cleanup(func() { _ = postmaster.Signal(pid, c.dataDir, syscall.SIGKILL) })
	if pid == 0 || pid == own {
		t.Fatalf("pg_ctl started %d, the guard %d", pid, own)
	}
	status := c.awaitStatus(t, "the stranger is found", func(s guard.Status) bool { return s.Stranger != 0 })
	if status.Stranger != pid || status.Running {
		t.Fatalf("%+v, pg_ctl started %d", status, pid)
	}
	if err := c.Start(deadline(t), c.command); err == nil {
		// PostgreSQL refuses by its lock file.
		c.awaitStatus(t, "the second server ends", func(s guard.Status) bool { return !s.Running && s.Stranger == pid })
	}

	must(t, c.Kill()) // the next guard sweeps
	eventually(t, "a new guard says so too", func() bool { s := c.Status(); return s.Known && s.Stranger == pid })
	must(t, c.psql("-c", "select 1").Run())

	must(t, postmaster.End(deadline(t), c.dataDir, pid, false))
	c.awaitStatus(t, "its end is seen", func(s guard.Status) bool { return s.Known && s.Stranger == 0 })
	c.start(t)
}

// TestStrangerLease: a primary's lease ends also for what was started in its place (S5).
func TestStrangerLease(t *testing.T) {
	c := newCluster(t)
	c.start(t)
	must(t, c.Lease(deadline(t), guard.Now().Add(5*time.Second))) // the start by hand falls into it
	must(t, c.Stop(deadline(t), false))
	pid := c.byHand(t)
	c.awaitStatus(t, "the stranger is found", func(s guard.Status) bool { return s.Stranger == pid || s.LeaseUntil < guard.Now() })
	eventually(t, "it is ended with the lease", func() bool { return len(c.leftovers(t)) == 0 })
	if now := guard.Now(); now < c.Status().LeaseUntil.Add(-time.Second) {
		t.Errorf("ended %s before the lease's end", c.Status().LeaseUntil.Sub(now))
	}
}

// TestEnd: a fast shutdown first, an immediate one when the time is up, and nobody
// but a server of the directory is signalled.
func TestEnd(t *testing.T) {
	c := newCluster(t)
	if err := postmaster.End(deadline(t), c.dataDir, os.Getpid(), true); err == nil {
		t.Fatal("this process was taken for a server")
	}
	for _, how := range []struct{ name, state string }{{"fast", "shut down"}, {"immediate", "in production"}} {
		pid := c.byHand(t)
		must(t, postmaster.End(deadline(t), c.dataDir, pid, how.name == "immediate"))
		if left := c.leftovers(t); len(left) > 0 {
			t.Fatalf("%s: left %v", how.name, left)
		}
		out, err := c.program("pg_controldata", "-D", c.dataDir).Output()
		must(t, err)
		if !strings.Contains(string(out), "state:               "+how.state) {
			t.Errorf("%s: %s", how.name, out)
		}
	}
	// A pid file whose number is another process's by now.
	must(t, os.WriteFile(filepath.Join(c.dataDir, "postmaster.pid"), fmt.Appendf(nil, "%s\n", strconv.Itoa(os.Getpid())), 0o600))
	labtest.OwnedByServer(t, filepath.Join(c.dataDir, "postmaster.pid"))
	if pid, err := postmaster.Find(c.dataDir); pid != 0 || err != nil {
		t.Errorf("found %d, %v", pid, err)
	}
	must(t, os.Remove(filepath.Join(c.dataDir, "postmaster.pid")))
}
