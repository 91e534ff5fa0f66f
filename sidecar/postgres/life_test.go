package postgres

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// The whole life: made, cloned, crashed, another promoted on the timeline that
// was claimed, rewound, and streaming again, with what diverged kept aside.
func TestLife(t *testing.T) {
	a := newPrimary(t, "n1")
	if f := a.inspect(); f.DataDir != ha.DataPresent || !f.WasPrimary || f.SystemID == "" || !f.Shut {
		t.Fatalf("primary: %+v", f)
	}
	var steps int
	b := newMember(t, "n2")
	must(t, b.Clone(soon(t), a.source(), func(done, total int64) { steps++ }))
	if steps == 0 {
		t.Error("the clone showed no progress")
	}
	must(t, b.Start(soon(t), StartOptions{}))
	b.up()
	b.follow(a)
	a.sql("insert into t select generate_series(1, 1000)")
	b.caughtUp(a)

	at := b.fenced(1)
	// The log may end within a record: what is received comes by pages.
	whole := b.lsn("pg_last_wal_replay_lsn()")
	a.sql("insert into t select generate_series(1, 50000)") // nobody else has it
	lost := a.lsn("pg_current_wal_flush_lsn()")
	a.guard.crash()
	must(t, b.ReserveTimeline(at, 5))
	if tli := b.promote(); tli != 5 {
		t.Fatalf("promoted to timeline %d, claimed was 5", tli)
	}
	history, err := b.History(5)
	must(t, err)
	if len(history) != 1 || history[0].TLI != 1 || history[0].End < whole || history[0].End > at.LSN {
		t.Fatalf("history of 5 is %+v, the vote was %+v, and whole records ended at %s or later", history, at, whole)
	}
	b.sql("insert into t values (-1)")

	if f := a.inspect(); f.CleanStop || f.End.Known() || !f.WasPrimary {
		t.Fatalf("crashed primary: %+v", f)
	}
	leader := b.source()
	leader.Term = 5
	r, err := a.Rewind(soon(t), leader)
	must(t, err)
	if !r.Needed || r.Fork != history[0] || r.Kept.Segments == 0 || r.Kept.Partial {
		t.Fatalf("rewind: %+v", r)
	}
	if out, err := exec.Command(filepath.Join(a.o.BinDir, "pg_waldump"), "-p", r.Kept.Dir, "-t", "1", "-s", r.Fork.End.String(),
		"-e", lost.String(), "-q").CombinedOutput(); err != nil {
		t.Errorf("what was kept aside up to %s cannot be read: %v %s", lost, err, out)
	}
	if f := a.inspect(); f.WasPrimary || f.CleanStop || f.DataDir != ha.DataPresent || f.RewoundTerm != 5 {
		t.Fatalf("rewound: %+v", f)
	}
	must(t, a.Admit("n9")) // of an earlier life
	must(t, a.Start(soon(t), StartOptions{}))
	a.up()
	if !a.inspect().Shut || a.sql("show primary_conninfo") != "" || a.sql("show synchronous_standby_names") != frozen {
		t.Fatal("a standby was started that may receive or acknowledge")
	}
	a.follow(b)
	a.caughtUp(b)
	if got := a.sql("select count(*) from t") + " " + a.sql("select min(n) from t"); got != "1001 -1" {
		t.Fatalf("after the rewind the table has %s", got)
	}
	// The gap in the numbers is there on the rewound one and on a later clone.
	c := b.newStandby("n3")
	c.caughtUp(b)
	must(t, c.Stop(soon(t), false))
	must(t, c.Start(soon(t), StartOptions{}))
	c.up()
}

// The position of a server that was shut down is where its standby has received
// up to.
func TestCleanStopPosition(t *testing.T) {
	a := newPrimary(t, "n1", func(o *Options) { o.WAL.SegmentMB = 1 })
	b := a.newStandby("n2")
	// Several ends: at different places in a page.
	for i := range 3 {
		a.sql("insert into t select generate_series(1, " + strconv.Itoa(1+i*37) + ")")
		must(t, a.Stop(soon(t), false))
		f := a.inspect()
		if !f.CleanStop || f.End.TLI != 1 {
			t.Fatalf("stopped: %+v", f)
		}
		if got := b.lsn("pg_last_wal_receive_lsn()"); got != f.End.LSN {
			t.Errorf("pg_control says that the log ends at %s; the standby received up to %s", f.End.LSN, got)
		}
		must(t, a.Start(soon(t), StartOptions{Primary: true}))
		a.up()
		poll(t, "the standby to stream", func() bool {
			return b.sql("select count(*) from pg_stat_wal_receiver where status = 'streaming'") == "1"
		})
	}
	must(t, b.Stop(soon(t), false))
	if f := b.inspect(); f.CleanStop || f.End.Known() || f.WasPrimary {
		t.Fatalf("a standby claims a final position: %+v", f)
	}
}

