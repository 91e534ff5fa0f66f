package pgbackrest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/backup"
	"github.com/pgsidecar/pgsidecar/sidecar/backup/program"
)

func example(t testing.TB) Config {
	t.Helper()
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := program.Lookup("")
	if err != nil {
		t.Fatal(err)
	}
	return Config{Stanza: "main", Dir: filepath.Join(dir, "own"), User: u,
		Server: Server{DataDir: "/srv/pg", Socket: "/run/pg", Port: 5432, User: "postgres"},
		Repository: Repository{Type: "s3", Path: "/pg", KeyFile: key,
			Options: map[string]string{"s3-bucket": "b", "s3-region": "r"}, Secrets: map[string]string{"s3-key-secret": key}}}
}

// TestWritten: secrets are in their own file, for the server's user alone.
func TestWritten(t *testing.T) {
	c := example(t)
	c.Primary = &Server{DataDir: "/srv/pg", Port: 5433, Options: map[string]string{"host": "n1", "host-type": "tls"}}
	c.Retention.Window = 14 * 24 * time.Hour
	if err := errors.Join(c.Validate(), c.write(), c.write()); err != nil {
		t.Fatal(err)
	}
	main, err1 := os.ReadFile(c.file())
	secrets, err2 := os.ReadFile(filepath.Join(c.include(), "secrets.conf"))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"repo1-type=s3", "repo1-path=/pg", "repo1-cipher-type=aes-256-cbc", "repo1-s3-bucket=b", "repo1-retention-full-type=time",
		"repo1-retention-full=14", "archive-async=y", "[main]", "pg1-path=/srv/pg", "pg1-socket-path=/run/pg", "pg2-host=n1", "pg2-port=5433", "backup-standby=y"} {
		if !strings.Contains(string(main), "\n"+line+"\n") {
			t.Errorf("%q is not in\n%s", line, main)
		}
	}
	if strings.Contains(string(main), "hunter2") {
		t.Errorf("a secret is in\n%s", main)
	}
	if !strings.HasSuffix(string(secrets), "[global]\nrepo1-cipher-pass=hunter2\nrepo1-s3-key-secret=hunter2\n") {
		t.Errorf("secrets are\n%s", secrets)
	}
	for name, mode := range map[string]os.FileMode{"pgbackrest.conf": 0o600, "conf.d/secrets.conf": 0o600} {
		info, err := os.Stat(filepath.Join(c.Dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(c.Dir, "*", ".new-*")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := os.WriteFile(c.Repository.KeyFile, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.write(); err != nil {
		t.Fatal(err)
	}
	if secrets, err := os.ReadFile(filepath.Join(c.include(), "secrets.conf")); err != nil || !strings.Contains(string(secrets), "pass=changed\n") {
		t.Errorf("a changed secret: %s, %v", secrets, err)
	}
}

// TestValidate refuses what pgBackRest would misunderstand.
func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name, says string
		change     func(*Config)
	}{
		{"a stanza with a slash", "stanza", func(c *Config) { c.Stanza = "a/b" }},
		{"a stanza that ends a section", "stanza", func(c *Config) { c.Stanza = "a]\n[global]" }},
		{"a relative path", "repository's path", func(c *Config) { c.Repository.Path = "repo" }},
		{"a path of two lines", "repository's path", func(c *Config) { c.Repository.Path = "/repo\nrepo1-type=s3" }},
		{"a type", "repository type", func(c *Config) { c.Repository.Type = "tape" }},
		{"a compression", "compression", func(c *Config) { c.Compress = "rar" }},
		{"a secret in the open", "is a secret", func(c *Config) { c.Repository.Options["s3-key-secret"] = "x" }},
		{"another secret", "is a secret", func(c *Config) { c.Repository.Options["azure-key"] = "x" }},
		{"what has a field", "must not be set here", func(c *Config) { c.Repository.Options["retention-full"] = "1" }},
		{"the cipher", "must not be set here", func(c *Config) { c.Repository.Secrets["cipher-pass"] = "/x" }},
		{"an option of two lines", "expected one line", func(c *Config) { c.Repository.Options["s3-bucket"] = "a\nrepo1-path=/x" }},
		{"a name of two lines", "must not be set here", func(c *Config) { c.Repository.Options["s3-bucket=x\nrepo1-path"] = "/x" }},
		{"an empty option", "expected one line", func(c *Config) { c.Server.Options = map[string]string{"host": ""} }},
		{"the server's path twice", "must not be set here", func(c *Config) { c.Primary = &Server{Options: map[string]string{"path": "/x"}} }},
		{"two retentions", "not both", func(c *Config) { c.Retention = backup.Retention{Full: 2, Window: 24 * time.Hour} }},
		{"half a day", "whole days", func(c *Config) { c.Retention.Window = 12 * time.Hour }},
	} {
		config := example(t)
		c.change(&config)
		if _, err := New(config); !errors.Is(err, backup.ErrSetting) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, content := range []string{"", "\n", "a\nb", " a", "a\t"} {
		config := example(t)
		if err := os.WriteFile(config.Repository.KeyFile, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := config.write(); !errors.Is(err, backup.ErrSetting) {
			t.Errorf("a key %q: %v", content, err)
		}
	}
}

// TestCommands: PostgreSQL replaces %p and %f, and halves %%.
func TestCommands(t *testing.T) {
	c := example(t)
	c.Program, c.Dir = "/opt/pg back/pgbackrest", "/srv/100%p"
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	got := e.Commands()
	const base = `'/opt/pg back/pgbackrest' --config=/srv/100%%p/pgbackrest.conf --config-include-path=/srv/100%%p/conf.d --stanza=main `
	if got.Archive != base+`archive-push "%p"` || got.Restore != base+`archive-get %f "%p"` {
		t.Errorf("got %+v", got)
	}
}

const answer = `[{"archive":[{"database":{"id":1,"repo-key":1},"id":"15-1","max":"000000020000000000000009","min":"000000010000000000000002"}],
"backup":[{"annotation":null,"archive":{"start":"000000020000000000000007","stop":"000000020000000000000007"},"backrest":{"format":5,"version":"2.45"},
"database":{"id":1,"repo-key":1},"error":false,"info":{"delta":8317,"repository":{"delta":432,"size":2986123},"size":23456789},"label":"20260301-120500F_20260301-121000I",
"lsn":{"start":"0/7000028","stop":"0/7000100"},"prior":"20260301-120500F","reference":["20260301-120500F"],"timestamp":{"start":1772367000,"stop":1772367003},"type":"incr"},
{"archive":{"start":"000000010000000000000002","stop":"000000010000000000000002"},"database":{"id":1,"repo-key":1},"error":true,
"info":{"delta":23456789,"repository":{"delta":2985691,"size":2985691},"size":23456789},"label":"20260301-120500F","lsn":{"start":"0/2000028","stop":"0/2000138"},
"prior":null,"reference":null,"timestamp":{"start":1772366700,"stop":1772366705},"type":"full"}],"cipher":"none",
"db":[{"id":1,"repo-key":1,"system-id":7713563030345338916,"version":"15"}],"name":"main","repo":[{"cipher":"none","key":1,"status":{"code":0,"message":"ok"}}],
"status":{"code":0,"lock":{"backup":{"held":true}},"message":"ok"}}]`

// TestInfo reads what pgBackRest 2.45 writes.
func TestInfo(t *testing.T) {
	r, err := parseInfo(answer, "main")
	if err != nil || len(r.Backups) != 2 || !r.Running || r.SystemID != "7713563030345338916" {
		t.Fatalf("got %+v, %v", r, err)
	}
	want := backup.Backup{Label: "20260301-120500F_20260301-121000I", Kind: backup.Incremental, Prior: "20260301-120500F", Timeline: 2,
		Start: time.Date(2026, 3, 1, 12, 10, 0, 0, time.UTC), Stop: time.Date(2026, 3, 1, 12, 10, 3, 0, time.UTC),
		StartLSN: 0x7000028, StopLSN: 0x7000100, SystemID: "7713563030345338916", Version: 15, Size: 23456789, Stored: 432}
	if r.Backups[1] != want {
		t.Errorf("got %+v", r.Backups[1])
	}
	if b := r.Backups[0]; !b.Damaged || b.Good() {
		t.Errorf("pages failed their checksums: %+v", b)
	}
	for _, c := range []struct {
		name, output string
		want         error
	}{
		{"no stanza", `[{"name":"main","status":{"code":1,"message":"missing stanza path"}}]`, backup.ErrNoRepository},
		{"no data", `[{"name":"main","status":{"code":3,"message":"missing stanza data"}}]`, backup.ErrNoRepository},
		{"an empty answer", `[]`, backup.ErrNoRepository},
		{"a wrong key", `[{"name":"main","status":{"code":99,"message":"[CryptoError] unable to load info file"}}]`, backup.ErrKey},
		{"a wrong key, as 2.45 says it", "[{\"name\":\"main\",\"repo\":[{\"key\":1,\"status\":{\"code\":99,\"message\":\"[FormatError] unable to load info file '/a': key/value found outside of section at line 1: \x1f\xfe\"}}],\"status\":{\"code\":99,\"message\":\"other\"}}]", backup.ErrKey},
		{"something else", `[{"name":"main","status":{"code":99,"message":"moon"}}]`, errInfo},
		{"no JSON", `stanza: main`, errInfo},
		{"an unknown type", strings.ReplaceAll(answer, `"type":"full"`, `"type":"half"`), errInfo},
		{"no segment", strings.ReplaceAll(answer, `"start":"000000010000000000000002"`, `"start":null`), errInfo},
	} {
		if _, err := parseInfo(c.output, "main"); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestArchive takes segments and histories of the newest server.
func TestArchive(t *testing.T) {
	segments, histories, err := parseArchive(`{".":{"type":"path"},"archive.info":{"size":1,"time":1,"type":"file"},
"14-1/0000000100000000/000000010000000000000001-aa.gz":{"size":1,"time":1,"type":"file"},"15-2":{"type":"path"},
"15-2/0000000200000000/000000020000000000000003-0f.lz4":{"size":1,"time":1772366700,"type":"file"},
"15-2/0000000200000000/000000020000000000000002-0e":{"size":1,"time":1772366600,"type":"file"},
"15-2/0000000200000000/000000020000000000000004-0d.gz.pgbackrest.tmp":{"size":1,"time":1,"type":"file"},
"15-2/0000000100000000/000000010000000000000002.partial-0c.gz":{"size":1,"time":1,"type":"file"},
"15-2/0000000100000000/000000010000000000000002.00000028.backup":{"size":1,"time":1,"type":"file"},
"15-2/00000002.history":{"size":1,"time":1,"type":"file"}}`)
	if err != nil || len(segments) != 2 || segments[1].Name != "000000020000000000000003" || segments[1].At.Unix() != 1772366700 ||
		len(histories) != 1 || histories[0] != "15-2/00000002.history" {
		t.Errorf("got %+v, %v, %v", segments, histories, err)
	}
}

// TestRestoreArgs: the backup is always named, and a scratch server never touches
// what belongs to another.
func TestRestoreArgs(t *testing.T) {
	for _, c := range []struct {
		r    backup.Restore
		want string // empty: refused
	}{
		{backup.Restore{DataDir: "/d", Label: "x"}, "--log-level-console=detail --pg1-path=/d --set=x --target-timeline=latest --type=default restore"},
		{backup.Restore{DataDir: "/d", Label: "x", Delta: true, Target: backup.Target{Kind: backup.ToLSN, LSN: 0x3000148, Exclusive: true, Timeline: 2}},
			"--log-level-console=detail --pg1-path=/d --set=x --target=0/3000148 --target-action=promote --target-timeline=2 --type=lsn --target-exclusive --delta restore"},
		{backup.Restore{DataDir: "/d", Label: "x", Scratch: true, Target: backup.Target{Kind: backup.Immediate}},
			"--archive-mode=off --log-level-console=detail --pg1-path=/d --set=x --tablespace-map-all=/d.tablespaces --target-action=promote --type=immediate restore"},
		{backup.Restore{DataDir: "/d", Label: "x", Standby: true}, "--log-level-console=detail --pg1-path=/d --set=x --target-timeline=latest --type=standby restore"},
		{backup.Restore{DataDir: "/d"}, ""},
		{backup.Restore{DataDir: "d", Label: "x"}, ""},
		{backup.Restore{DataDir: "/d", Label: "x", Target: backup.Target{Kind: backup.ToName, Name: "n", Exclusive: true}}, ""},
	} {
		got, err := restoreArgs(c.r)
		if strings.Join(got, " ") != c.want || (err == nil) == (c.want == "") {
			t.Errorf("%+v: got %q, %v", c.r, got, err)
		}
	}
}

// TestFailure: what pgBackRest 2.45 said when this went wrong, and what it means.
func TestFailure(t *testing.T) {
	for _, c := range []struct {
		name, said, text string
		code             int
		want             error
	}{
		{"a short write", "ERROR: [064]: raised from local-1 protocol: unable to write '/r/pg_data/base/1/2609.gz'", "2609.gz", 64, backup.ErrFull},
		{"no space", "ERROR: [064]: unable to write '/r/x': [28] No space left on device", "[28]", 64, backup.ErrFull},
		{"a bad disk is not a full one", "ERROR: [064]: unable to write '/r/x': [5] Input/output error", "[5]", 64, nil},
		{"a guess of pgBackRest's", "ERROR: [055]: unable to load info file '/r/archive.info':; FormatError: key/value found outside of section at line 1: \x1f; HINT: has a stanza-create been performed?", "archive.info", 55, backup.ErrKey},
		{"no stanza", "ERROR: [055]: unable to load info file '/r/archive.info':; FileMissingError: unable to open; HINT: has a stanza-create been performed?", "archive.info", 55, backup.ErrNoRepository},
		{"by its code alone", "ERROR: [050]: unable to acquire lock on file '/l/main-backup.lock'", "main-backup.lock", 50, backup.ErrRunning},
		{"a warning that says more than the error", "WARN: unable to check pg1: [DbConnectError] refused; ERROR: [027]: no database found; HINT: check indexed pg-path", "refused", 27, backup.ErrServer},
	} {
		err := failure(&program.Failed{Program: "pgbackrest", Code: c.code, Said: c.said})
		if c.want != nil && !errors.Is(err, c.want) || c.want == nil && errors.Is(err, backup.ErrFull) ||
			!strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "HINT") || strings.ContainsAny(err.Error(), "\n\x1f") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
