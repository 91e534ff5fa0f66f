package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// asPostgres runs a program of PostgreSQL's as the user postgres.
func (r *rig) asPostgres(input, program string, args ...string) string {
	r.t.Helper()
	bin := labtest.Program(r.t, programs.PostgresBin)
	cmd := exec.Command(filepath.Join(bin, program), args...)
	cmd.Dir, cmd.Stdin = "/", strings.NewReader(input)
	cmd.Env = append(os.Environ(), "PGPASSWORD=secret of superuser")
	if err := os.MkdirAll(filepath.Dir(r.data()), 0o755); err != nil {
		r.t.Fatal(err)
	}
	labtest.OwnedByServer(r.t, filepath.Dir(r.data()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: labtest.ServerUser(r.t)}
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s: %v: %s", program, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestAdopts: a data directory that was made by hand is led as it is, with its
// rows, and is not made anew.
func TestAdopts(t *testing.T) {
	r := newRig(t)
	r.startConsul()
	r.asPostgres("", "initdb", "-D", r.data(), "-U", "postgres", "--auth=trust")
	r.asPostgres("create table kept as select 42 as n;\n", "postgres", "--single", "-D", r.data(), "postgres")
	before, err := os.Stat(filepath.Join(r.data(), "PG_VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	r.start()
	r.logged(long, "announced", "tag=primary", "term=1")
	rows := r.asPostgres("", "psql", "-XAt", "-h", r.data()+".pgsidecar/sock", "-p", fmt.Sprint(r.pg), "-U", "postgres", "-c", "select n from kept", "postgres")
	if rows != "42" {
		t.Errorf("the adopted server answers %q", rows)
	}
	r.stop()
	after, err := os.Stat(filepath.Join(r.data(), "PG_VERSION"))
	if err != nil || !os.SameFile(before, after) || strings.Contains(r.log.String(), "init:") {
		t.Errorf("the data directory was made anew: %v", err)
	}
}

// TestTakesOver: a server that something else started on the data runs on beside a member
// that was not told to take it over, and while that cannot go on with the data: those of a
// standby found no cluster. As soon as it can, the server is shut down and its data lead.
func TestTakesOver(t *testing.T) {
	r := newRig(t)
	r.startConsul()
	dir, port := filepath.Dir(r.data()), fmt.Sprint(freePort(t))
	r.asPostgres("", "initdb", "-D", r.data(), "-U", "postgres", "--auth=trust")
	r.asPostgres("create table kept as select 42 as n;\n", "postgres", "--single", "-D", r.data(), "postgres")
	signal := filepath.Join(r.data(), "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	labtest.OwnedByServer(t, signal)
	r.asPostgres("", "pg_ctl", "-D", r.data(), "-l", filepath.Join(dir, "log"), "-o", "-k "+dir+" -p "+port+" -c listen_addresses=", "start")
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(r.data(), "postmaster.pid")); err == nil {
			r.asPostgres("", "pg_ctl", "-D", r.data(), "-m", "immediate", "stop")
		}
	})
	kept := func(host, port string) string {
		return r.asPostgres("", "psql", "-XAt", "-h", host, "-p", port, "-U", "postgres", "-c", "select n from kept", "postgres")
	}

	r.start()
	if code := r.exits(long); code != cli.ExitFailed || !strings.Contains(r.log.String(), "--take-over") {
		t.Errorf("exit status %d, and it says %s", code, r.log.String())
	}
	t.Setenv("PGSIDECAR_TAKE_OVER", "1")
	r.start()
	r.logged(long, "no cluster is founded", "standby's")
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.exits(long)
	if n := kept(dir, port); n != "42" {
		t.Errorf("the server that was not taken over answers %q", n)
	}
	r.asPostgres("", "pg_ctl", "-D", r.data(), "promote")
	r.start()
	r.logged(long, "announced", "tag=primary", "term=1")
	if n := kept(r.data()+".pgsidecar/sock", fmt.Sprint(r.pg)); n != "42" {
		t.Errorf("the adopted server answers %q", n)
	}
	r.stop()
}

// TestNewerPostgres: a data directory of a newer PostgreSQL is refused, by name
// of both versions, and left untouched.
func TestNewerPostgres(t *testing.T) {
	r := newRig(t)
	r.startConsul()
	r.asPostgres("", "initdb", "-D", r.data(), "-U", "postgres", "--auth=trust")
	version := filepath.Join(r.data(), "PG_VERSION")
	if err := os.WriteFile(version, []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	if code := r.exits(long); code != cli.ExitFailed {
		t.Errorf("exit status %d", code)
	}
	r.logged(long, "the member ends", "99")
	if b, err := os.ReadFile(version); err != nil || string(b) != "99\n" {
		t.Errorf("the directory was touched: %q, %v", b, err)
	}
}
