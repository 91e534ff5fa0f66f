package drill_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// TestRefusals runs `pgsidecar lab up` and `drill` where they cannot do what is
// asked: the exit status is 2, the message says what is wrong, and nothing was
// started or changed.
func TestRefusals(t *testing.T) {
	dir, err := os.MkdirTemp("", "refused")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	program := binary(t)
	precious := filepath.Join(dir, "precious")
	if err := os.Mkdir(precious, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(precious, "file"), []byte("keep"), 0o644); err != nil {
		t.Fatal(err)
	}
	const anybody, nobody = 0, 65534
	consul, err := programs.Consul()
	if err != nil {
		t.Skip(err)
	}
	for _, c := range []struct {
		name string
		user uint32
		args string
		want string
		hide string // a program or folder that is not there; needs root
	}{
		{"isolated without root", nobody, "lab up --isolated --dir LAB", "need root", ""},
		{"breakable without root", nobody, "lab up --breakable --dir LAB", "need root", ""},
		{"a drill without root", nobody, "drill --isolated --dir LAB cut-off", "need root", ""},
		{"a drill that needs disks", anybody, "drill --dir LAB disk-full", "lab up --breakable", ""},
		{"a drill that needs links", anybody, "drill --dir LAB switchover cut-off", "lab up --isolated", ""},
		{"a drill that needs servers", anybody, "drill --dir LAB consul-leader-lost", "--consul-servers 3", ""},
		{"a drill that needs members", anybody, "drill --dir LAB --members 2 host-lost", "--members 3", ""},
		{"unknown scenario", anybody, "drill --dir LAB no-such-thing", `"no-such-thing"`, ""},
		{"two Consul servers", anybody, "lab up --consul-servers 2 --dir LAB", "1 or 3", ""},
		{"too many members", anybody, "lab up --members 10 --dir LAB", "1 to 9", ""},
		{"unknown mode", anybody, "lab up --mode sometimes --dir LAB", "quorum or async", ""},
		{"a folder of somebody else", anybody, "lab up --dir " + precious, "holds something that is no lab (file)", ""},
		{"no lab to take down", anybody, "lab down --dir LAB", "no lab", ""},
		{"no lab to look at", anybody, "lab status --dir LAB", "no lab", ""},
		{"every drill without root", nobody, "drill --all --dir LAB", "need root", ""},
		{"every drill, and one", anybody, "drill --all --dir LAB switchover", "name none", ""},
		{"results to nowhere", anybody, "drill --dir LAB --html /no/such/folder/x.html switchover", "cannot be written", ""},
		{"no Consul", anybody, "lab up --dir LAB", "consul (make programs)", consul},
		{"no HAProxy", anybody, "lab up --dir LAB", "apt-get install haproxy", "/usr/sbin/haproxy"},
		{"no PgBouncer", anybody, "lab up --pgbouncer --dir LAB", "apt-get install pgbouncer", "/usr/sbin/pgbouncer"},
		{"no PostgreSQL", anybody, "lab up --dir LAB", "apt-get install postgresql", "/usr/lib/postgresql"},
		{"a drill without PostgreSQL", anybody, "drill --dir LAB switchover", "apt-get install postgresql", "/usr/lib/postgresql"},
		{"no iproute2", anybody, "lab up --isolated --dir LAB", "apt-get install iproute2", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := os.Geteuid() == 0
			if (c.name == "no iproute2" || c.hide != "") && !root {
				t.Skip("needs root")
			}
			lab := filepath.Join(dir, "lab")
			cmd := exec.Command(program, strings.Fields(strings.ReplaceAll(c.args, "LAB", lab))...)
			if c.hide != "" {
				cmd = without(t, c.hide, cmd)
			}
			cmd.Dir = "/"
			if c.name == "no iproute2" || c.hide != "" {
				cmd.Env = append(os.Environ(), "PATH=/nonexistent")
			}
			if root && c.user != anybody {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.user, Gid: c.user}}
			}
			refused(t, cmd, c.want)
			if _, err := os.Stat(lab); err == nil {
				t.Errorf("%s was made", lab)
				os.RemoveAll(lab)
			}
		})
	}
	if b, err := os.ReadFile(filepath.Join(precious, "file")); err != nil || string(b) != "keep" {
		t.Errorf("somebody's file: %q, %v", b, err)
	}
}

// refused runs a command that is to end with exit status 2, and to say why.
func refused(t *testing.T, cmd *exec.Cmd, want string) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("%s: %v, want exit status 2", cmd, err)
	}
	if !strings.Contains(string(out), want) {
		t.Errorf("%s: said %q, want %q in it", cmd, out, want)
	}
}

// without makes a command run where a program or a folder is not there: in a
// mount namespace of its own.
func without(t *testing.T, path string, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skip(err)
	}
	const hide = `if [ -d "$0" ]; then /bin/mount -t tmpfs none "$0"; else /bin/mount --bind /dev/null "$0"; fi && exec "$@"`
	return exec.Command(unshare, append([]string{"--mount", "/bin/sh", "-c", hide, path}, cmd.Args...)...)
}

// TestPortsTaken: a lab on loopback that finds no free port says so.
func TestPortsTaken(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs a network namespace, so root")
	}
	program, dir := binary(t), filepath.Join(t.TempDir(), "lab")
	done, few := make(chan struct{}), false
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread is of no other use
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
			return
		}
		for port := 15000; port <= 21000; port++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if errors.Is(err, unix.EMFILE) {
				few = true
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
		}
		refused(t, exec.Command(program, "lab", "up", "--dir", dir), "no free port on 127.0.0.1")
		refused(t, exec.Command(program, "drill", "--dir", dir, "switchover"), "no free port on 127.0.0.1")
	}()
	<-done
	if few {
		t.Skip("not as many files may be open as there are ports")
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s was made", dir)
	}
}

// TestLiveRefused: a drill of a living cluster that is not whole is refused
// without a change asked of anyone.
func TestLiveRefused(t *testing.T) {
	var changes atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			changes.Add(1)
		}
		_, _ = io.WriteString(w, `{"cluster": "pg", "member": "n1", "leader": "n1", "phase": "leading", "paused": true}`)
	}))
	defer server.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	program := binary(t)
	for _, c := range []struct{ args, want string }{
		{"switchover", "say so with --yes"},
		{"switchover --yes", "token is missing"},
		{"earthquake --yes --token-file " + token, "say which drill"},
		{"switchover --yes --token-file " + token, "it is paused, and nobody would take over"},
	} {
		refused(t, exec.Command(program, append([]string{"drill", "live", "--api", server.URL}, strings.Fields(c.args)...)...), c.want)
	}
	if n := changes.Load(); n != 0 {
		t.Errorf("%d changes were asked for", n)
	}
}
