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

// backedUp is a primary that has n = 1 at the restore point "here" and n = 2 now, and is
// stopped; and what restores a base backup of it, with its archive.
func backedUp(t *testing.T, told string) (*member, Restoration) {
	t.Helper()
	nothing := func(*member) {}
	a, r, _ := backedUpWith(t, told, nothing, nothing)
	return a, r
}

// backedUpWith does something before the backup, and something after it. It returns where
// the backup is; its tablespaces are beside it.
func backedUpWith(t *testing.T, told string, before, after func(*member)) (*member, Restoration, string) {
	t.Helper()
	dir := testDir(t)
	archive, copied := filepath.Join(dir, "archive"), filepath.Join(dir, "backup")
	must(t, os.Mkdir(archive, 0o777))
	must(t, os.Chmod(archive, 0o777))
	a := newPrimary(t, "n1", func(o *Options) {
		o.Parameters = maps.Clone(o.Parameters)
		maps.Copy(o.Parameters, map[string]string{"archive_mode": "on", "archive_command": "cp %p " + archive + "/%f"})
	})
	must(t, a.writePassfile())
	must(t, errors.Join(a.makeDir(copied), a.makeDir(copied+".spaces")))
	before(a)
	args := []string{"-D", copied, "-d", a.conninfo(a.source(), ""), "-X", "none", "-c", "fast"}
	for _, dir := range strings.Fields(a.sql("select coalesce(string_agg(pg_tablespace_location(oid), ' '), '') from pg_tablespace where spcname !~ '^pg_'")) {
		args = append(args, "-T", dir+"="+filepath.Join(copied+".spaces", filepath.Base(dir)))
	}
	_, err := a.program(soon(t), "pg_basebackup", args, runOptions{dir: "/"})
	must(t, err)
	a.sql("insert into t values (1); select pg_create_restore_point('here'); insert into t values (2)")
	after(a)
	must(t, errors.Join(a.Founded(), a.Stop(soon(t), false))) // which archives all of it
	r := Restoration{ID: "r1", From: 1, Timeline: 7, Size: 1, Make: func(ctx context.Context, into string, p Program) error {
		cmd := exec.CommandContext(ctx, "cp", "-a", copied+"/.", into)
		cmd.ExtraFiles = []*os.File{p.Lock}
		if err := cmd.Run(); err != nil {
			return err
		}
		auto := filepath.Join(into, "postgresql.auto.conf")
		return errors.Join(os.WriteFile(filepath.Join(into, "recovery.signal"), nil, 0o600), a.own(filepath.Join(into, "recovery.signal")),
			os.WriteFile(auto, []byte("restore_command = 'cp "+archive+"/%f %p'\n"+told), 0o600), a.own(auto))
	}}
	return a, r, copied
}

const toHere = "recovery_target_name = 'here'\nrecovery_target_action = 'promote'\nrecovery_target_timeline = '1'\n"

// newestRow starts the server, stops it again and returns the newest row.
func (m *member) newestRow() string {
	m.t.Helper()
	must(m.t, m.Start(soon(m.t), StartOptions{Primary: true}))
	m.up()
	m.outOfRecovery()
	row := m.sql("select max(n) from t")
	must(m.t, m.Stop(soon(m.t), false))
	return row
}