func TestRecordEnd(t *testing.T) {
	c := control{block: 8192, segment: 16 << 20}
	for _, x := range []struct {
		at     ha.LSN
		length int64
		want   ha.LSN
	}{
		{0x3000028, 114, 0x30000A0},
		{0x3001FA0, 96, 0x3002000},         // fills the page
		{0x3001FC0, 114, 0x3002018 + 56},   // crosses into the next page
		{0x3FFFFC0, 114, 0x4000028 + 56},   // crosses into the next segment
		{0x3001FF8, 114, 0x3002018 + 0x70}, // nearly all of it in the next page
	} {
		if got := recordEnd(c, x.at, x.length); got != x.want {
			t.Errorf("a record of %d at %s ends at %s, want %s", x.length, x.at, got, x.want)
		}
	}
}

// A standby that has seen the history of a timeline which its log never came to
// must not be promoted before it has forgotten it.
func TestUnreachedTimeline(t *testing.T) {
	a := newPrimary(t, "n1")
	b, c := a.newStandby("n2"), a.newStandby("n3")
	b.caughtUp(a)
	c.caughtUp(a)
	low := c.fenced(1)
	a.sql("insert into t select generate_series(1, 1000)")
	b.caughtUp(a)
	high := b.fenced(1)
	a.guard.crash()
	if low.LSN >= high.LSN {
		t.Fatalf("n3 at %s, n2 at %s", low, high)
	}
	must(t, b.ReserveTimeline(high, 2))
	b.promote()
	history, err := os.ReadFile(b.data("pg_wal", historyName(2)))
	must(t, err)
	must(t, c.write(c.data("pg_wal", historyName(2)), history)) // fetched, and then n2 died
	b.guard.crash()
	poll(t, "n3 to see it", func() bool {
		log, _ := os.ReadFile(c.logFile())
		return strings.Contains(string(log), "new target timeline is 2")
	})
	if err := c.ReserveTimeline(low, 3); !errors.Is(err, ErrUnreached) {
		t.Fatalf("reserve: %v", err)
	}
	forked := []ha.Fork{{TLI: 1, End: low.LSN}}
	if err := c.CheckLine(low.TLI, ha.Position{History: forked, TLI: 3, LSN: high.LSN}); !errors.Is(err, ErrUnreached) {
		t.Fatalf("a leader that never was on timeline 2: %v", err)
	}
	must(t, c.CheckLine(low.TLI, ha.Position{History: forked, TLI: 2, LSN: high.LSN}))
	must(t, c.CheckLine(low.TLI, ha.Position{History: append(forked, ha.Fork{TLI: 2, End: high.LSN}), TLI: 4, LSN: high.LSN}))
	must(t, c.Stop(soon(t), false))
	must(t, c.Start(soon(t), StartOptions{Forget: low.TLI}))
	c.up()
	must(t, c.ReserveTimeline(low, 3))
	if tli := c.promote(); tli != 3 {
		t.Fatalf("promoted to %d", tli)
	}
	got, err := c.History(3)
	must(t, err)
	if len(got) != 1 || got[0] != (ha.Fork{TLI: 1, End: low.LSN}) {
		t.Fatalf("history of 3 is %+v; it left timeline 1 at %s", got, low.LSN)
	}
}

// Placeholders of a promotion that did not happen do not keep the server down.
func TestReserveAndCrash(t *testing.T) {
	a := newPrimary(t, "n1")
	b := a.newStandby("n2")
	b.caughtUp(a)
	at := b.fenced(1)
	must(t, b.ReserveTimeline(at, 4))
	must(t, b.ReserveTimeline(at, 4)) // asked again
	b.guard.crash()
	must(t, b.Start(soon(t), StartOptions{}))
	b.up()
	at = b.fenced(1)
	if err := b.ReserveTimeline(at, 1); !errors.Is(err, ErrTaken) {
		t.Fatalf("reserve the own timeline: %v", err)
	}
	must(t, b.ReserveTimeline(at, 6))
	if tli := b.promote(); tli != 6 {
		t.Fatalf("promoted to %d", tli)
	}
}

