package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsidecar/pgsidecar/cmd/pgsidecar/cli"
	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/labtest"
	"github.com/pgsidecar/pgsidecar/sidecar/lab/programs"
)

// saved is a lab whose members archive and make backups by the real pgBackRest.
type saved struct {
	*lab.Lab
	t *testing.T
}

func newSaved(t *testing.T) *saved { return newSavedOn(t, lab.Options{}) }

func newSavedOn(t *testing.T, o lab.Options) *saved {
	t.Helper()
	if testing.Short() {
		t.Skip("takes a cluster")
	}
	binary, err := builtOnce()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "saved")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	labtest.NeedPrograms(t)
	o.Dir, o.Binary, o.Backup = filepath.Join(dir, "lab"), binary, true
	l, err := lab.New(o)
	if errors.Is(err, programs.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &saved{Lab: l, t: t}
	t.Cleanup(s.end)
	ctx := s.within(3 * time.Minute)
	if err := l.Up(ctx, func(string) {}); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	s.here()
	return s
}

// here has the commands that follow speak with this lab.
func (s *saved) here() {
	s.t.Helper()
	token, err := os.ReadFile(s.Plan().APITokenFile())
	if err != nil {
		s.t.Fatal(err)
	}
	var apis []string
	for _, h := range s.Plan().Members() {
		apis = append(apis, h.APIAddress())
	}
	s.t.Setenv("PGSIDECAR_API", strings.Join(apis, ","))
	s.t.Setenv("PGSIDECAR_TOKEN", strings.TrimSpace(string(token)))
}

// rewrite changes each member's pg.hcl, and restarts the sidecars alone.
func (s *saved) rewrite(change func(pg string) string) {
	s.t.Helper()
	for _, h := range s.Plan().Members() {
		path := filepath.Join(h.Dir, "pg.hcl")
		text, err := os.ReadFile(path)
		s.must(err)
		s.must(os.WriteFile(path, []byte(change(string(text))), 0o644))
		s.must(s.Kill(h.Name, lab.Sidecar))
		s.must(s.Wait(s.within(time.Minute), h.Name, lab.Sidecar))
		s.must(s.Start(s.within(time.Minute), h.Name, lab.Sidecar))
	}
}

// end shows what the members said, if the test failed.
func (s *saved) end() {
	if s.t.Failed() {
		for _, h := range s.Plan().Members() {
			for _, path := range []string{filepath.Join(h.Dir, "sidecar.log"), filepath.Join(h.DataDir()+".pgsidecar", "postgresql.log")} {
				b, err := os.ReadFile(path)
				if err == nil {
					lines := strings.Split(strings.TrimSpace(string(b)), "\n")
					s.t.Logf("%s:\n%s", path, strings.Join(lines[max(0, len(lines)-50):], "\n"))
				}
			}
		}
	}
	if err := s.Down(context.Background()); err != nil {
		s.t.Error(err)
	}
}

func (s *saved) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	s.t.Cleanup(cancel)
	return ctx
}

// status is what the leader says; nil: there is none that leads.
func (s *saved) status() *api.Status {
	return s.statusOf(func(st *api.Status) bool { return st.Primary })
}

// statusOf is what the first member says of which is is so; nil: there is none.
func (s *saved) statusOf(is func(*api.Status) bool) *api.Status { return s.statusAt(s.Lab, is) }

// statusAt is statusOf of a lab.
func (s *saved) statusAt(l *lab.Lab, is func(*api.Status) bool) *api.Status {
	for _, h := range l.Plan().Members() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.APIAddress()+"/status", nil)
		if err != nil {
			s.t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			st := new(api.Status)
			err = json.NewDecoder(res.Body).Decode(st)
			res.Body.Close()
			if err == nil && is(st) {
				cancel()
				return st
			}
		}
		cancel()
	}
	return nil
}

// await waits until the leader's status is as wanted.
func (s *saved) await(what string, is func(*api.Status) bool) *api.Status {
	s.t.Helper()
	return s.awaitAny(what, func(st *api.Status) bool { return st.Primary && is(st) })
}

// awaitAny waits until some member's status is as wanted.
func (s *saved) awaitAny(what string, is func(*api.Status) bool) *api.Status {
	s.t.Helper()
	return s.awaitOf(s.Lab, what, is)
}

// awaitOf is awaitAny of a lab.
func (s *saved) awaitOf(l *lab.Lab, what string, is func(*api.Status) bool) *api.Status {
	s.t.Helper()
	return s.awaitIn(l, 2*time.Minute, what, is)
}

// awaitFor is awaitAny with another patience.
func (s *saved) awaitFor(limit time.Duration, what string, is func(*api.Status) bool) *api.Status {
	s.t.Helper()
	return s.awaitIn(s.Lab, limit, what, is)
}

