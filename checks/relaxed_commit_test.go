package checks_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/checks"
)

// TestConfigured: what gives up what is promised of a commit is found whatever says it,
// with the place, and although our own sessions are set otherwise; and so is what the
// server cannot read.
func TestConfigured(t *testing.T) {
	p := primary(t, "n1")
	look := func() checks.Configured {
		t.Helper()
		found, err := p.conn.Configured(within(t, 10*time.Second))
		must(t, err)
		return found
	}
	p.exec("create role app")
	p.exec("alter role app set synchronous_commit = on")
	p.exec("alter role app set default_transaction_read_only = on") // one that is to read only
	if found := look(); len(found.Weak) != 0 || len(found.Relaxed) != 0 || len(found.ReadOnly) != 0 || found.Commit != "on" || len(found.Files) != 0 || len(found.Rules) != 0 {
		t.Fatalf("found %+v where there is nothing", found)
	}
	p.exec("alter role app set synchronous_commit = off")
	p.exec("alter role app in database postgres set synchronous_commit = remote_write")
	p.exec("alter database postgres set synchronous_commit = local")
	p.exec("alter role postgres set synchronous_commit = local")
	p.exec("alter system set data_sync_retry = on") // takes effect by a restart
	p.exec("alter system set full_page_writes = off")
	p.exec("alter system set synchronous_commit = remote_write")
	p.exec("alter database postgres set default_transaction_read_only = tr")
	p.exec("alter system set default_transaction_read_only = on")
	p.exec("select pg_reload_conf()")
	p.conn.Close() // by a new session, which the role's settings are for
	var found checks.Configured
	want := []string{"full_page_writes=off in postgresql.auto.conf", "synchronous_commit=remote_write in postgresql.auto.conf",
		"synchronous_commit=local in database postgres", "synchronous_commit=local of role postgres", "synchronous_commit=off of role app",
		"synchronous_commit=remote_write of role app in database postgres",
		"default_transaction_read_only=tr in database postgres", "default_transaction_read_only=on in postgresql.auto.conf"}
	deadline := time.Now().Add(10 * time.Second)
	for {
		found = look()
		got := slices.Concat(found.Relaxed, found.Weak, found.ReadOnly)
		for i, w := range got { // without directory and line
			if at := strings.Index(w, " in /"); at >= 0 {
				file, _, _ := strings.Cut(w[at+4:], " line ")
				got[i] = w[:at] + " in " + filepath.Base(file)
			}
		}
		if slices.Equal(got, want) && found.Commit == "remote_write" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("found %+v, want %q", found, want)
		}
	}

	f, err := os.OpenFile(filepath.Join(p.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("work_mem = 'unclosed\n")
	must(t, err)
	must(t, f.Close())
	if found := look(); len(found.Files) == 0 || !strings.Contains(found.Files[0], "postgresql.conf line ") {
		t.Errorf("a file that cannot be read: %q", found.Files)
	}
}

// TestCollations: the versions of the libraries by which the server puts text in order;
// where nothing but C is, libc's does not matter.
func TestCollations(t *testing.T) {
	p := primary(t, "n1")
	read := func() checks.Configured {
		t.Helper()
		found, err := p.conn.Configured(within(t, 10*time.Second))
		must(t, err)
		return found
	}
	if got := read(); len(got.Reordered) != 0 {
		t.Errorf("on the machine that made them: %q", got.Reordered)
	}
	p.exec(`update pg_collation set collversion = '1' where collname = 'und-x-icu'`)
	if got := read(); len(got.Reordered) != 0 {
		t.Errorf("nothing is made with it: %q", got.Reordered)
	}
	if p.value(`select count(*) from pg_collation where collname = 'und-x-icu'`) != "0" {
		p.exec(`create table ordered (word text collate "und-x-icu")`)
		if got := read().Reordered; len(got) != 1 || !strings.HasPrefix(got[0], "1 collations of database postgres, such as und-x-icu (made with 1, here ") {
			t.Errorf("another version: %q", got)
		}
	}
	if p.value(`current_setting('server_version_num')::int >= 150000`) == "true" {
		p.exec(`update pg_database set datcollversion = '1' where datname = 'postgres'`)
		own := p.value(`select count(pg_database_collation_actual_version(oid)) from pg_database where datname = 'postgres'`) // none of C
		if got := read().Reordered; strings.Contains(strings.Join(got, "; "), "database postgres (made with 1") != (own == "1") {
			t.Errorf("another version of the database's own: %q", got)
		}
	}
	p.exec(`delete from pg_collation where collprovider = 'c' and collcollate !~* '^(c|posix)'`) // the machine's
	icu := p.value(`coalesce((select pg_collation_actual_version(oid) from pg_collation where collname = 'und-x-icu'), '')`)
	if got := read(); got.Libc != "" || got.ICU != icu {
		t.Errorf("libc %q, want none; ICU %q, want %q", got.Libc, got.ICU, icu)
	}
	// As initdb finds it on a machine that has this locale.
	p.exec(`create table one as select * from pg_collation where collname = 'POSIX'`)
	p.exec(`update one set oid = 99999, collname = 'xx_XX', collcollate = 'xx_XX.utf8', collctype = 'xx_XX.utf8'`)
	p.exec(`insert into pg_collation select * from one`)
	want := p.value(`select pg_collation_actual_version(99999)`)
	if got := read(); got.Libc == "" || got.Libc != want {
		t.Errorf("libc %q, want %q", got.Libc, want)
	}
}