// kill -9 at each step of a clone over old data: the next start either has the
// old data or the whole copy.
func TestKilledClone(t *testing.T) {
	a := newPrimary(t, "n1")
	b := a.newStandby("n2")
	a.sql("create table big as select generate_series(1, 300000) as n")
	b.caughtUp(a)
	must(t, b.Stop(soon(t), false))
	for _, x := range []struct {
		step   string
		copied bool
	}{{"clone make", false}, {"running", false}, {"clone swap", true}, {"clone between renames", true}} {
		t.Run(x.step, func(t *testing.T) {
			mark := filepath.Join(b.o.DataDir, "old_data")
			must(t, os.WriteFile(mark, nil, 0o600))
			killed(t, b.o, x.step, "KILL_DO=clone", "KILL_SOURCE="+strconv.Itoa(a.Port()))
			f := b.inspect()
			if f.DataDir != ha.DataHalfMade || !strings.Contains(f.Problem, "clone from n1") {
				t.Fatalf("after the kill: %+v", f)
			}
			for name, err := range map[string]error{"start": b.Start(soon(t), StartOptions{}), "clone": b.Clone(soon(t), a.source(), nil)} {
				if !errors.Is(err, ErrUnfinished) {
					t.Fatalf("%s of a half-made directory: %v", name, err)
				}
			}
			must(t, b.Discard(soon(t)))
			must(t, b.Discard(soon(t)))
			if f := b.inspect(); f.DataDir != ha.DataPresent || f.WasPrimary {
				t.Fatalf("after Discard: %+v", f)
			}
			if _, err := os.Stat(mark); (err == nil) == x.copied {
				t.Fatalf("old data there: %v, copied: %v", err == nil, x.copied)
			}
			left, err := filepath.Glob(b.o.DataDir + ".*")
			must(t, err)
			if len(left) != 1 { // the state directory
				t.Fatalf("left behind: %v", left)
			}
			must(t, b.Start(soon(t), StartOptions{}))
			b.up()
			b.follow(a)
			must(t, b.Stop(soon(t), false))
		})
	}
	t.Run("into nothing", func(t *testing.T) {
		n := newMember(t, "n4")
		killed(t, n.o, "running", "KILL_DO=clone", "KILL_SOURCE="+strconv.Itoa(a.Port()))
		must(t, n.Discard(soon(t)))
		if f := n.inspect(); f.DataDir != ha.DataAbsent {
			t.Fatalf("after Discard: %+v", f)
		}
		must(t, n.Clone(soon(t), a.source(), nil))
	})
}

// A clone leaves alone what a person has put beside the data directory.
func TestCloneLeavesNeighbours(t *testing.T) {
	a := newPrimary(t, "n1")
	b := a.newStandby("n2")
	must(t, b.Stop(soon(t), false))
	var kept []string
	for _, name := range []string{".old", ".clone", ".bak"} {
		must(t, os.Mkdir(b.o.DataDir+name, 0o700))
		kept = append(kept, filepath.Join(b.o.DataDir+name, "mine"))
		must(t, os.WriteFile(kept[len(kept)-1], nil, 0o600))
	}
	must(t, os.WriteFile(b.data("old_data"), nil, 0o600))
	must(t, b.Clone(soon(t), a.source(), nil))
	if _, err := os.Stat(b.data("old_data")); err == nil {
		t.Fatal("not cloned")
	}
	for _, name := range kept {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
}

// A promotion removes standby.signal before the new timeline stands. A server that was
// killed in between is a standby still: as a primary it would go on on the old timeline,
// where the primary before it has written something else.
func TestPromotionCutOff(t *testing.T) {
	a := newPrimary(t, "n1")
	b := a.newStandby("n2")
	b.caughtUp(a)
	at := b.fenced(1)
	must(t, b.ReserveTimeline(at, 2))
	b.guard.crash()
	must(t, os.Remove(b.data("standby.signal")))
	if f := b.inspect(); f.WasPrimary || f.CleanStop {
		t.Fatalf("cut off: %+v", f)
	}
	must(t, b.Start(soon(t), StartOptions{}))
	b.up()
	must(t, b.ReserveTimeline(b.fenced(1), 2))
	if tli := b.promote(); tli != 2 {
		t.Fatalf("promoted to %d", tli)
	}
	b.guard.crash()
	if f := b.inspect(); !f.WasPrimary {
		t.Fatalf("promoted, and crashed: %+v", f)
	}
}

// A disk that fills up during a clone: a clear error, a marker, and a repair.
func TestCloneDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	a := newPrimary(t, "n1")
	a.sql("create table big as select generate_series(1, 100000) as n")
	dir := filepath.Join(testDir(t), "small")
	must(t, os.Mkdir(dir, 0o755))
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"))
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	b := newMember(t, "n2", func(o *Options) { o.DataDir = filepath.Join(dir, "data") })
	err := b.Clone(soon(t), a.source(), nil)
	if !errors.Is(err, ErrDiskFull) {
		t.Fatalf("clone to a full disk: %v", err)
	}
	t.Log(err)
	if f := b.inspect(); f.DataDir != ha.DataHalfMade {
		t.Fatalf("%+v", f)
	}
	must(t, b.Discard(soon(t)))
	if f := b.inspect(); f.DataDir != ha.DataAbsent {
		t.Fatalf("%+v", f)
	}
	// pg_basebackup's process for the log has files open for a moment longer than it.
	poll(t, "the room that the copy took", func() bool { return b.inspect().FreeBytes >= 20<<20 })
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=400m"))
	must(t, b.Clone(soon(t), a.source(), nil))
}

