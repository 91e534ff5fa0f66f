package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/backuptest"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
)

func example() Config {
	return Config{Dir: "/srv/own", DataDir: "/srv/pg", Commands: map[string][]string{
		"archive": {"wal-g", "wal-push", "{path}"}, "fetch": {"wal-g", "wal-fetch", "{name}", "{path}"},
		"backup": {"wal-g", "backup-push", "{data_dir}"}, "list": {"wal-g", "backup-list", "--detail", "--json"},
		"restore": {"wal-g", "backup-fetch", "{data_dir}", "{label}"}, "expire": {"wal-g", "delete", "retain", "FULL", "{full}", "--confirm"},
	}}
}

// TestValidate refuses commands that could not mean what was meant.
func TestValidate(t *testing.T) {
	if _, err := New(example()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, says string
		change     func(*Config)
	}{
		{"a command is missing", "command fetch is missing", func(c *Config) { delete(c.Commands, "fetch") }},
		{"an unknown command", `command "bakup" is not one of`, func(c *Config) { c.Commands["bakup"] = []string{"x"} }},
		{"an empty command", "command backup is empty", func(c *Config) { c.Commands["backup"] = nil }},
		{"an unknown placeholder", "command list has no {label}", func(c *Config) { c.Commands["list"] = []string{"x", "{label}"} }},
		{"one that is needed", "command restore must have {label}", func(c *Config) { c.Commands["restore"] = []string{"x", "{data_dir}"} }},
		{"an open brace", "nothing closes", func(c *Config) { c.Commands["backup"] = []string{"x", "a{b"} }},
		{"a format", "format", func(c *Config) { c.Format = "xml" }},
		{"a relative directory", "absolute path", func(c *Config) { c.Dir = "own" }},
		{"a variable", "variable", func(c *Config) { c.Environment = map[string]string{"A B": "x"} }},
	} {
		config := example()
		c.change(&config)
		if _, err := New(config); !errors.Is(err, backup.ErrSetting) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestLine: what PostgreSQL runs by a shell.
func TestLine(t *testing.T) {
	c := example()
	c.Commands["archive"] = []string{"/opt/my tool", "--to=it's 100%", "{{{name}}", "{path}", "$(x)"}
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := e.Commands().Archive, `'/opt/my tool' '--to=it'\''s 100%%' '{%f}' %p '$(x)'`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	c.Environment = map[string]string{"A": "b"}
	c.Dir = "/srv/100%"
	if e, err = New(c); err != nil {
		t.Fatal(err)
	}
	if got, want := e.Commands().Restore, `/bin/sh -c '. "$0" && exec "$@"' /srv/100%%/environment wal-g wal-fetch %f %p`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// FuzzExpand: a value stays within its word, whatever it holds.
func FuzzExpand(f *testing.F) {
	f.Add("a", "b")
	f.Add("{label}", "}{")
	f.Add("", "{data_dir} x")
	f.Fuzz(func(t *testing.T, literal, value string) {
		word := strings.ReplaceAll(literal, "{", "{{") + "{v}"
		got, err := expand([]string{"x", word}, map[string]string{"v": value}, keep)
		if err != nil || !slices.Equal(got, []string{"x", literal + value}) {
			t.Errorf("%q with %q: %q, %v", word, value, got, err)
		}
	})
}

// TestWALG reads WAL-G's list.
func TestWALG(t *testing.T) {
	const list = `[{"backup_name":"base_000000020000000000000009_D_000000010000000000000004","wal_file_name":"000000020000000000000009",
"start_time":"2026-03-01T12:10:00.5Z","finish_time":"2026-03-01T12:11:00Z","start_lsn":150994984,"finish_lsn":150995200,"pg_version":150004,
"system_identifier":7713563030345338916,"uncompressed_size":1000,"compressed_size":10},
{"backup_name":"base_000000010000000000000004","wal_file_name":"000000010000000000000004","start_time":"2026-03-01T12:00:00Z",
"finish_time":"2026-03-01T12:01:00Z","start_lsn":67108904,"finish_lsn":67109120,"pg_version":150004,"system_identifier":null}]`
	got, err := parseList(list, WALG)
	if err != nil || len(got) != 2 || got[0].Kind != backup.Full || got[0].StartLSN.String() != "0/4000028" ||
		got[1].Kind != backup.Incremental || got[1].Prior != got[0].Label || got[1].Timeline != 2 || got[1].SystemID != "7713563030345338916" || got[1].Version != 15 {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, bad := range map[string]string{"no JSON": "name", "a delta of nothing": strings.Replace(list, `"wal_file_name":"000000010000000000000004"`, `"wal_file_name":"000000010000000000000005"`, 1),
		"no segment": strings.ReplaceAll(list, "000000020000000000000009", "x")} {
		if _, err := parseList(bad, WALG); !errors.Is(err, errList) {
			t.Errorf("%s: %v", name, err)
		}
	}
	segments, histories := parseWAL("type  size  name\nobj 1 000000010000000000000004.lz4\n\nwal_005/000000010000000000000005\n" +
		"obj 2 00000002.history.lz4\n000000010000000000000006.partial\n000000010000000000000004.00000028.backup.lz4\n")
	if len(segments) != 2 || segments[1].Name != "000000010000000000000005" || !slices.Equal(histories, []string{"00000002.history"}) {
		t.Errorf("got %v, %v", segments, histories)
	}
}

// TestList: one that has no end is not finished, and one without a place is an error.
func TestList(t *testing.T) {
	got, err := parseList(`[{"label":"a","timeline":1,"start_lsn":"0/2000028","stop":"2026-03-01T12:00:00Z"},{"label":"half"}]`, Native)
	if err != nil || len(got) != 1 || got[0].Label != "a" {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := parseList(`[{"label":"a","stop":"2026-03-01T12:00:00Z"}]`, Native); !errors.Is(err, errList) {
		t.Errorf("without a position: %v", err)
	}
}

// TestSettings replaces what a restore program wrote, and nothing else.
func TestSettings(t *testing.T) {
	got := withSettings("work_mem = '8MB'\n\n# recovery_target_time\nRecovery_Target_Time='x'\nrestore_command = 'old'\nrecovery_target=immediate",
		[]backup.Setting{{Name: "restore_command", Value: `it's \ %f`}})
	if want := "work_mem = '8MB'\n# recovery_target_time\nrestore_command = 'it''s \\\\ %f'\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestExpire asks for each label, the newest first.
func TestExpire(t *testing.T) {
	c, dir := example(), t.TempDir()
	u, err := program.Lookup("")
	if err != nil {
		t.Fatal(err)
	}
	said := filepath.Join(dir, "said")
	c.Dir, c.User, c.Retention = filepath.Join(dir, "own"), u, backup.Retention{Full: 1}
	c.Commands["expire"] = []string{"/bin/sh", "-c", `echo "$1" >> ` + said, "sh", "{label}"}
	list := `[{"label":"a","timeline":1,"start_lsn":"0/2000028","start":"2026-03-01T12:00:00Z","stop":"2026-03-01T12:00:00Z"},
{"label":"b","prior":"a","timeline":1,"start_lsn":"0/3000028","start":"2026-03-02T12:00:00Z","stop":"2026-03-02T12:00:00Z"},
{"label":"c","timeline":1,"start_lsn":"0/4000028","start":"2026-03-03T12:00:00Z","stop":"2026-03-03T12:00:00Z"}]`
	c.Commands["list"] = []string{"/bin/echo", strings.ReplaceAll(list, "{", "{{")}
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(said); err != nil || string(got) != "b\na\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestLocks: the commands that write inherit a lock, so that one which outlives its sidecar
// is ended before the next.
func TestLocks(t *testing.T) {
	c, dir := example(), t.TempDir()
	u, err := program.Lookup("")
	if err != nil {
		t.Fatal(err)
	}
	said := filepath.Join(dir, "said")
	c.Dir, c.User, c.Retention = filepath.Join(dir, "own"), u, backup.Retention{Full: 1}
	for _, name := range []string{"backup", "restore", "expire"} {
		c.Commands[name] = []string{"/bin/sh", "-c", "readlink /proc/$$/fd/3 > " + said, "sh", "{data_dir}"}
	}
	c.Commands["restore"] = append(c.Commands["restore"], "{label}")
	c.Commands["expire"] = slices.Concat(c.Commands["expire"][:4], []string{"{full}"})
	c.Commands["list"] = []string{"/bin/echo", `[{{"label":"a","timeline":1,"start_lsn":"0/2000028","start":"2026-03-01T12:00:00Z","stop":"2026-03-01T12:00:00Z"}]`}
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	group := 0
	for _, k := range []struct {
		name, want string
		run        func() error
	}{
		{"backup", filepath.Join(c.Dir, "running"), func() error { _, err := e.Backup(t.Context(), backup.Request{}); return err }},
		{"expire", filepath.Join(c.Dir, "running"), func() error { _, err := e.Expire(t.Context()); return err }},
		{"restore", lock.Name(), func() error {
			return e.Restore(t.Context(), backup.Restore{DataDir: filepath.Join(dir, "data"), Label: "a", Lock: lock, Started: func(g int) { group = g }})
		}},
	} {
		err := k.run()
		got, reading := os.ReadFile(said)
		if reading != nil || strings.TrimSpace(string(got)) != k.want {
			t.Errorf("%s inherits %q, want %q (%v)", k.name, got, k.want, err)
		}
	}
	if group <= 1 {
		t.Errorf("the restore's process group is told as %d", group)
	}
}

// tool is a program for backups as a person might write one: pg_basebackup, cp, and
// the manifest's positions. Its repository comes from the environment.
const tool = `#!/bin/sh
set -eu
[ "$KEY" = 'it'"'"'s a key' ] || { echo "wrong key" >&2; exit 3; }
case $1 in
archive) cp "$2" "$REPO/wal/$3.tmp" && mv "$REPO/wal/$3.tmp" "$REPO/wal/$3" ;;
fetch) cp "$REPO/wal/$2" "$3" ;;
wal) ls "$REPO/wal" ;;
backup)
	label=b$(ls "$REPO/base" | wc -l)
	pg_basebackup -h "$PGHOST" -p "$PGPORT" -U postgres -X none -c fast -D "$REPO/base/$label.tmp" >&2
	range=$(tr -d '\n' < "$REPO/base/$label.tmp/backup_manifest" | sed 's/.*"WAL-Ranges": \[//')
	get() { echo "$range" | sed "s|.*\"$1\": \"*\([0-9A-F/]*\).*|\1|"; }
	now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
	printf '{"label":"%s","kind":"full","start":"%s","stop":"%s","timeline":%s,"start_lsn":"%s","stop_lsn":"%s","size":1}' \
		"$label" "$now" "$now" "$(get Timeline)" "$(get Start-LSN)" "$(get End-LSN)" > "$REPO/base/$label.tmp/list.json"
	mv "$REPO/base/$label.tmp" "$REPO/base/$label" ;;
list)
	sep='['
	for f in "$REPO"/base/b?/list.json; do [ -e "$f" ] || continue; printf '%s' "$sep"; cat "$f"; sep=,; done
	[ "$sep" = , ] || printf '['
	echo ']' ;;
restore)
	cp -R "$REPO/base/$2/." "$3"
	echo "recovery_target_name = 'left by the tool'" >> "$3/postgresql.auto.conf" ;;
esac
`

// TestRecovery makes a backup with a person's tool, and restores it to a moment.
func TestRecovery(t *testing.T) {
	s := backuptest.New(t)
	s.Folder("the repo")
	repo := filepath.Join(s.Dir, "the repo")
	s.Folder("the repo/wal")
	s.Folder("the repo/base")
	path := s.File("tool's.sh", tool)
	words := func(more ...string) []string { return append([]string{"/bin/sh", path}, more...) }
	c := Config{Dir: s.Folder("own"), DataDir: s.DataDir, User: s.User,
		Environment: map[string]string{"REPO": repo, "PGHOST": s.Socket, "PGPORT": fmt.Sprint(s.Port), "PATH": s.Bin + ":/usr/bin:/bin"},
		Secrets:     map[string]string{"KEY": s.File("key", "it's a key\n")},
		Commands: map[string][]string{"archive": words("archive", "{path}", "{name}"), "fetch": words("fetch", "{name}", "{path}"), "wal": words("wal"),
			"backup": words("backup"), "list": words("list"), "restore": words("restore", "{label}", "{data_dir}")}}
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := errors.Join(e.Prepare(ctx), e.Check(ctx)); err != nil {
		t.Fatal(err)
	}
	s.Start(e.Commands().Archive)
	s.SQL("create table t as select generate_series(1, 1000) n")
	b, err := e.Backup(ctx, backup.Request{Kind: backup.Full})
	if err != nil {
		t.Fatal(err)
	}
	s.SQL("insert into t values (1001)")
	lsn := s.SQL("select pg_current_wal_lsn()")
	s.SQL("drop table t")
	s.Archive()
	archive, err := e.Archived(ctx)
	if err != nil {
		t.Fatal(err)
	}
	list, err := e.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	to, err := backup.ParseTarget(backup.ToLSN, lsn)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := backup.MakePlan(backup.Question{Target: to, Repository: list, Archive: archive, Now: time.Now()})
	if err != nil || plan.Backup.Label != b.Label {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	r := backup.Restore{DataDir: filepath.Join(s.Dir, "restored"), Label: b.Label, Target: to, Scratch: true}
	if err := e.Restore(ctx, backup.Restore{DataDir: s.DataDir, Label: b.Label, Delta: true}); !errors.Is(err, backup.ErrServing) {
		t.Errorf("over the running server: %v", err)
	}
	s.Stop()
	if err := e.Restore(ctx, backup.Restore{DataDir: s.DataDir, Label: b.Label}); !errors.Is(err, backup.ErrNotEmpty) {
		t.Errorf("over the server's files: %v", err)
	}
	if err := e.Restore(ctx, backup.Restore{DataDir: r.DataDir, Label: "b9"}); !errors.Is(err, backup.ErrNoBackup) {
		t.Errorf("what is not there: %v", err)
	}
	if err := e.Restore(ctx, r); err != nil {
		t.Fatal(err)
	}
	s.StartOn(r.DataDir)
	s.Eventually("select pg_is_in_recovery()", "f")
	if got := s.SQL("select count(*) from t"); got != "1001" {
		t.Errorf("%s rows", got)
	}
}
