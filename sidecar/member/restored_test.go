package member

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// command is a program that runs as the server's user.
func (a *alone) command(name string, args ...string) *exec.Cmd {
	a.t.Helper()
	cmd := exec.Command(name, args...)
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			a.t.Fatal(err)
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			a.t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	cmd.Dir = "/"
	return cmd
}

// asServer runs a program as the server's user, and returns what it says.
func (a *alone) asServer(name string, args ...string) string {
	a.t.Helper()
	out, err := a.command(name, args...).CombinedOutput()
	if err != nil {
		a.t.Fatalf("%s: %v: %s", name, err, out)
	}
	return strings.TrimSpace(string(out))
}

// sql asks the member's server, by its own socket.
func (a *alone) sql(query string) string {
	a.t.Helper()
	return a.asServer(filepath.Join(a.bin, "psql"), "-h", filepath.Join(a.data+".pgsidecar", "sock"), "-p", strconv.Itoa(a.port),
		"-U", "postgres", "-d", "postgres", "-XAtqc", query)
}

// TestRestoredByHand: a data directory that somebody restored, with what PostgreSQL is
// told to do, founds a cluster of what there was at the target.
func TestRestoredByHand(t *testing.T) {
	a := newAlone(t)
	dir := filepath.Dir(a.path)
	archive := filepath.Join(dir, "archive")
	if err := errors.Join(os.Mkdir(archive, 0o777), os.Chmod(archive, 0o777)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(a.path)
	if err != nil {
		t.Fatal(err)
	}
	with := strings.Replace(string(text), "postgres {", fmt.Sprintf("postgres {\n  parameters = { archive_mode = \"on\", archive_command = \"cp %%p %s/%%f\" }", archive), 1)
	if err := os.WriteFile(a.path, []byte(with), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := a.run()
	a.sql("create table rows (n int); insert into rows select generate_series(1, 100)")
	backup := filepath.Join(dir, "backup")
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	a.asServer("env", "PGPASSWORD=password of the test", filepath.Join(a.bin, "pg_basebackup"), "-h", "127.0.0.1", "-p", strconv.Itoa(a.port),
		"-U", "replicator", "-D", backup, "-X", "none", "-c", "fast")
	a.sql("select pg_create_restore_point('here'); delete from rows; select pg_switch_wal()")
	a.until("the archive", func() bool { return a.sql("select last_archived_wal is not null from pg_stat_archiver") == "t" })
	stop()

	b := newAlone(t) // another Consul, where nothing is known
	if err := os.MkdirAll(filepath.Dir(b.data), 0o755); err != nil {
		t.Fatal(err)
	}
	a.asServer("touch", filepath.Join(backup, "recovery.signal"))
	told := fmt.Sprintf("restore_command = 'cp %s/%%f %%p'\nrecovery_target_name = 'here'\nrecovery_target_action = 'promote'\n", archive)
	a.asServer("sh", "-c", fmt.Sprintf("cat >>%s/postgresql.auto.conf <<'X'\n%sX", backup, told))
	if err := os.Rename(backup, b.data); err != nil {
		t.Fatal(err)
	}
	b.run()
	if n := b.sql("select count(*) from rows"); n != "100" {
		t.Errorf("%s rows at the target", n)
	}
}