func TestWrongPassword(t *testing.T) {
	a := newPrimary(t, "n1")
	b := newMember(t, "n2", func(o *Options) { o.ReplicationPassword = secret("not the one") })
	err := b.Clone(soon(t), a.source(), nil)
	if !errors.Is(err, ErrPassword) || strings.Contains(err.Error(), "not the one") {
		t.Fatalf("clone: %v", err)
	}
	must(t, b.Discard(soon(t)))
	ctx, cancel := context.WithCancel(soon(t))
	cancel()
	if err := b.Clone(ctx, a.source(), nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled clone: %v", err)
	}
}

func TestHiddenServer(t *testing.T) {
	a := newPrimary(t, "n1", func(o *Options) { o.HBA = []string{"host all all 127.0.0.1/32 trust"} })
	a.sql("create role app login")
	app := func() error {
		return exec.Command(filepath.Join(a.o.BinDir, "psql"), "-h", "127.0.0.1", "-p", strconv.Itoa(a.Port()), "-U", "app",
			"-d", "postgres", "-c", "select 1").Run()
	}
	must(t, app())
	must(t, a.Stop(soon(t), false))
	must(t, a.Start(soon(t), StartOptions{Primary: true, Hidden: true}))
	a.up()
	if err := app(); err == nil || !a.inspect().Hidden {
		t.Fatal("a hidden server let a client in")
	}
	b := newMember(t, "n2")
	must(t, b.Clone(soon(t), a.source(), nil)) // replication is let in
	must(t, a.Unhide(soon(t)))
	poll(t, "clients to be let in", func() bool { return app() == nil })
}

func TestReload(t *testing.T) {
	a := newPrimary(t, "n1")
	set := Settings{Parameters: map[string]string{"work_mem": "77MB"}}
	must(t, a.Reload(soon(t), set))
	poll(t, "the setting", func() bool { return a.sql("show work_mem") == "77MB" })
	for _, bad := range []struct {
		name, value string
		want        error
	}{{"fsync", "off", ErrOwned}, {"Primary_ConnInfo", "", ErrOwned}, {"recovery_target_time", "x", ErrOwned}, {"wal_level", "minimal", ErrSetting},
		{"work_mem", "a lot", ErrSetting}, {"no such", "1", ErrSetting}, {"nosuch", "1", ErrSetting}} {
		err := a.Reload(soon(t), Settings{Parameters: map[string]string{bad.name: bad.value}})
		if !errors.Is(err, bad.want) || !strings.Contains(err.Error(), bad.name) {
			t.Errorf("%s = %q: %v", bad.name, bad.value, err)
		}
	}
	if err := a.Try(soon(t), Settings{Parameters: map[string]string{"nosuch": "1"}}); !errors.Is(err, ErrSetting) ||
		!strings.Contains(err.Error(), `unrecognized configuration parameter "nosuch"`) || strings.Contains(err.Error(), "postgresql.conf") {
		t.Errorf("tried: %v", err)
	}
	must(t, a.Try(soon(t), Settings{Parameters: map[string]string{"work_mem": "88MB"}}))
	// Less than the primary had, a standby must not have.
	for _, want := range []struct{ asked, got string }{{"20", "100"}, {"120", "120"}} {
		set, err := a.forStandby(soon(t), Settings{Parameters: map[string]string{"Max_Connections": want.asked, "work_mem": "1MB"}})
		if must(t, err); set.Parameters["Max_Connections"] != want.got || set.Parameters["work_mem"] != "1MB" {
			t.Errorf("of %s became %v", want.asked, set.Parameters)
		}
	}
	if again, err := a.Outgrown(soon(t)); err != nil || again {
		t.Errorf("nothing is raised, and it is outgrown: %t, %v", again, err)
	}
	a.setRaised(map[string]string{"max_connections": "500"}) // as a standby's whose primary had so many; it is a primary itself
	if again, err := a.Outgrown(soon(t)); err != nil || !again {
		t.Errorf("a primary with a standby's settings: %t, %v", again, err)
	}
	timer := time.NewTimer(50 * time.Millisecond)
	<-timer.C
	if got := a.sql("show work_mem"); got != "77MB" {
		t.Errorf("a bad reload changed work_mem to %s", got)
	}
}
