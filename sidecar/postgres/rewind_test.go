package postgres

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// replaced returns a primary that crashed with rows of its own, and the one that was promoted
// in its place.
func replaced(t *testing.T) (old, promoted *member) {
	old = newPrimary(t, "n1")
	promoted = old.newStandby("n2")
	promoted.caughtUp(old)
	at := promoted.fenced(1)
	old.sql("insert into t select generate_series(1, 1000)")
	old.guard.crash()
	must(t, promoted.ReserveTimeline(at, 2))
	promoted.promote()
	return old, promoted
}

// kill -9 at each step of a rewind of a crashed primary.
func TestKilledRewind(t *testing.T) {
	a, b := replaced(t)
	pristine := filepath.Join(a.base, "pristine")
	if out, err := exec.Command("cp", "-a", a.o.DataDir, pristine).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for _, x := range []struct {
		step string
		want ha.DataDir
	}{{"rewind prepare", ha.DataPresent}, {"rewind recovered", ha.DataPresent}, {"rewind make", ha.DataAbsent}, {"rewind done", ha.DataAbsent}} {
		t.Run(x.step, func(t *testing.T) {
			must(t, os.RemoveAll(a.o.DataDir))
			if out, err := exec.Command("cp", "-a", pristine, a.o.DataDir).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			killed(t, a.o, x.step, "KILL_DO=rewind", "KILL_SOURCE="+strconv.Itoa(b.Port()))
			if f := a.inspect(); f.DataDir != ha.DataHalfMade || f.CleanStop {
				t.Fatalf("after the kill: %+v", f)
			}
			must(t, a.Discard(soon(t)))
			if f := a.inspect(); f.DataDir != x.want || f.Rewound != "" {
				t.Fatalf("after Discard: %+v", f)
			}
			if x.want == ha.DataPresent {
				r, err := a.Rewind(soon(t), b.source())
				must(t, err)
				if !r.Needed {
					t.Fatal("no rewind needed")
				}
			} else {
				must(t, a.Clone(soon(t), b.source(), nil))
			}
			must(t, a.Start(soon(t), StartOptions{}))
			a.up()
			must(t, a.Consistent())
			a.follow(b)
			must(t, a.Stop(soon(t), false))
		})
	}
	entries, err := os.ReadDir(a.state("diverged"))
	must(t, err)
	if n := len(entries); n == 0 || n > a.o.KeepDiverged.Count {
		t.Errorf("%d times kept aside", n)
	}
}

// A standby that is ahead of the new leader, after a crash too, comes back.
func TestRewindStandby(t *testing.T) {
	a := newPrimary(t, "n1")
	b, c := a.newStandby("n2"), a.newStandby("n3")
	b.caughtUp(a)
	at := b.fenced(1)
	a.sql("insert into t select generate_series(1, 1000)")
	c.caughtUp(a)
	c.fenced(1)
	a.guard.crash()
	c.guard.crash()
	must(t, b.ReserveTimeline(at, 2))
	b.promote()
	if _, err := c.Rewind(soon(t), Source{Member: "n2", Host: "127.0.0.1", Port: 1}); !errors.Is(err, ErrUnreachable) {
		t.Fatalf("rewind from nobody: %v", err)
	}
	if f := c.inspect(); f.DataDir != ha.DataPresent || f.WasPrimary || f.CleanStop {
		t.Fatalf("after a rewind that could not begin: %+v", f)
	}
	shown, err := c.program(soon(t), "psql", []string{"-d", c.conninfo(b.source(), "postgres") + patientSender, "-XAtc", "show wal_sender_timeout"}, runOptions{})
	if must(t, err); shown != "10min\n" {
		t.Errorf("the source of a copy gives up a silent one after %q", shown)
	}
	fromStalled(t, c, b.source())
	if f := c.inspect(); f.DataDir != ha.DataPresent {
		t.Fatalf("after a rewind that stood still: %+v", f)
	}
	r, err := c.Rewind(soon(t), b.source())
	must(t, err)
	if !r.Needed || r.Kept.Segments == 0 {
		t.Fatalf("%+v", r)
	}
	must(t, c.Start(soon(t), StartOptions{}))
	c.up()
	c.follow(b)
}

// TestRewindLinks: log and a configuration file that are links to another disk, as
// an operator has put them there, end no rewind, and are links again after it: also
// if it is killed at any step.
func TestRewindLinks(t *testing.T) {
	a, b := replaced(t)
	must(t, errors.Join(os.MkdirAll(b.data("log"), 0o700), os.WriteFile(b.data("log", "theirs"), nil, 0o600)))
	must(t, errors.Join(b.own(b.data("log")), b.own(b.data("log", "theirs"))))
	disk := filepath.Join(a.base, "disk")
	must(t, errors.Join(os.MkdirAll(filepath.Join(disk, "log"), 0o700), os.Rename(a.data("postgresql.conf"), filepath.Join(disk, "postgresql.conf"))))
	must(t, os.WriteFile(filepath.Join(disk, "log", "mine"), nil, 0o600))
	for _, name := range []string{"log", "postgresql.conf"} {
		must(t, errors.Join(os.RemoveAll(a.data(name)), os.Symlink(filepath.Join(disk, name), a.data(name)), a.own(a.data(name))))
	}
	must(t, exec.Command("chown", "-R", "--reference="+a.o.DataDir, disk).Run())
	linked := func(when string) {
		t.Helper()
		for _, name := range []string{"log", "postgresql.conf"} {
			if to, err := os.Readlink(a.data(name)); err != nil || to != filepath.Join(disk, name) {
				t.Errorf("%s: %s leads to %q, %v", when, name, to, err)
			}
		}
		if _, err := os.Stat(filepath.Join(disk, "log", "mine")); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(disk, "log", "theirs")); err == nil {
			t.Error("the source's log was copied into this member's")
		}
	}
	for _, step := range []string{"rewind prepare", "rewind links"} {
		killed(t, a.o, step, "KILL_DO=rewind", "KILL_SOURCE="+strconv.Itoa(b.Port()))
		if f := a.inspect(); f.DataDir != ha.DataHalfMade {
			t.Fatalf("killed at %q: %+v", step, f)
		}
		must(t, a.Discard(soon(t)))
		linked("killed at " + step)
	}
	if _, err := a.Rewind(soon(t), Source{Member: "n2", Host: "127.0.0.1", Port: 1}); !errors.Is(err, ErrUnreachable) {
		t.Fatalf("rewind from nobody: %v", err)
	}
	linked("after a rewind that could not begin")
	r, err := a.Rewind(soon(t), b.source())
	must(t, err)
	if !r.Needed {
		t.Fatal("no rewind needed")
	}
	linked("after the rewind")
	must(t, a.Start(soon(t), StartOptions{}))
	a.up()
	must(t, a.Consistent())
	a.follow(b)
	linked("started")
	must(t, a.Stop(soon(t), false))
	killed(t, a.o, "rewind done", "KILL_DO=rewind", "KILL_SOURCE="+strconv.Itoa(b.Port()))
	must(t, a.Discard(soon(t))) // the data are removed, and the next copy has the links
	must(t, a.Clone(soon(t), b.source(), nil))
	linked("killed at its end, and cloned")
}
