package member

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// rewrite changes the member's configuration.
func (a *alone) rewrite(old, with string) {
	a.t.Helper()
	text, err := os.ReadFile(a.path)
	if err != nil {
		a.t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		a.t.Fatalf("the configuration has no %q:\n%s", old, text)
	}
	if err := os.WriteFile(a.path, []byte(strings.Replace(string(text), old, with, 1)), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// archives gives the member a block backup.
func (a *alone) archives(repository, more string) {
	a.t.Helper()
	a.rewrite("postgres {", fmt.Sprintf("backup \"main\" {\n  engine = \"pgbackrest\"\n  repository { path = %q }\n}\n%s\npostgres {", repository, more))
}

// space makes a directory for a tablespace.
func (a *alone) space() string {
	a.t.Helper()
	dir := filepath.Join(filepath.Dir(a.path), "space")
	info, err := os.Stat(a.data)
	if err = errors.Join(err, os.Mkdir(dir, 0o700)); err != nil {
		a.t.Fatal(err)
	}
	if of, is := info.Sys().(*syscall.Stat_t); is {
		err = os.Chown(dir, int(of.Uid), int(of.Gid))
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return dir
}

// TestFoundedFromBackup: a cluster is founded from another one's backup, with all the log
// that was archived after it, and its tablespace; where that is not there, or what another
// server has in the tablespace's directory, status says so, and nothing is made.
func TestFoundedFromBackup(t *testing.T) {
	labtest.Program(t, programs.PgBackRest)
	a := newAlone(t)
	repository := filepath.Join(filepath.Dir(a.path), "repository")
	if err := errors.Join(os.Mkdir(repository, 0o777), os.Chmod(repository, 0o777)); err != nil {
		t.Fatal(err)
	}
	a.archives(repository, "")
	stop := a.run()
	space := a.space()
	a.sql("create tablespace elsewhere location '" + space + "'")
	a.sql("create table rows (n int) tablespace elsewhere; insert into rows select generate_series(1, 100)")
	a.until("an archive", func() bool {
		st, err := a.client.StatusOf(t.Context(), a.api)
		return err == nil && st.Archive != nil && st.Archive.Leads
	})
	if _, err := a.client.Ask(t.Context(), http.MethodPost, a.api, "/backup", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	a.until("a backup", func() bool {
		st, err := a.client.StatusOf(t.Context(), a.api)
		return err == nil && len(st.Backups) == 1 && st.Backups[0].Good != nil
	})
	a.sql("insert into rows select generate_series(101, 200)")
	last := a.sql("select pg_walfile_name(pg_switch_wal())")
	a.until("an archive of all", func() bool { return a.sql("select last_archived_wal >= '"+last+"' from pg_stat_archiver") == "t" })
	system := a.sql("select system_identifier from pg_control_system()")
	stop()
	b := newAlone(t) // another Consul, where nothing is known
	b.rewrite(`cluster = "pg"`, `cluster = "new"`)
	b.archives(repository, "bootstrap {\n  from_backup { cluster = \"nobody\" }\n}")
	stop = b.begin()
	b.until("word of what is not there", func() bool {
		st, err := b.client.StatusOf(t.Context(), b.api)
		return err == nil && strings.Contains(st.Problem, "found the cluster from a backup of nobody: ") && strings.Contains(st.Problem, "no repository")
	})
	stop()
	if _, err := os.Stat(b.data); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what cannot be restored has left a data directory: %v", err)
	}
	b.rewrite("nobody", "pg")
	b.begin()
	b.until("word of another server's tablespace", func() bool {
		st, err := b.client.StatusOf(t.Context(), b.api)
		return err == nil && strings.Contains(st.Problem, "of another server; move that away")
	})
	if _, err := os.Stat(b.data); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a data directory beside another server's tablespace: %v", err)
	}
	theirs, err := filepath.Glob(filepath.Join(space, "PG_*"))
	if err != nil || len(theirs) != 1 {
		t.Fatalf("%v, %v", theirs, err)
	}
	if err := os.Rename(theirs[0], filepath.Join(filepath.Dir(space), "theirs")); err != nil {
		t.Fatal(err)
	}
	b.until("a primary that takes writes", func() bool {
		st, err := b.client.StatusOf(t.Context(), b.api)
		return err == nil && st.Leader == "n1" && len(st.Members) == 1 && st.Members[0].Writable
	})
	if at := b.sql("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'elsewhere'"); at != space {
		t.Errorf("the tablespace is in %s, want %s", at, space)
	}
	if n := b.sql("select count(*) from rows"); n != "200" {
		t.Errorf("%s rows", n)
	}
	if got := b.sql("select system_identifier from pg_control_system()"); got != system {
		t.Errorf("system %s, and the backup's is %s", got, system)
	}
}

// TestFoundedHook: a command that is told of the founding reaches the server as superuser,
// in place of Patroni's post_init; it is told once in the cluster's life.
func TestFoundedHook(t *testing.T) {
	a := newAlone(t)
	out := filepath.Join(filepath.Dir(a.path), "founded")
	if err := errors.Join(os.WriteFile(out, nil, 0o666), os.Chmod(out, 0o666)); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(a.path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	psql := filepath.Join(a.bin, "psql")
	fmt.Fprintf(f, `
hook "post-init" {
  on      = ["founded", "primary"]
  command = ["/bin/sh", "-c", "echo $PGSIDECAR_EVENT $(%s postgres:///postgres -XAtc 'create table made(); select rolsuper from pg_roles where rolname = current_user') >> %s"]
  timeout = "1m"
}
`, psql, out)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	said := func() string {
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	stop := a.run()
	a.until("the command", func() bool { return strings.Contains(said(), "founded") && strings.Contains(said(), "primary") })
	if !strings.Contains(said(), "founded CREATE TABLE t\n") && !strings.Contains(said(), "founded t\n") {
		t.Errorf("it said %q", said())
	}
	stop()
	before := strings.Count(said(), "primary")
	a.run()
	a.until("the next start", func() bool { return strings.Count(said(), "primary") > before })
	if strings.Count(said(), "founded") != 1 {
		t.Errorf("it was told again: %q", said())
	}
}