func (s *saved) awaitIn(l *lab.Lab, limit time.Duration, what string, is func(*api.Status) bool) *api.Status {
	s.t.Helper()
	ctx := s.within(limit)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if st := s.statusAt(l, is); st != nil {
			return st
		}
		select {
		case <-ctx.Done():
			b, _ := json.Marshal(s.status())
			s.t.Fatalf("%s did not come: %s", what, b)
		case <-tick.C:
		}
	}
}

// host is a member's.
func (s *saved) host(member string) lab.Host {
	s.t.Helper()
	h, err := s.Plan().Host(member)
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

// connect opens a superuser's connection to a member.
func (s *saved) connect(member string) *pgx.Conn {
	s.t.Helper()
	password, err := os.ReadFile(s.Plan().PasswordFile(lab.SuperuserRole))
	if err != nil {
		s.t.Fatal(err)
	}
	conn, err := pgx.Connect(s.within(time.Minute), "postgres://postgres:"+strings.TrimSpace(string(password))+"@"+s.host(member).PostgresAddress()+"/postgres")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func (s *saved) sql(conn *pgx.Conn, statements ...string) {
	s.t.Helper()
	for _, statement := range statements {
		if _, err := conn.Exec(s.within(time.Minute), statement); err != nil {
			s.t.Fatalf("%s: %v", statement, err)
		}
	}
}

func ask[T any](s *saved, conn *pgx.Conn, query string) T {
	s.t.Helper()
	var answer T
	if err := conn.QueryRow(s.within(time.Minute), query).Scan(&answer); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return answer
}

// lose ends all that runs on a member, at once.
func (s *saved) lose(member string) {
	s.t.Helper()
	for _, program := range []lab.Program{lab.Sidecar, lab.Guard, lab.Postgres} {
		if err := s.Kill(member, program); err != nil && !errors.Is(err, lab.ErrNotRunning) {
			s.t.Fatal(err)
		}
	}
}

// archived lists the segments of a timeline that are in the repository.
func (s *saved) archived(timeline string) []string {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.Plan().RepositoryDir(), "archive", "*", "*", "*", timeline+"*"))
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, path := range found {
		name, _, _ := strings.Cut(filepath.Base(path), "-")
		if len(name) == 24 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// TestNoHoleInTheArchive: a primary whose archiving fails is lost with all that it had
// not archived; the next leader archives it.
func TestNoHoleInTheArchive(t *testing.T) {
	s := newSaved(t)
	st := s.await("an archive", func(st *api.Status) bool { return st.Archive != nil && st.Archive.Position > 0 })
	old := s.connect(st.Member)
	s.sql(old, "create table t(n int)", "select pg_switch_wal()")
	s.await("an archive of all", func(st *api.Status) bool { return st.Archive.Files == 0 })
	away := s.Plan().RepositoryDir() + ".away"
	if err := os.Rename(s.Plan().RepositoryDir(), away); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		s.sql(old, "insert into t select generate_series(1, 1000)", "select pg_switch_wal()")
	}
	last := ask[string](s, old, "select pg_walfile_name(pg_current_wal_lsn() - 1)")
	s.await("word of what waits", func(st *api.Status) bool { return st.Archive.Files >= 10 })
	// What a standby has checkpointed it removes, unless something keeps it.
	s.sql(old, "checkpoint")
	for _, m := range st.Members {
		if m.Member != st.Member {
			s.sql(s.connect(m.Member), "checkpoint", "checkpoint")
		}
	}
	s.lose(st.Member)
	if err := os.Rename(away, s.Plan().RepositoryDir()); err != nil {
		t.Fatal(err)
	}
	s.await("a new leader with all archived", func(now *api.Status) bool {
		return now.Term > st.Term && now.Archive != nil && now.Archive.Leads && now.Archive.Files == 0 && now.Archive.Position > 0
	})
	names := s.archived("00000001")
	if len(names) == 0 || names[len(names)-1] < last {
		t.Fatalf("archived: %v, and the last was %s", names, last)
	}
	for i := 1; i < len(names); i++ {
		if next(names[i-1]) != names[i] {
			t.Errorf("a hole between %s and %s: %v", names[i-1], names[i], names)
		}
	}
}

// TestBackups: one is made by the command, shown, cancelled and begun again after its
// maker was lost; what is wrong is said in one line.
func TestBackups(t *testing.T) {
	s := newSaved(t)
	st := s.await("an archive", func(st *api.Status) bool { return st.Archive != nil && st.Archive.Position > 0 })
	s.sql(s.connect(st.Member), "create table t as select n, repeat(md5(n::text), 8) from generate_series(1, 200000) n")
	if out := s.command("backup", "check"); !strings.Contains(out, "all is well") {
		t.Errorf("check: %s", out)
	}
	if out := s.command("backup", "list"); !strings.Contains(out, "no backup yet") {
		t.Errorf("list: %s", out)
	}
	out := s.command("backup", "run")
	if !strings.Contains(out, "is done: ") {
		t.Errorf("run: %s", out)
	}
	st = s.await("word of it", func(st *api.Status) bool { return len(st.Backups) == 1 && st.Backups[0].Good != nil })
	if b := st.Backups[0]; b.Age < 0 || b.Count != 1 || b.Good.Size < 20<<20 || b.By != st.Member || b.Failed != nil {
		t.Errorf("status: %+v", b)
	}
	if out := s.command("backup", "list"); !strings.Contains(out, st.Backups[0].Good.Label) || !strings.Contains(out, "can be restored: ") {
		t.Errorf("list: %s", out)
	}
	if out := s.command("status"); !strings.Contains(out, "backup main: "+st.Backups[0].Good.Label) {
		t.Errorf("status: %s", out)
	}
	if out := s.command("drill", "restore"); !strings.Contains(out, st.Backups[0].Good.Label+" is good, as ") || !strings.Contains(out, "those of all pages are right") {
		t.Errorf("drill restore: %s", out)
	}
	st = s.await("word of the proof", func(st *api.Status) bool { return st.Backups[0].Verified != nil && st.Backups[0].Verified.Good != nil })
	if v := st.Backups[0].Verified; v.Good.By == st.Member || v.Good.RTO <= 0 || v.Good.Tables < 10 || v.Good.Bytes < 20<<20 || v.Running != nil || v.Failed != nil {
		t.Errorf("proof: %+v, %+v", v, v.Good)
	} else if _, err := os.Stat(filepath.Join(s.host(v.Good.By).DataDir()+".pgsidecar", "verify")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the scratch folder is left: %v", err)
	}
	if code, _, stderr := s.run("drill", "restore", "--on", "n9"); code != 1 || !strings.Contains(stderr, "n9") {
		t.Errorf("on a member that is not there: %d, %s", code, stderr)
	}
	if out := s.command("status"); !strings.Contains(out, "; proved by a restore ") {
		t.Errorf("status: %s", out)
	}
	// Its maker is lost in the middle; the next leader begins it again.
	s.sql(s.connect(st.Member), "insert into t select n, repeat(md5(n::text), 8) from generate_series(1, 400000) n")
	s.command("backup", "run", "--detach")
	s.lose(st.Member)
	s.await("the backup, by another", func(now *api.Status) bool {
		return now.Term > st.Term && len(now.Backups) == 1 && now.Backups[0].Good != nil && now.Backups[0].Good.Label != st.Backups[0].Good.Label &&
			now.Backups[0].By != st.Member
	})
	if code, _, stderr := s.run("backup", "cancel"); code != 1 || !strings.Contains(stderr, "no backup is being made") {
		t.Errorf("cancel: %d, %s", code, stderr)
	}
	if code, _, stderr := s.run("backup", "run", "another"); code != 1 || !strings.Contains(stderr, `no block backup "another"`) {
		t.Errorf("another block: %d, %s", code, stderr)
	}
	if out := s.command("backup", "expire"); !strings.Contains(out, "nothing is to be removed") {
		t.Errorf("expire: %s", out)
	}
}

// run runs a command line as a person would.
func (s *saved) run(args ...string) (code int, stdout, stderr string) {
	return s.runFor(3*time.Minute, args...)
}

// runFor is run with another patience.
func (s *saved) runFor(limit time.Duration, args ...string) (code int, stdout, stderr string) {
	var out, errs strings.Builder
	p := &cli.Process{Stdin: strings.NewReader("pg\n"), Stdout: &out, Stderr: &errs, Getenv: os.Getenv, Version: "test"}
	code = p.Run(s.within(limit), args)
	return code, out.String(), errs.String()
}

// command runs one that must succeed.
func (s *saved) command(args ...string) string {
	s.t.Helper()
	return s.commandFor(3*time.Minute, args...)
}

// commandFor is command with another patience.
func (s *saved) commandFor(limit time.Duration, args ...string) string {
	s.t.Helper()
	code, stdout, stderr := s.runFor(limit, args...)
	if code != 0 {
		s.t.Fatalf("%q: exit status %d: %s%s", args, code, stdout, stderr)
	}
	return stdout
}

// next is the name of the following segment, within one log file of 4 GB.
func next(name string) string {
	const digits = "0123456789ABCDEF"
	b := []byte(name)
	for i := len(b) - 1; i >= 16; i-- {
		d := strings.IndexByte(digits, b[i])
		b[i] = digits[(d+1)%16]
		if d < 15 {
			break
		}
	}
	return string(b)
}