// TestRestore: a restore begins the timeline that was reserved, keeps the data from before
// until it is settled, and is undone by Discard.
func TestRestore(t *testing.T) {
	a, r := backedUp(t, toHere)
	kept := a.o.DataDir + ".pgsidecar-before-restore"
	must(t, a.Restore(soon(t), r))
	if f := a.inspect(); f.DataDir != ha.DataPresent || f.Restored != "r1" || f.Instructed == "" || !f.WasPrimary {
		t.Fatalf("restored: %+v", f)
	}
	if row := a.newestRow(); row != "1" {
		t.Errorf("restored: max(n) is %s", row)
	}
	if f := a.inspect(); f.End.TLI != 7 || f.Strayed != "" || f.Instructed != "" || f.Restored != "r1" || !f.Undoable {
		t.Errorf("recovered: %+v", f)
	}
	must(t, a.Discard(soon(t)))
	if f := a.inspect(); f.Restored != "" || f.DataDir != ha.DataPresent || f.Strayed != "" {
		t.Errorf("given up: %+v", f)
	}
	if row := a.newestRow(); row != "2" {
		t.Errorf("given up: max(n) is %s", row)
	}
	must(t, a.Discard(soon(t))) // there is nothing more to undo
	r.ID, r.Timeline = "r2", 8
	must(t, a.Restore(soon(t), r))
	must(t, a.Settle("another"))
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	must(t, a.Settle("r2"))
	if _, err := os.Stat(kept); !errors.Is(err, os.ErrNotExist) || a.inspect().Undoable || a.inspect().Restored != "r2" {
		t.Errorf("settled: %v, %+v", err, a.inspect().Files)
	}
	must(t, a.Discard(soon(t)))
	if row := a.newestRow(); row != "1" {
		t.Errorf("settled: max(n) is %s", row)
	}
	// Clients were let in, and nobody had the time to remove what was before.
	r.ID, r.Timeline = "r3", 9
	must(t, a.Restore(soon(t), r))
	if row := a.newestRow(); row != "1" {
		t.Errorf("restored again: max(n) is %s", row)
	}
	must(t, a.Start(soon(t), StartOptions{Primary: true, Hidden: true}))
	a.up()
	must(t, a.Unhide(soon(t)))
	a.sql("insert into t values (9)")
	must(t, a.Stop(soon(t), false))
	must(t, a.Discard(soon(t)))
	if row := a.newestRow(); row != "9" {
		t.Errorf("given up after clients have written: max(n) is %s", row)
	}
	must(t, a.Settle("r3"))
	if _, err := os.Stat(kept); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("settled after a restart: %v", err)
	}
}

// TestRestoreCutOff: whatever step a restore or its undoing is cut off at, the old data or
// the restored are whole, and it can be done again.
func TestRestoreCutOff(t *testing.T) {
	a, r := backedUp(t, toHere)
	cut := errors.New("cut off")
	at := func(step string) {
		a.stepped = func(name string) error { return map[bool]error{true: cut}[name == step] }
	}
	for _, step := range []string{"restore make", "restore swap", "clone between renames"} {
		at(step)
		if err := a.Restore(soon(t), r); !errors.Is(err, cut) {
			t.Fatalf("%s: %v", step, err)
		}
		a.stepped = nil
		if f := a.inspect(); f.DataDir != ha.DataHalfMade {
			t.Errorf("%s: %+v", step, f)
		}
		must(t, a.Discard(soon(t)))
		want := "2"
		if f := a.inspect(); f.DataDir != ha.DataPresent {
			t.Fatalf("%s: %+v", step, f)
		} else if f.Restored != "" {
			want = "1"
		}
		if row := a.newestRow(); row != want {
			t.Errorf("%s: max(n) is %s, not %s", step, row, want)
		}
		must(t, a.Discard(soon(t))) // of what was restored
		r.Timeline++
	}
	must(t, a.Restore(soon(t), r))
	at("clone between renames")
	if err := a.Discard(soon(t)); !errors.Is(err, cut) {
		t.Fatal(err)
	}
	a.stepped = nil
	must(t, a.Discard(soon(t)))
	if row := a.newestRow(); row != "2" || a.inspect().Restored != "" {
		t.Errorf("an undoing that was cut off: max(n) is %s", row)
	}
	failing := r
	failing.Make = func(context.Context, string, Program) error { return cut }
	if err := a.Restore(soon(t), failing); !errors.Is(err, cut) {
		t.Error(err)
	}
	must(t, a.Discard(soon(t)))
	failing.Size = 1 << 60
	if err := a.Restore(soon(t), failing); !errors.Is(err, ErrNoRoom) {
		t.Errorf("without room: %v", err)
	}
	if row := a.newestRow(); row != "2" {
		t.Errorf("after what failed: max(n) is %s", row)
	}
}

// TestCloneEndsRestore: a copy of another member's data is no restored data any more, so that
// nobody waits for word of that restore, or puts back what was there before it.
func TestCloneEndsRestore(t *testing.T) {
	a, r := backedUp(t, toHere)
	must(t, a.Restore(soon(t), r))
	if !a.inspect().Undoable {
		t.Fatal("nothing is to be undone")
	}
	b := newPrimary(t, "n2")
	must(t, a.Clone(soon(t), b.source(), nil))
	if f := a.inspect(); f.Restored != "" || f.Undoable || f.Copy == "" || f.DataDir != ha.DataPresent {
		t.Errorf("%+v", f.Files)
	}
	if _, err := os.Stat(a.o.DataDir + ".pgsidecar-before-restore"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was there before: %v", err)
	}
}
