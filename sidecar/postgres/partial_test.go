package postgres

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgsidecar/pgsidecar/sidecar/ha"
)

// TestTwoCrashesInOneSegment: a member that was away while two primaries crashed
// within one segment of WAL, which is archived, streams from the third; and the
// archive is not given that segment twice.
func TestTwoCrashesInOneSegment(t *testing.T) {
	archive := testDir(t)
	must(t, os.Chmod(archive, 0o777))
	archiving := func(o *Options) {
		o.Parameters = map[string]string{"archive_mode": "on", "archive_command": "test ! -e " + archive + "/%f && touch " + archive + "/%f"}
	}
	a := newPrimary(t, "n1", archiving)
	b, c, d := a.newStandby("n2", archiving), a.newStandby("n3", archiving), a.newStandby("n4", archiving)
	a.sql("insert into t values (1)") // the segment that all of this happens in
	for _, m := range []*member{b, c, d} {
		m.caughtUp(a)
	}
	must(t, d.Stop(soon(t), false))
	a.sql("insert into t values (1)") // d lacks some of the first timeline
	b.caughtUp(a)
	c.caughtUp(a)
	next := func(from, to *member, own ha.TLI) {
		at := to.fenced(own)
		from.guard.crash()
		must(t, to.ReserveTimeline(at, own+1))
		if tli := to.promote(); tli != own+1 {
			t.Fatalf("promoted to timeline %d", tli)
		}
		to.sql("insert into t values (1)")
	}
	next(a, b, 1)
	must(t, c.Shut())
	c.follow(b)
	c.caughtUp(b)
	next(b, c, 2)
	names := func(dir string) string {
		entries, err := os.ReadDir(dir)
		must(t, err)
		var all strings.Builder
		for _, e := range entries {
			all.WriteString(e.Name() + "\n")
		}
		return all.String()
	}
	before := names(c.data("pg_wal"))
	partial, _, found := strings.Cut(before, partialSuffix)
	if !found {
		t.Fatalf("PostgreSQL has renamed nothing:\n%s", before)
	}
	name := partial[len(partial)-24:]
	must(t, c.RestorePartial())
	if after := names(c.data("pg_wal")); !strings.Contains(after, name+"\n") {
		t.Fatalf("%s is not there:\n%s", name, after)
	}
	must(t, d.Start(soon(t), StartOptions{}))
	d.up()
	d.follow(c)
	d.caughtUp(c)
	// What was archived is the partial one.
	c.sql("select pg_switch_wal()")
	c.sql("checkpoint")
	poll(t, "the archive", func() bool { return strings.Contains(names(archive), name+partialSuffix+"\n") })
	if strings.Contains(names(archive), name+"\n") {
		t.Errorf("%s was archived:\n%s", name, names(archive))
	}
	must(t, os.Remove(c.data("pg_wal", name)))
	for _, other := range strings.Fields(names(c.data("pg_wal"))) {
		if len(other) == 24 && other[8:] == name[8:] {
			must(t, os.Rename(c.data("pg_wal", other), filepath.Join(archive, "aside")))
		}
	}
	must(t, c.RestorePartial())
	if after := names(c.data("pg_wal")); strings.Contains(after, name+"\n") {
		t.Errorf("%s is back although that log is gone", name)
	}
}
