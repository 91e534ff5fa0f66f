package main

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
	"github.com/pgsidecar/pgsidecar/sidecar/ha"
	"github.com/pgsidecar/pgsidecar/sidecar/lab"
)

// whole waits until a member leads and two replicas stream from it.
func (s *saved) whole(what string, term uint64) *api.Status {
	s.t.Helper()
	return s.awaitFor(5*time.Minute, what, func(st *api.Status) bool { // replicas may be made anew before
		streaming := 0
		for _, m := range st.Members {
			if m.Member != st.Leader && m.Streaming && m.Term == st.Term {
				streaming++
			}
		}
		return st.Primary && st.Term >= term && streaming == 2 && st.Archive != nil && st.Archive.Leads && len(st.Durability.Voters) == 2
	})
}

// replaced lists what a restore leaves beside the data directories.
func (s *saved) replaced() []string {
	s.t.Helper()
	var all []string
	for _, h := range s.Plan().Members() {
		found, err := filepath.Glob(h.DataDir() + ".pgsidecar-*")
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// TestRestoreInPlace: a dropped table comes back by a restore to the moment before; one
// that cannot succeed is given up, and the cluster has its data from before.
func TestRestoreInPlace(t *testing.T) {
	s := newSaved(t)
	st := s.whole("a cluster", 1)
	conn := s.connect(st.Member)
	s.sql(conn, "create table t(n int, at timestamptz default clock_timestamp())", "insert into t select generate_series(1, 1000)")
	s.command("backup", "run")
	s.sql(conn, "insert into t select generate_series(1001, 2000)")
	before := ask[time.Time](s, conn, "select clock_timestamp()")
	s.sql(conn, "select pg_sleep(0.01)", "drop table t", "create table after(n int)")
	s.sql(conn, "select pg_create_restore_point('after')")

	// What cannot be restored is refused before anything stops.
	s.sql(conn, "set allow_in_place_tablespaces = on", "create tablespace elsewhere location ''")
	for _, c := range []struct{ what, says string }{
		{"--to-time=" + before.UTC().Format(time.RFC3339Nano), "has tablespaces"},
		{"--to-time=2020-01-01 00:00:00Z", "what can be restored"},
		{"--to-time=2120-01-01 00:00:00Z", "in the future"},
		{"--to-lsn=F0/0", "what can be restored"},
	} {
		if code, _, stderr := s.run("restore", c.what, "--yes"); code != 1 || !strings.Contains(stderr, c.says) || strings.Count(strings.TrimSpace(stderr), "\n") > 0 {
			t.Errorf("%s: %d, %s; want %q in one line", c.what, code, stderr, c.says)
		}
	}
	if now := s.status(); now == nil || now.Term != st.Term || now.Restore != nil {
		t.Errorf("after what was refused: %+v", now)
	}
	s.sql(conn, "drop tablespace elsewhere")

	target := before.UTC().Format(time.RFC3339Nano)
	plan := s.command("restore", "--plan", "--to-time", target)
	for _, want := range []string{"backup    ", "timeline 1", st.Member + "; its data are kept"} {
		if !strings.Contains(plan, want) {
			t.Errorf("plan: %s\nwant %q", plan, want)
		}
	}
	if code, _, stderr := s.run("restore", "--to-time", target); code != 2 || !strings.Contains(stderr, "nothing was done") {
		t.Errorf("without --yes: %d, %s", code, stderr)
	}
	if out := s.command("restore", "--to-time", target, "--yes"); !strings.Contains(out, "takes writes after") {
		t.Errorf("restore: %s", out)
	}
	now := s.whole("the restored cluster", st.Term+1)
	conn = s.connect(now.Member)
	if got := ask[int](s, conn, "select count(*)::int from t"); got != 2000 {
		t.Errorf("%d rows, want 2000", got)
	}
	if ask[bool](s, conn, "select exists(select from pg_class where relname = 'after')") {
		t.Error("what came after the target is there")
	}
	s.await("the data from before to go", func(*api.Status) bool { return len(s.replaced()) == 0 })
	if out := s.command("history"); !strings.Contains(out, "restored to ") {
		t.Errorf("history: %s", out)
	}
	if i := slices.IndexFunc(now.Members, func(m api.MemberStatus) bool { return m.Position.TLI != now.Members[0].Position.TLI }); i >= 0 {
		t.Errorf("members are on other timelines: %+v", now.Members)
	}

	// The restore point is on the timeline that was left, so nothing is begun that could
	// reach it; and a repository that is gone stops one that was begun.
	s.sql(conn, "insert into t values (2001)")
	s.command("backup", "check")
	away := s.Plan().RepositoryDir() + ".away"
	out := s.command("restore", "--yes", "--detach")
	if err := os.Rename(s.Plan().RepositoryDir(), away); err != nil {
		t.Fatal(err)
	}
	s.awaitAny("word of the restore", func(st *api.Status) bool { return st.Phase == ha.PhaseRestoring && len(st.Blocks) > 0 })
	if out := s.command("restore", "--give-up"); !strings.Contains(out, "given up") {
		t.Errorf("give up: %s", out)
	}
	if err := os.Rename(away, s.Plan().RepositoryDir()); err != nil {
		t.Fatal(err)
	}
	last := s.whole("the cluster as it was", now.Term+2)
	if got := ask[int](s, s.connect(last.Member), "select count(*)::int from t"); got != 2001 {
		t.Errorf("%d rows, want 2001 (%s)", got, out)
	}
	if left := s.replaced(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

var restoreKills = flag.Int("restore.kills", 4, "at how many moments of a restore TestRestoreKilled kills all of a member")

// TestRestoreKilled: the member that restores is killed, with its server and its guard; it
// goes on when it is started again, and what it restores is whole.
func TestRestoreKilled(t *testing.T) {
	s := newSaved(t)
	st := s.whole("a cluster", 1)
	conn := s.connect(st.Member)
	s.sql(conn, "create table t as select n, repeat(md5(n::text), 8) from generate_series(1, 100000) n")
	s.command("backup", "run")
	for i := range *restoreKills {
		now := s.whole("a whole cluster", st.Term)
		conn := s.connect(now.Member)
		target := ask[time.Time](s, conn, "select clock_timestamp()")
		s.sql(conn, "select pg_sleep(0.01)", "drop table t")
		state := s.host(now.Member).DataDir() + ".pgsidecar/"
		written := func(name string) string {
			content, _ := os.ReadFile(state + name) // empty: it is not there
			return string(content)
		}
		last := written("restored")
		moment := []struct {
			name string
			is   func() bool // soon; nil: the record leads
		}{
			{"begun", func() bool { return true }},
			{"half made", func() bool { return written("unfinished") != "" }},
			{"restored", func() bool { r := written("restored"); return r != last && r != "" && written("unfinished") == "" }},
			{"done", nil},
		}[i%4]
		s.command("restore", "--to-time", target.UTC().Format(time.RFC3339Nano), "--yes", "--detach")
		led := make(chan error, 1)
		go func() {
			_, err := s.WaitRecord(s.within(2*time.Minute), func(r ha.Record) bool { return r.Term > now.Term && r.Phase == ha.PhaseLeading })
			led <- err
		}()
		for tick, here := time.Tick(time.Millisecond), false; !here; {
			select {
			case err := <-led:
				if err != nil {
					t.Fatal(err)
				}
				here = true // also where the moment was missed
			case <-tick:
				here = moment.is != nil && moment.is()
			}
		}
		s.lose(now.Member)
		if r, err := s.Record(s.within(time.Minute)); err != nil {
			t.Fatal(err)
		} else {
			t.Logf("%s: killed in phase %s", moment.name, r.Phase)
		}
		if err := s.Start(s.within(time.Minute), now.Member, lab.Sidecar); err != nil {
			t.Fatal(err)
		}
		after := s.await("the restored cluster", func(st *api.Status) bool { return st.Restored != "" && st.Restored != now.Restored && st.Primary })
		if got := ask[int](s, s.connect(after.Member), "select count(*)::int from t"); got != 100000 {
			t.Errorf("%s: %d rows, want 100000", moment.name, got)
		}
		st = after
	}
}
