package logical

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/backuptest"
)

// TestDumpAndRestore saves each database in both formats and restores one.
func TestDumpAndRestore(t *testing.T) {
	s := backuptest.New(t)
	s.Start("true")
	const name = `it's "a" 100% = base\`
	quoted := `"it's ""a"" 100% = base\"`
	s.SQL("create database " + quoted)
	in := func(statement string) string {
		return s.Run("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", s.Socket, "-p", fmt.Sprint(s.Port), "-U", "postgres", "-d", conninfo(name), "-c", statement)
	}
	in("create table t as select generate_series(1, 1000) n; create index on t(n)")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	now := time.Now()
	for _, format := range []Format{Directory, Custom} {
		c := Config{BinDir: s.Bin, Folder: s.Folder("dumps " + string(format)), User: s.User, Host: s.Socket, Port: s.Port, Account: "postgres",
			Format: format, Jobs: 2, Retention: backup.Retention{Full: 1}}
		e, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		e.now = func() time.Time { now = now.Add(time.Minute); return now }
		if err := e.Check(ctx); err != nil {
			t.Fatal(err)
		}
		left := filepath.Join(c.Folder, "20200101-000000L"+unfinished)
		if err := os.Mkdir(left, 0o700); err != nil {
			t.Fatal(err)
		}
		done := 0.0
		first, err := e.Backup(ctx, backup.Request{Kind: backup.Logical, Progress: func(d float64) { done = d }})
		if err != nil || done != 1 || first.SystemID != s.SQL("select system_identifier from pg_control_system()") || first.Stored == 0 || !first.Good() {
			t.Fatalf("%s: %+v, %v, done %g", format, first, err, done)
		}
		if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what an earlier backup left is there: %v", err)
		}
		in("drop table t")
		if err := e.Restore(ctx, first.Label, name); err != nil {
			t.Fatal(err)
		}
		if got := in("select count(*) from t"); got != "1000" {
			t.Errorf("%s: %s rows", format, got)
		}
		if err := e.Restore(ctx, first.Label, name); err == nil {
			t.Error("restored over what is there")
		}
		for label, database := range map[string]string{"20200101-000000L": name, first.Label: "none"} {
			if err := e.Restore(ctx, label, database); !errors.Is(err, backup.ErrNoBackup) {
				t.Errorf("%s of %s: %v", database, label, err)
			}
		}
		killed, kill := context.WithCancel(ctx)
		kill()
		if _, err := e.Backup(killed, backup.Request{Kind: backup.Logical}); err == nil {
			t.Error("a killed backup is good")
		}
		second, err := e.Backup(ctx, backup.Request{Kind: backup.Logical})
		if err != nil {
			t.Fatal(err)
		}
		if gone, err := e.Expire(ctx); err != nil || len(gone) != 1 || gone[0] != first.Label {
			t.Errorf("expired %v, %v", gone, err)
		}
		list, err := e.List(ctx)
		if err != nil || len(list.Backups) != 1 || list.Backups[0].Label != second.Label || list.Free <= 0 {
			t.Errorf("left %+v, %v", list, err)
		}
		refusals(t, e, s)
	}
}

// refusals: one clear line each, and nothing is left.
func refusals(t *testing.T, e *Engine, s *backuptest.Server) {
	t.Helper()
	small := s.Folder("small")
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=8k,mode=0777"); err == nil {
		defer func() {
			if err := syscall.Unmount(small, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}()
	}
	lock, err := e.lock()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   error
	}{
		{"one is running", func(*Config) {}, backup.ErrRunning},
		{"no folder", func(c *Config) { c.Folder = "/nonexistent" }, backup.ErrNoRepository},
		{"no server", func(c *Config) { c.Port = 1 }, backup.ErrServer},
		{"no database", func(c *Config) { c.Databases = []string{"none"} }, backup.ErrSetting},
		{"a full folder", func(c *Config) { c.Folder = small }, backup.ErrFull},
	} {
		if c.want == backup.ErrFull && os.Geteuid() != 0 {
			continue
		}
		config := e.c
		c.change(&config)
		o, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		_, err = o.Backup(t.Context(), backup.Request{Kind: backup.Logical})
		if !errors.Is(err, c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if entries, err := os.ReadDir(small); err != nil || len(entries) > 1 {
		t.Errorf("a full folder has %v, %v", entries, err)
	}
	if err := lock(); err != nil {
		t.Error(err)
	}
}

// TestPassword reads what libpq reads.
func TestPassword(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passfile")
	for content, want := range map[string]string{"*:*:*:me:secret\n": "secret", `*:*:*:me:a\:b\\c`: `a:b\c`, `ho\:st:1:db:me:x`: "x", "nothing": ""} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := password(file); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", content, got, err)
		}
	}
}
