package postgres

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestFetchCommand: a standby fetches what is whole on the leader's line, while the gate
// stands, and fails by status 1 alone.
func TestFetchCommand(t *testing.T) {
	dir := t.TempDir()
	s := &Server{o: Options{StateDir: filepath.Join(dir, "100% here")}}
	if got := s.FetchCommand(); got != "" {
		t.Errorf("without an archive: %q", got)
	}
	must(t, os.Mkdir(s.o.StateDir, 0o700))
	c := control{segment: 16 << 20}
	line := ha.Position{History: []ha.Fork{{TLI: 1, End: 0x5_000_100}, {TLI: 2, End: 0x5_000_200}, {TLI: 4, End: 0x1_0200_0000}}, TLI: 5, LSN: 0x1_0300_0000}
	want := "00000001 0000000000000000 0000000000000004\n00000004 0000000000000005 0000000100000001\n00000005 0000000100000002 FFFFFFFFFFFFFFFF\n"
	if got := stretches(c, line); got != want {
		t.Errorf("stretches:\n%swant\n%s", got, want)
	}
	gate := s.state(archiveGate)
	try := func(engine, file string) int {
		t.Helper()
		s.o.WAL.RestoreCommand = engine
		command := strings.NewReplacer("%%", "%", "%f", file, "%p", "pg_wal/RECOVERYXLOG").Replace(s.FetchCommand())
		err := exec.Command("sh", "-c", command).Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if exit == nil {
			return 0
		}
		return exit.ExitCode()
	}
	if code := try("true", "000000010000000000000001"); code != 1 {
		t.Errorf("with a shut gate: %d", code)
	}
	must(t, os.WriteFile(gate, []byte(stretches(c, line)), 0o600))
	for file, code := range map[string]int{
		"000000010000000000000000": 0, "000000010000000000000004": 0,
		"000000010000000000000005": 1, // what timeline 1 has of it goes beyond the fork
		"000000020000000000000005": 1, // left within the segment in which it began
		"000000030000000000000001": 1, // the leader never was on it
		"000000040000000000000005": 0, "0000000400000000000000FF": 0, "000000040000000100000001": 0, "000000040000000100000002": 1,
		"000000050000000100000001": 1, "000000050000000100000002": 0, "0000000500000009000000AB": 0,
		"00000005.history": 1, "00000006.history": 1, "000000060000000100000003": 1, "000000040000000000000006.00000028.backup": 1,
	} {
		if got := try("true", file); got != code {
			t.Errorf("%s: %d, want %d", file, got, code)
		}
	}
	for _, engine := range []string{"exit 103", "no-such-program-here %f", "kill -9 $$"} {
		if got := try("("+engine+")", "000000040000000000000006"); engine[:4] != "kill" && got != 1 {
			t.Errorf("%s: %d", engine, got)
		}
	}
}

// TestCopyOfBackup: a copy is made of a backup, gets from the archive what the leader no
// longer has, streams, and owes what the leader had when it was begun. What goes wrong
// leaves the way open for another copy.
func TestCopyOfBackup(t *testing.T) {
	dir := testDir(t)
	archive, copied := filepath.Join(dir, "archive"), filepath.Join(dir, "backup")
	must(t, os.Mkdir(archive, 0o777))
	must(t, os.Chmod(archive, 0o777))
	archiving := func(o *Options) {
		o.Parameters = maps.Clone(o.Parameters)
		o.Parameters["wal_keep_size"] = "0"
		o.WAL = WAL{ArchiveCommand: "cp %p " + archive + "/%f", RestoreCommand: "cp " + archive + `/%f "%p"`}
	}
	a := newPrimary(t, "n1", archiving)
	must(t, a.writePassfile())
	must(t, a.makeDir(copied))
	_, err := a.program(soon(t), "pg_basebackup", []string{"-D", copied, "-d", a.conninfo(a.source(), ""), "-X", "none", "-c", "fast"}, runOptions{dir: "/"})
	must(t, err)
	first := a.sql("insert into t values (1); select pg_walfile_name(pg_switch_wal())")
	poll(t, "the archive", func() bool {
		_, err := os.Stat(filepath.Join(archive, first))
		return err == nil
	})
	for range 3 { // the leader recycles what it has archived
		a.sql("insert into t values (1); select pg_switch_wal(); checkpoint")
	}
	poll(t, "the leader's log to go", func() bool {
		a.sql("checkpoint")
		_, err := os.Stat(a.data("pg_wal", first))
		return errors.Is(err, os.ErrNotExist)
	})
	at := ha.Position{TLI: 1, LSN: a.lsn("pg_current_wal_flush_lsn()")}
	from := a.source()
	from.Owed = at
	broken := errors.New("the repository is gone")
	fail := &Backup{SystemID: a.inspect().SystemID, Line: at, Make: func(_ context.Context, into string, _ bool, _ Program) error {
		return errors.Join(os.WriteFile(filepath.Join(into, "half"), nil, 0o600), broken)
	}}
	whole := *fail
	whole.Make = func(ctx context.Context, into string, keep bool, p Program) error {
		cmd := exec.CommandContext(ctx, "cp", "-a", copied+"/.", into)
		cmd.ExtraFiles = []*os.File{p.Lock}
		if keep {
			t.Error("an empty directory is kept")
		}
		return errors.Join(cmd.Run(), os.WriteFile(filepath.Join(into, "recovery.signal"), nil, 0o600))
	}
	b := newMember(t, "n2", archiving)
	from.Backup = fail
	if err := b.Clone(soon(t), from, nil); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if f := b.inspect(); f.DataDir != ha.DataHalfMade {
		t.Errorf("a copy that failed: %+v", f)
	}
	must(t, b.EndClone(soon(t)))
	other := whole
	other.SystemID, from.Backup = "1", &other
	if err := b.Clone(soon(t), from, nil); err == nil || !strings.Contains(err.Error(), "the backup is of system") {
		t.Errorf("another cluster's: %v", err)
	}
	must(t, b.EndClone(soon(t)))
	from.Backup, from.Spaces = &whole, []string{"/elsewhere"}
	if err := b.Clone(soon(t), from, nil); err == nil || !strings.Contains(err.Error(), "tablespaces") {
		t.Errorf("with tablespaces: %v", err)
	}
	from.Spaces = nil
	must(t, b.Clone(soon(t), from, nil))
	f := b.inspect()
	if f.DataDir != ha.DataPresent || f.Rewound != "n1" || !f.FromBackup || f.Owed.LSN != at.LSN || f.WasPrimary || f.Instructed != "" || f.Copy == "" {
		t.Errorf("the copy: %+v", f)
	}
	must(t, b.Start(soon(t), StartOptions{Upstream: Upstream{Member: "n1", Line: at,
		ConnInfo: "service='" + Service("n1") + "' " + a.conninfo(a.source(), "")}}))
	b.up()
	b.caughtUp(a)
	if n := b.sql("select count(*) from t"); n != "4" {
		t.Errorf("%s rows", n)
	}
	if !b.ArchiveOpen() {
		t.Error("the archive was never open")
	}
	must(t, b.Shut())
	if opened, err := b.OpenArchive(soon(t), at); opened || err != nil || b.ArchiveOpen() {
		t.Errorf("a fenced server takes log from the archive: %v, %v", opened, err)
	}
	must(t, b.GiveUpBackup())
	if f := b.inspect(); f.Rewound != nobody {
		t.Errorf("given up: %q", f.Rewound)
	}
}
