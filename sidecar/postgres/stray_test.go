package postgres

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// byHand runs the server as a person does, beside the member; the returned function
// ends it.
func (m *member) byHand(args ...string) (end func(sig syscall.Signal)) {
	m.t.Helper()
	log, err := os.OpenFile(filepath.Join(m.base, "byhand.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(m.t, err)
	defer log.Close()
	cmd := exec.Command(filepath.Join(m.o.BinDir, "postgres"), append([]string{"-D", m.o.DataDir, "-c", "config_file=" + m.state("postgresql.conf")}, args...)...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = []string{"LC_ALL=C.UTF-8"}, m.o.DataDir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: m.uid, Gid: m.gid}
	}
	must(m.t, cmd.Start())
	m.t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() })
	return func(sig syscall.Signal) {
		if sig == syscall.SIGKILL {
			_ = syscall.Kill(-cmd.Process.Pid, sig)
		}
		_ = cmd.Process.Signal(sig)
		_ = cmd.Wait()
	}
}

func (m *member) outOfRecovery() {
	m.t.Helper()
	poll(m.t, "the server to leave recovery", func() bool {
		out, err := m.psql("select pg_is_in_recovery()")
		return err == nil && out == "f"
	})
}

// TestStrayed: a replica that somebody made a primary, in whatever way and however it
// ended, is found when it comes back, also where nothing was written and the
// timeline's number is the same; and stays so until it is cloned.
func TestStrayed(t *testing.T) {
	a := newPrimary(t, "n1")
	for name, stray := range map[string]func(b *member){
		"promoted by hand": func(b *member) {
			b.sql("select pg_promote()")
			must(t, b.Stop(soon(t), false))
		},
		"promoted by hand, crashed": func(b *member) {
			b.sql("select pg_promote()")
			b.guard.crash()
		},
		"started without standby.signal": func(b *member) {
			must(t, b.Stop(soon(t), false))
			must(t, os.Remove(b.data("standby.signal")))
			end := b.byHand()
			b.outOfRecovery()
			end(syscall.SIGINT)
		},
		"started without standby.signal, crashed": func(b *member) {
			must(t, b.Stop(soon(t), false))
			must(t, os.Remove(b.data("standby.signal")))
			end := b.byHand()
			b.outOfRecovery()
			end(syscall.SIGKILL)
			must(t, os.Remove(b.data("postmaster.pid")))
		},
		"the signal file put back": func(b *member) {
			must(t, b.Stop(soon(t), false))
			must(t, os.Remove(b.data("standby.signal")))
			end := b.byHand()
			b.outOfRecovery()
			end(syscall.SIGINT)
			must(t, b.write(b.data("standby.signal"), nil))
		},
		"single-user mode": func(b *member) {
			must(t, b.Stop(soon(t), false))
			must(t, os.Remove(b.data("standby.signal")))
			_, err := b.program(soon(t), "postgres", []string{"--single", "-D", b.o.DataDir, "-c", "config_file=" + b.state("postgresql.conf"), "template1"},
				runOptions{dir: b.o.DataDir})
			must(t, err)
		},
		"recovery.signal": func(b *member) {
			must(t, b.Stop(soon(t), false))
			must(t, os.Rename(b.data("standby.signal"), b.data("recovery.signal")))
			end := b.byHand("-c", "restore_command=false")
			b.outOfRecovery()
			end(syscall.SIGINT)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := a.newStandby("n2")
			b.t = t
			b.caughtUp(a)
			stray(b)
			f := b.inspect()
			if f.Strayed == "" || f.WasPrimary || f.CleanStop || f.DataDir != ha.DataPresent {
				t.Fatalf("%+v", f)
			}
			t.Log(f.Strayed)
			must(t, b.Start(soon(t), StartOptions{})) // as a member that does not know better
			b.up()
			must(t, b.Stop(soon(t), false))
			if b.inspect().Strayed == "" {
				t.Error("a start as a standby made it forget")
			}
			if _, err := b.Rewind(soon(t), a.source()); !errors.Is(err, ErrNoCommonPast) {
				t.Errorf("rewind: %v", err)
			}
			must(t, b.Clone(soon(t), a.source(), nil))
			if f := b.inspect(); f.Strayed != "" {
				t.Errorf("after a clone: %s", f.Strayed)
			}
			if kept, _ := os.ReadDir(b.state("diverged")); len(kept) == 0 {
				t.Error("nothing was kept aside")
			}
		})
	}
}

// TestNotStrayed: what this member does itself, and every way in which a replica or a
// primary of its own ends, is nobody's hand.
func TestNotStrayed(t *testing.T) {
	a := newPrimary(t, "n1")
	b := a.newStandby("n2")
	sane := func(m *member, when string) {
		t.Helper()
		if f := m.inspect(); f.Strayed != "" {
			t.Fatalf("%s: %s", when, f.Strayed)
		}
	}
	b.caughtUp(a)
	sane(b, "a running standby")
	must(t, b.Stop(soon(t), false))
	sane(b, "a standby that was stopped")
	must(t, b.Start(soon(t), StartOptions{}))
	b.up()
	b.guard.crash()
	sane(b, "a standby that crashed")
	must(t, b.Start(soon(t), StartOptions{}))
	b.guard.crash() // before it read anything
	sane(b, "a standby that crashed at its start")
	must(t, b.Clone(soon(t), a.source(), nil))
	sane(b, "a clone")
	must(t, b.Start(soon(t), StartOptions{}))
	b.guard.crash()
	sane(b, "a clone that crashed at its start")
	must(t, b.Start(soon(t), StartOptions{}))
	b.up()
	b.follow(a)
	b.caughtUp(a)

	at := b.fenced(1)
	must(t, b.ReserveTimeline(at, 3))
	sane(b, "about to be promoted")
	b.promote()
	b.sql("insert into t values (1)")
	sane(b, "promoted")
	b.guard.crash()
	sane(b, "promoted, and crashed")
	must(t, b.Start(soon(t), StartOptions{Primary: true}))
	b.up()
	must(t, b.Stop(soon(t), false))
	if f := b.inspect(); f.Strayed != "" || !f.CleanStop {
		t.Fatalf("a primary that was stopped: %+v", f)
	}
	must(t, b.Promise(2, "", false)) // another leads by now
	sane(b, "after another's election")
	must(t, b.Start(soon(t), StartOptions{}))
	b.guard.crash() // pg_control may still say what the primary's end was
	sane(b, "a former primary that crashed at its start as a standby")
	must(t, b.Start(soon(t), StartOptions{}))
	b.up()
	must(t, b.Stop(soon(t), false))
	sane(b, "a former primary that was a standby")
}

