package pgbackrest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/backuptest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// world is a server with a repository that is encrypted.
type world struct {
	*backuptest.Server
	config Config
	engine *Engine
}

const passphrase = `it's $a "passphrase" # not a comment`

func installed() (string, error) {
	path, err := exec.LookPath("pgbackrest")
	if err != nil {
		return "", fmt.Errorf("%w: pgbackrest (apt-get install pgbackrest)", programs.ErrMissing)
	}
	return path, nil
}

func newWorld(t *testing.T) *world {
	t.Helper()
	labtest.Program(t, installed)
	w := &world{Server: backuptest.New(t)}
	w.config = Config{Stanza: "main", Dir: w.Folder("100% ours"), User: w.User, Compress: "gz",
		Server:         Server{DataDir: w.DataDir, Socket: w.Socket, Port: w.Port, User: "postgres"},
		Repository:     Repository{Path: w.Folder("repo"), KeyFile: w.File("key", passphrase+"\n")},
		Retention:      backup.Retention{Full: 2},
		ArchiveTimeout: time.Minute}
	w.engine = w.with(func(*Config) {})
	w.Start(w.engine.Commands().Archive)
	return w
}

// with is an engine with a changed configuration, in a folder of its own.
func (w *world) with(change func(*Config)) *Engine {
	w.Helper()
	c := w.config
	change(&c)
	e, err := New(c)
	if err != nil {
		w.Fatal(err)
	}
	return e
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func must[T any](t testing.TB, value T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func (w *world) backup(kind backup.Kind) backup.Backup {
	w.Helper()
	b, err := w.engine.Backup(within(w), backup.Request{Kind: kind})
	return must(w, b, err)
}

// TestRecovery makes backups and restores to each kind of target.
func TestRecovery(t *testing.T) {
	w := newWorld(t)
	ctx := within(t)
	for range 2 { // it may be repeated
		must(t, 0, w.engine.Prepare(ctx))
	}
	must(t, 0, w.engine.Check(ctx))
	if list := must2(w.engine.List(ctx))(t); len(list.Backups) != 0 || list.SystemID == "" || list.Free <= 0 {
		t.Errorf("an empty repository: %+v", list)
	}
	w.SQL("create table t(n int, at timestamptz default clock_timestamp()); insert into t select generate_series(1, 1000)")
	done := 0.0
	full, err := w.engine.Backup(ctx, backup.Request{Kind: backup.Full, Progress: func(d float64) { done = d }})
	must(t, 0, err)
	system, version := w.SQL("select system_identifier from pg_control_system()"), w.SQL("select current_setting('server_version_num')::int / 10000")
	if full.Kind != backup.Full || full.SystemID != system || full.Timeline != 1 || full.StopLSN <= full.StartLSN ||
		full.Size == 0 || full.Stored == 0 || strconv.Itoa(full.Version) != version || done < 0.9 || time.Since(full.Stop) > time.Minute {
		t.Errorf("full backup %+v, done %g", full, done)
	}
	w.SQL("insert into t select generate_series(1001, 2000)")
	incr := w.backup(backup.Incremental)
	if incr.Prior != full.Label || incr.Kind != backup.Incremental {
		t.Errorf("incremental backup %+v", incr)
	}
	w.SQL("insert into t values (2001)")
	w.SQL("select pg_create_restore_point('before the accident')")
	lsn := w.SQL("select pg_current_wal_lsn()")
	moment := w.SQL("select clock_timestamp()")
	xid := w.SQL("begin; insert into t values (2002); select pg_current_xact_id(); commit")
	w.SQL("drop table t; create table after(n int)")
	w.Archive()
	archive := must2(w.engine.Archived(ctx))(t)
	list := must2(w.engine.List(ctx))(t)
	c := must2(backup.Examine(archive, list.Backups, 0))(t)
	if len(c.Gaps) != 0 || len(c.Windows) != 1 || len(c.Unread) != 0 {
		t.Errorf("continuity %+v", c)
	}
	w.Stop()
	for _, target := range []struct {
		kind  backup.TargetKind
		value string
		rows  string // -: the table is gone
	}{
		{backup.ToTime, moment, "2001"}, {backup.ToLSN, lsn, "2001"}, {backup.ToName, "before the accident", "2001"},
		{backup.ToXID, xid, "2002"}, {backup.Immediate, "", "2000"}, {backup.Latest, "", "-"},
	} {
		t.Run(string(target.kind), func(t *testing.T) {
			to := must2(backup.ParseTarget(target.kind, target.value))(t)
			plan := must2(backup.MakePlan(backup.Question{Target: to, Repository: list, Archive: archive, SystemID: system, Now: time.Now()}))(t)
			dir := w.Folder("restored-" + string(target.kind))
			must(t, 0, w.engine.Restore(ctx, backup.Restore{DataDir: dir, Label: plan.Backup.Label, Target: to, Scratch: true}))
			told := must2(os.ReadFile(filepath.Join(dir, "postgresql.auto.conf")))(t)
			if strings.Contains(strings.NewReplacer("%%", "", "%f", "", "%p", "").Replace(string(told)), "%") {
				t.Errorf("PostgreSQL 16 and later would not start with %s", told)
			}
			w.StartOn(dir, "hot_standby=on")
			w.Eventually("select pg_is_in_recovery()", "f")
			got := w.SQL("select coalesce(to_regclass('t')::text, '-')")
			if got != "-" {
				got = w.SQL("select count(*) from t")
			}
			if got != target.rows || w.SQL("show archive_mode") != "off" {
				t.Errorf("%s rows, want %s; archive_mode %s", got, target.rows, w.SQL("show archive_mode"))
			}
			w.Stop()
		})
	}
	w.delta(filepath.Join(w.Dir, "restored-time"), full.Label)
}

// must2 is must for a call in its place.
func must2[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T { t.Helper(); return must(t, value, err) }
}

// delta restores over what is there, which takes a word.
func (w *world) delta(dir, label string) {
	w.Helper()
	r := backup.Restore{DataDir: dir, Label: label, Scratch: true}
	if err := w.engine.Restore(within(w), r); !errors.Is(err, backup.ErrNotEmpty) {
		w.Errorf("into what is not empty: %v", err)
	}
	r.Delta = true
	if err := w.engine.Restore(within(w), r); err != nil {
		w.Error(err)
	}
	w.StartOn(dir)
	if err := w.engine.Restore(within(w), r); !errors.Is(err, backup.ErrServing) {
		w.Errorf("into a running server: %v", err)
	}
	w.Stop()
}

// TestBadInput: one clear line each, and nothing is touched.
func TestBadInput(t *testing.T) {
	w := newWorld(t)
	ctx := within(t)
	must(t, 0, w.engine.Prepare(ctx))
	first := w.backup(backup.Full)
	other := backuptest.New(t)
	foreign := func(c *Config) {
		c.Dir = w.Folder("foreign")
		c.Server = Server{DataDir: other.DataDir, Socket: other.Socket, Port: other.Port, User: "postgres"}
	}
	other.Start(w.with(foreign).Commands().Archive)
	makes := func(e *Engine) error { _, err := e.Backup(ctx, backup.Request{Kind: backup.Full}); return err }
	lists := func(e *Engine) error { _, err := e.List(ctx); return err }
	restores := func(e *Engine) error {
		return e.Restore(ctx, backup.Restore{DataDir: w.Folder("none"), Label: first.Label})
	}
	prepares := func(e *Engine) error { return e.Prepare(ctx) }
	checks := func(e *Engine) error { return e.Check(ctx) }
	for _, c := range []struct {
		name   string
		change func(*Config)
		do     []func(*Engine) error
		want   error
	}{
		{"no repository", func(c *Config) { c.Dir, c.Repository.Path = w.Folder("a"), "/nonexistent/repository" }, []func(*Engine) error{lists, makes, checks, restores}, backup.ErrNoRepository},
		{"no stanza", func(c *Config) { c.Dir, c.Stanza = w.Folder("b"), "another" }, []func(*Engine) error{lists, makes, restores}, backup.ErrNoRepository},
		{"a wrong key", func(c *Config) { c.Dir, c.Repository.KeyFile = w.Folder("c"), w.File("wrong", "wrong") }, []func(*Engine) error{lists, makes, checks, restores, prepares}, backup.ErrKey},
		{"no key", func(c *Config) { c.Dir, c.Repository.KeyFile = w.Folder("d"), "" }, []func(*Engine) error{lists, makes, checks, restores}, backup.ErrKey},
		{"another cluster's stanza", foreign, []func(*Engine) error{makes, checks, prepares}, backup.ErrOtherCluster},
		{"no server", func(c *Config) { c.Dir, c.Server.Port = w.Folder("f"), 1 }, []func(*Engine) error{makes, checks}, backup.ErrServer},
		{"an empty key", func(c *Config) { c.Dir, c.Repository.KeyFile = w.Folder("g"), w.File("empty", "\n") }, []func(*Engine) error{lists}, backup.ErrSetting},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := w.with(c.change)
			for i, do := range c.do {
				err := do(e)
				if !errors.Is(err, c.want) || strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error(), "passphrase") {
					t.Errorf("%d: got %v; want %v", i, err, c.want)
				}
				t.Log(err)
			}
		})
	}
	if entries := must2(os.ReadDir(w.Folder("none")))(t); len(entries) != 0 {
		t.Errorf("a refused restore left %v", entries)
	}
	if err := restores(w.with(func(c *Config) {})); err != nil { // the label is right after all
		t.Error(err)
	}
	if list := must2(w.engine.List(ctx))(t); len(list.Backups) != 1 || list.Backups[0].Label != first.Label {
		t.Errorf("the repository has changed: %+v", list)
	}
	if err := w.engine.Restore(ctx, backup.Restore{DataDir: w.Folder("no"), Label: "20200101-000000F"}); !errors.Is(err, backup.ErrNoBackup) {
		t.Errorf("a label that is not there: %v", err)
	}
}

