package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// rig is a folder with one member's configuration, on loopback, run as a
// process of the real binary.
type rig struct {
	t      *testing.T
	member string
	dir    string
	binary string
	consul int // port of its API
	pg     int
	api    int
	log    *syncBuffer
	cmd    *exec.Cmd
	ended  chan error
}

// builtOnce is the binary, built once for all tests of the package.
var builtOnce = sync.OnceValues(func() (string, error) {
	built.Store(true)
	dir, err := os.MkdirTemp("", "pgsidecar-run")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "pgsidecar")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// TestMain removes what builtOnce has built.
func TestMain(m *testing.M) {
	code := m.Run()
	if built.Load() {
		if path, err := builtOnce(); err == nil {
			os.RemoveAll(filepath.Dir(path))
		}
	}
	os.Exit(code)
}

// built tells whether any test has asked for the binary.
var built atomic.Bool

// syncBuffer is what a process writes, to be read while it does.
type syncBuffer struct {
	mu    sync.Mutex
	text  bytes.Buffer
	grown chan struct{}
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.grown <- struct{}{}:
	default:
	}
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func freePort(t *testing.T) int {
	t.Helper()
	return labtest.FreePort(t)
}

func newRig(t *testing.T) *rig {
	t.Helper()
	binary, err := builtOnce()
	if err != nil {
		t.Fatal(err)
	}
	dir := labtest.Dir(t)
	r := &rig{t: t, member: "n1", dir: dir, binary: binary, consul: freePort(t), pg: freePort(t), api: freePort(t)}
	for _, name := range []string{"superuser", "replication"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("secret of "+name+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.configure("")
	return r
}

// beside makes another member of r's cluster, with the same Consul.
func (r *rig) beside(member string) *rig {
	r.t.Helper()
	other := newRig(r.t)
	other.member, other.consul = member, r.consul
	other.configure("")
	return other
}

// configure writes the configuration; more are further lines of it.
func (r *rig) configure(more string) {
	r.t.Helper()
	bin := labtest.Installed(r.t, programs.PostgresBin)
	text := fmt.Sprintf(`
cluster = "pg"
member  = %q
consul {
  address = ["127.0.0.1:%d"]
}
postgres {
  bin_dir   = %q
  data_dir  = %q
  listen    = "127.0.0.1:%d"
  advertise = "127.0.0.1:%d"
  superuser {
    name          = "postgres"
    password_file = %q
  }
  replication {
    name          = "replicator"
    password_file = %q
  }
}
api {
  listen = "127.0.0.1:%d"
}
%s
`, r.member, r.consul, bin, r.data(), r.pg, r.pg, filepath.Join(r.dir, "superuser"), filepath.Join(r.dir, "replication"), r.api, more)
	if err := os.WriteFile(filepath.Join(r.dir, "pg.hcl"), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) data() string { return filepath.Join(r.dir, "pg", "data") }

// startConsul starts a Consul agent; config is more of its configuration.
func (r *rig) startConsul(config ...string) {
	r.t.Helper()
	labtest.StartConsul(r.t, labtest.ConsulOptions{Port: r.consul, Config: strings.Join(config, "\n")})
}

// start runs the member. At the test's end it is ended, and its guard and its
// server with it.
func (r *rig) start() {
	r.t.Helper()
	r.log = &syncBuffer{grown: make(chan struct{}, 1)}
	r.cmd = exec.Command(r.binary, "run", "-config", filepath.Join(r.dir, "pg.hcl"))
	r.cmd.Stderr = r.log
	r.ended = make(chan error, 1)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	cmd, ended := r.cmd, r.ended
	go func() { ended <- cmd.Wait() }()
	r.t.Cleanup(func() {
		if r.cmd == cmd && cmd.ProcessState == nil {
			r.stop()
		}
		if r.t.Failed() {
			r.t.Log(r.log.String())
		}
	})
}

// logged waits until the member has logged all of the words in one line.
func (r *rig) logged(within time.Duration, words ...string) {
	r.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	for {
		for line := range strings.Lines(r.log.String()) {
			all := true
			for _, w := range words {
				all = all && strings.Contains(line, w)
			}
			if all {
				return
			}
		}
		select {
		case <-r.log.grown:
		case <-deadline.C:
			r.t.Fatalf("not logged within %s: %q", within, words)
		}
	}
}

// exits waits for the member's end and returns its exit status.
func (r *rig) exits(within time.Duration) int {
	r.t.Helper()
	select {
	case err := <-r.ended:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			r.t.Fatal(err)
		}
		return r.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		r.cmd.Process.Kill()
		r.t.Fatalf("still runs after %s", within)
		return -1
	}
}

// stop asks the member to end, and sees that it does, with status 0.
func (r *rig) stop() {
	r.t.Helper()
	r.stopBy(syscall.SIGTERM)
}

func (r *rig) stopBy(signal syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(signal); err != nil {
		r.t.Fatal(err)
	}
	if code := r.exits(30 * time.Second); code != 0 {
		r.t.Errorf("exit status %d after %v", code, signal)
	}
	if out, err := exec.Command("pgrep", "-f", r.data()).Output(); err == nil {
		r.t.Errorf("processes are left: %s", out)
	}
}

const long = 90 * time.Second // the machine may be busy; what is waited for is an event

// TestNoConsul: without Consul the member says so and waits; when it comes the
// cluster is founded; SIGTERM or SIGINT stops all of it and gives the lock back (LiteFS
// did not at SIGINT, #171); the next start goes on with the same data.
func TestNoConsul(t *testing.T) {
	r := newRig(t)
	r.start()
	r.logged(long, "nothing is decided", "Consul has not answered yet")
	r.startConsul()
	r.logged(long, "announced", "tag=primary", "term=1")
	r.stop()
	if _, err := os.Stat(filepath.Join(r.data(), "PG_VERSION")); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.logged(long, "announced", "tag=primary", "term=1")
	r.stopBy(syscall.SIGINT)
	if strings.Contains(r.log.String(), "init:") {
		t.Error("the second start made a new data directory")
	}
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/v1/kv/pgsidecar/pg/leader", r.consul))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lock, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(lock), "Value") || strings.Contains(string(lock), "Session") {
		t.Errorf("after SIGINT the lock is %s, %v", lock, err)
	}
}

func TestPortInUse(t *testing.T) {
	r := newRig(t)
	r.startConsul()
	other, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", r.pg))
	if err != nil {
		t.Fatal(err)
	}
	r.start()
	r.logged(long, "postgres ended before it was ready", "could not create any TCP/IP sockets", "Address already in use")
	other.Close()
	r.logged(long, "announced", "tag=primary")
	r.stop()
}

func TestAPIPortInUse(t *testing.T) {
	r := newRig(t)
	other, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", r.api))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r.start()
	if code := r.exits(long); code != cli.ExitFailed {
		t.Errorf("exit status %d", code)
	}
	r.logged(time.Second, "address already in use")
}

func TestForeignDirectory(t *testing.T) {
	r := newRig(t)
	r.startConsul()
	if err := os.MkdirAll(r.data(), 0o755); err != nil {
		t.Fatal(err)
	}
	diary := filepath.Join(r.data(), "diary.txt")
	if err := os.WriteFile(diary, []byte("dear diary"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.start()
	if code := r.exits(long); code != cli.ExitFailed {
		t.Errorf("exit status %d", code)
	}
	r.logged(time.Second, "the member ends", r.data())
	if got, err := os.ReadFile(diary); err != nil || string(got) != "dear diary" {
		t.Errorf("the directory was touched: %q, %v", got, err)
	}
}

// TestProgramsFound: a configuration that does not say where PostgreSQL's programs
// are, as the one of config init does not, finds Debian's.
func TestProgramsFound(t *testing.T) {
	r := newRig(t)
	bin := labtest.Program(t, programs.PostgresBin)
	if err := r.replace(fmt.Sprintf("  bin_dir   = %q\n", bin), ""); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := command(t, "config", "show", "-config", r.config()); code != cli.ExitOK || !strings.Contains(stdout, bin) {
		t.Errorf("config show: exit status %d, %s%s", code, stdout, stderr)
	}
	t.Setenv("PATH", "/usr/bin:/bin") // Debian has only the clients' programs there
	r.startConsul()
	r.start()
	r.logged(long, "announced", "tag=primary")
}

// TestNameTaken: a second process of a member's name does not take its place.
func TestNameTaken(t *testing.T) {
	n1 := newRig(t)
	n1.startConsul()
	n1.start()
	n1.logged(long, "announced", "tag=primary")
	again := n1.beside("n1")
	again.start()
	if code := again.exits(long); code != cli.ExitFailed {
		t.Errorf("exit status %d", code)
	}
	again.logged(long, "member n1 of cluster pg runs already", fmt.Sprint(n1.api))
	if code, stdout, stderr := command(t, "status", "-consul", fmt.Sprint("127.0.0.1:", n1.consul)); code != cli.ExitOK || !strings.Contains(stdout, fmt.Sprint("127.0.0.1:", n1.pg)) {
		t.Errorf("the status is %s%s", stdout, stderr)
	}
	n1.stop()
	again.start() // it is gone, and this is its place
	again.logged(long, "member started", "member=n1")
}