// TestStrayedPrimary: a primary that was stopped, and is run by hand after another
// member's election, has strayed; while it is the newest leader it knows, it has not.
func TestStrayedPrimary(t *testing.T) {
	a := newPrimary(t, "n1")
	must(t, a.Stop(soon(t), false))
	before := a.inspect()
	if !before.CleanStop {
		t.Fatalf("%+v", before)
	}
	byHand := func() {
		end := a.byHand()
		a.outOfRecovery()
		a.sql("insert into t values (1); checkpoint")
		end(syscall.SIGINT)
	}
	byHand()
	if f := a.inspect(); f.Strayed != "" || !f.CleanStop || f.End.LSN <= before.End.LSN {
		t.Fatalf("the leader of the newest term, served by hand: %+v", f)
	}
	must(t, a.Promise(2, "", false))
	byHand()
	if f := a.inspect(); f.Strayed == "" || f.CleanStop {
		t.Fatalf("served by hand after another's election: %+v", f)
	}
}

// TestLifeIsVoid: what a release did that keeps no such account is not held against
// the server when this one comes back.
func TestLifeIsVoid(t *testing.T) {
	a := newPrimary(t, "n1")
	b := a.newStandby("n2")
	b.caughtUp(a)
	conf, err := os.ReadFile(b.state("postgresql.conf"))
	must(t, err)
	must(t, b.write(b.state("postgresql.conf"), []byte(strings.Replace(string(conf), lifeLine, "", 1)))) // as the other writes it
	b.sql("select pg_promote()")
	must(t, b.Reload(soon(t), b.current())) // this release is back beside the running server
	if f := b.inspect(); f.Strayed != "" {
		t.Fatal(f.Strayed)
	}
	must(t, b.Stop(soon(t), false))
	if f := b.inspect(); f.Strayed != "" || !f.CleanStop {
		t.Fatalf("%+v", f)
	}
}

// TestStrayServer: beside a server that somebody else started on the data directory
// nothing is started or changed, and Stop ends it.
func TestStrayServer(t *testing.T) {
	a := newPrimary(t, "n1")
	must(t, a.Stop(soon(t), false))
	for _, immediate := range []bool{false, true} {
		a.byHand()
		a.outOfRecovery()
		for what, err := range map[string]error{
			"start":  a.Start(soon(t), StartOptions{}),
			"clone":  a.Clone(soon(t), a.source(), nil),
			"rewind": func() error { _, err := a.Rewind(soon(t), a.source()); return err }(),
		} {
			if !errors.Is(err, ErrStray) {
				t.Errorf("%s: %v", what, err)
			}
		}
		a.sql("select 1") // it was not harmed
		must(t, a.Stop(soon(t), immediate))
		if out, err := a.psql("select 1"); err == nil {
			t.Fatalf("after Stop it answers %s", out)
		}
	}
	if ran, err := HasRun(a.o.StateDir); !ran || err != nil {
		a.inspect() // it is seen at the next look
		if ran, err = HasRun(a.o.StateDir); !ran || err != nil {
			t.Errorf("the member has run its server: %v, %v", ran, err)
		}
	}
}

// TestCopy: each clone has a name of its own, and what the copy of another member owes
// stays written down, through a crash in the middle too, until it is paid.
func TestCopy(t *testing.T) {
	a := newPrimary(t, "n1")
	if a.inspect().Copy == "" {
		t.Error("a new server has no name")
	}
	b := newMember(t, "n2")
	must(t, b.Clone(soon(t), a.source(), nil))
	first := b.inspect()
	if first.Copy == "" || first.Copy == a.inspect().Copy || first.Owed.Known() {
		t.Fatalf("%+v", first)
	}
	owed := ha.Position{History: []ha.Fork{{TLI: 1, End: 5}}, TLI: 2, LSN: 7}
	from := a.source()
	from.Owed = owed
	b.stepped = func(at string) error {
		if at == "clone between renames" {
			return errors.New("crashed here")
		}
		return nil
	}
	if err := b.Clone(soon(t), from, nil); err == nil {
		t.Fatal("the step was not taken")
	}
	b.stepped = nil
	must(t, b.Discard(soon(t)))
	if f := b.inspect(); f.Copy == first.Copy || !f.Owed.Known() || f.Owed.Compare(owed) != 0 {
		t.Fatalf("%+v", f)
	}
	must(t, b.Paid())
	if f := b.inspect(); f.Owed.Known() {
		t.Fatalf("%+v", f)
	}
}