// TestFull: a backup that does not fit is none, and the next fits when there is room.
func TestFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a small file system needs root")
	}
	w := newWorld(t)
	dir := w.config.Repository.Path
	must(t, 0, syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=16m,uid=%d,gid=%d,mode=0700", w.User.UID, w.User.GID)))
	t.Cleanup(func() {
		w.Stop()
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ctx := within(t)
	must(t, 0, errors.Join(w.engine.Prepare(ctx), w.engine.Check(ctx)))
	free := must2(w.engine.List(ctx))(t).Free
	filler := w.File("repo/filler", strings.Repeat("x", int(free)-1536<<10)) // the log of a backup still fits
	_, err := w.engine.Backup(ctx, backup.Request{Kind: backup.Full})
	if !errors.Is(err, backup.ErrFull) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	t.Log(err)
	if list := must2(w.engine.List(ctx))(t); len(list.Backups) != 0 || list.Free > 2<<20 {
		t.Errorf("listed: %+v", list)
	}
	if err := w.engine.Unarchived(); err != nil {
		t.Errorf("all is archived, and still: %v", err)
	}
	rest := must2(w.engine.List(ctx))(t).Free
	more := w.File("repo/more", strings.Repeat("x", int(rest)))
	w.SQL("create table t as select md5(n::text) from generate_series(1, 1000) n; select pg_switch_wal()")
	w.Eventually("select failed_count > 0 from pg_stat_archiver", "t")
	if err := w.engine.Unarchived(); !errors.Is(err, backup.ErrFull) || strings.Contains(err.Error(), "\n") {
		t.Errorf("why log is not archived: %v", err)
	}
	must(t, 0, errors.Join(os.Remove(filler), os.Remove(more)))
	w.backup(backup.Full)
	if err := w.engine.Unarchived(); err != nil {
		t.Errorf("after there is room: %v", err)
	}
}

// TestPrepareBesideArchiving: a repository is made ready while pgBackRest archives in the
// background, and does not keep that from its work.
func TestPrepareBesideArchiving(t *testing.T) {
	w := newWorld(t)
	ctx := within(t)
	must(t, 0, w.engine.Prepare(ctx))
	for _, name := range []string{"archive", "backup"} {
		lock := must2(os.OpenFile(filepath.Join(w.config.Dir, "lock", "main-"+name+".lock"), os.O_RDWR|os.O_CREATE, 0o666))(t)
		must(t, 0, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
		t.Cleanup(func() { lock.Close() })
	}
	if err := w.engine.Prepare(ctx); err != nil {
		t.Error(err)
	}
}

// TestUnarchived: what pgBackRest has left for the next try is told, of the oldest segment.
func TestUnarchived(t *testing.T) {
	dir := t.TempDir()
	e := must2(New(Config{Stanza: "main", Dir: dir, Server: Server{DataDir: "/data"}, Repository: Repository{Path: "/repo"}}))(t)
	out := filepath.Join(dir, "spool", "archive", "main", "out")
	must(t, 0, os.MkdirAll(out, 0o700))
	write := func(name, text string) { must(t, 0, os.WriteFile(filepath.Join(out, name), []byte(text), 0o600)) }
	for _, c := range []struct {
		file, text string
		want       error
	}{
		{"000000010000000000000001.ok", "0\n", nil},
		{"global.error", "", nil},
		{"global.error", "103\nunable to find a valid repository", errInfo},
		{"00000001000000000000000C.error", "104\nraised from local-1 protocol: archive-push command encountered error(s):\nrepo1: [FileWriteError] unable to write '/repo/C.lz4.pgbackrest.tmp'\n[CommandError] on retry after 0ms", backup.ErrFull},
		{"00000001000000000000000B.error", "104\nrepo1: [FileWriteError] unable to write '/repo/B.lz4.pgbackrest.tmp': [28] No space left on device", backup.ErrFull},
		{"00000001000000000000000A.error", "44\nPostgreSQL version 15, system-id 7 do not match stanza", backup.ErrOtherCluster},
	} {
		write(c.file, c.text)
		err := e.Unarchived()
		if (err == nil) != (c.want == nil) || c.want != nil && c.want != errInfo && !errors.Is(err, c.want) {
			t.Errorf("%s %q: %v, want %v", c.file, c.text, err, c.want)
		}
		t.Log(err)
	}
}
