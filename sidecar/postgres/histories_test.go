package postgres

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestFillHistories: a member that was away across promotions follows a primary that has
// the log for it, and not the history files: a clone has only its own timeline's.
func TestFillHistories(t *testing.T) {
	a := newPrimary(t, "n1")
	b, c, away := a.newStandby("n2"), a.newStandby("n3"), a.newStandby("n4")
	for _, m := range []*member{b, c, away} {
		m.caughtUp(a)
	}
	must(t, away.Stop(soon(t), false))
	next := func(from, to *member, own, tli ha.TLI) {
		at := to.fenced(own)
		from.guard.crash()
		must(t, to.ReserveTimeline(at, tli))
		if got := to.promote(); got != tli {
			t.Fatalf("promoted to timeline %d", got)
		}
		to.sql("insert into t values (1)")
	}
	next(a, b, 1, 2)
	c.follow(b)
	c.caughtUp(b)
	next(b, c, 2, 40) // nobody has used those between
	for _, tli := range []ha.TLI{3, 17, 39} {
		if kind, err := c.historyOf(tli); err != nil || kind != historyHeld {
			t.Errorf("timeline %d, which nobody has used: %v, %v", tli, kind, err)
		}
	}
	for _, tli := range []ha.TLI{2, 3} {
		must(t, os.Remove(c.data("pg_wal", historyName(tli))))
	}
	must(t, c.FillHistories(40))
	history, err := c.History(2)
	must(t, err)
	if len(history) != 1 || history[0].TLI != 1 {
		t.Errorf("timeline 2 began as %v", history)
	}
	if kind, err := c.historyOf(3); err != nil || kind != historyHeld {
		t.Errorf("timeline 3, which nobody has used: %v, %v", kind, err)
	}
	must(t, away.Start(soon(t), StartOptions{}))
	away.up()
	forks, err := c.History(40)
	must(t, err)
	must(t, away.HoldStrangers(1, ha.Position{History: forks, TLI: 40, LSN: 1}))
	for tli, want := range map[ha.TLI]historyKind{2: historyNone, 3: historyHeld, 39: historyHeld, 40: historyNone} {
		if kind, err := away.historyOf(tli); err != nil || kind != want {
			t.Errorf("timeline %d at the one that was away: %v, %v", tli, kind, err)
		}
	}
	away.follow(c)
	away.caughtUp(c)
}

// TestAncestry: an ancestor's history is what was before it.
func TestAncestry(t *testing.T) {
	forks := []ha.Fork{{TLI: 1, End: 0x10}, {TLI: 3, End: 0x20}, {TLI: 4, End: 0x30}}
	for tli, want := range map[ha.TLI]int{3: 1, 4: 2} {
		read, err := parseHistory(ancestry(forks, tli))
		if err != nil || len(read) != want || read[want-1] != forks[want-1] {
			t.Errorf("timeline %d: %v, %v", tli, read, err)
		}
	}
	if got := string(ancestry(forks, 2)); !strings.HasPrefix(got, placeholder) {
		t.Errorf("timeline 2: %q", got)
	}
}

// TestStraightHistory: the history that PostgreSQL writes after a recovery which ended
// before a fork of its line is written anew, once, on the primary.
func TestStraightHistory(t *testing.T) {
	dir := t.TempDir()
	s := &Server{o: Options{DataDir: dir}, log: hclog.NewNullLogger()}
	must(t, os.Mkdir(s.data("pg_wal"), 0o700))
	write := func(tli ha.TLI, text string) {
		must(t, os.WriteFile(s.data("pg_wal", historyName(tli)), []byte(text), 0o600))
	}
	write(2, "1\t0/9000000\tno recovery target specified\n")
	write(3, "1\t0/9000000\tno recovery target specified\n2\t0/A000000\tno recovery target specified\n")
	write(4, "1\t0/9000000\tno recovery target specified\n2\t0/A000000\tno recovery target specified\n3\t0/8000000\tbefore 2026-03-01 00:00:00+00\n")
	for range 2 {
		must(t, s.FillHistories(4))
		content, err := os.ReadFile(s.data("pg_wal", historyName(4)))
		must(t, err)
		told, err := toldHistory(content)
		if want := []ha.Fork{{TLI: 1, End: 0x8000000}}; err != nil || !slices.Equal(told, want) {
			t.Errorf("written: %q (%v)", content, err)
		}
	}
	before, err := os.ReadFile(s.data("pg_wal", historyName(3)))
	must(t, err)
	must(t, s.FillHistories(3))
	if after, err := os.ReadFile(s.data("pg_wal", historyName(3))); err != nil || string(after) != string(before) {
		t.Errorf("a history that is straight was changed: %q, %v", after, err)
	}
}
